"""Where the servers are: an option, the client's configuration, or the running `make run`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVERS: Mapping[str, str] = {
    "triton": "Triton, which serves the models",
    "similarity": "the similarity server",
    "strategy": "the control service of a running strategy",
    "vision": "the chart reading service",
}

BUILD_DIR_VARIABLE = "TRADESERVE_BUILD_DIR"
DEFAULT_BUILD_DIR = "build"
STACK = "the running stack"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one server is.

    Attributes:
        server: Key of SERVERS.
        target: host:port or unix:path, replicas separated by commas; "" when nobody says.
        source: Who said so, for people.
    """

    server: str
    target: str = ""
    source: str = ""

    @property
    def from_stack(self) -> bool:
        """Whether it was found running here."""
        return self.source == STACK

    @property
    def replicas(self) -> Sequence[Place]:
        """One place for each address."""
        addresses = (address.strip() for address in self.target.split(","))
        return tuple(Place(self.server, address, self.source) for address in addresses if address)


def running_stack(build_dir: Path) -> Mapping[str, str]:
    """Return the addresses of the newest local stack that runs: server -> host:port; empty for none.

    Args:
        build_dir: What `make run` builds into; it keeps `runs/<run>/addresses.json` while it runs.
    """
    for path in sorted(build_dir.glob("runs/*/addresses.json"), reverse=True):
        found = _read(path)
        if found is None:
            continue
        strategy = _read(path.with_name("strategy.ready.json"))
        addresses = {name: str(found.get(name) or "") for name in ("triton", "similarity")}
        addresses["strategy"] = str(strategy["address"]) if strategy else ""
        return {name: address for name, address in addresses.items() if address}
    return {}


def places(
    options: Mapping[str, str],
    *,
    configured: Mapping[str, str],
    environment: Mapping[str, str],
) -> Mapping[str, Place]:
    """Return where each server is.

    Args:
        options: Of the command line; "" where not given.
        configured: Of the client's configuration, a file or the environment.
        environment: For TRADESERVE_BUILD_DIR (default: build), where a running stack is looked for.
    """
    stack = running_stack(Path(environment.get(BUILD_DIR_VARIABLE) or DEFAULT_BUILD_DIR))
    found: dict[str, Place] = {}
    for server in SERVERS:
        said = (
            (options.get(server), f"--{server}"),
            (configured.get(server), "the configuration"),
            (stack.get(server), STACK),
        )
        target, source = next(((target, source) for target, source in said if target), ("", ""))
        found[server] = Place(server, target or "", source)
    return found


def variable(server: str) -> str:
    """Return the environment variable that names a server."""
    return f"TRADESERVE_CLIENT__{server.upper()}__TARGET"


def how_to_name(server: str) -> str:
    """Return how a person can say where a server is."""
    ways = f"give --{server} host:port, set {variable(server)}, or name it in --config FILE"
    if server == "vision":  # not in every local stack
        ways = f"`make venv-vllm` once for it, {ways}"
    build_dir = os.environ.get(BUILD_DIR_VARIABLE) or DEFAULT_BUILD_DIR
    return (
        f"start `make run` (its addresses are looked for in {build_dir}/runs; {BUILD_DIR_VARIABLE} names "
        f"another folder), {ways}"
    )


def _read(path: Path) -> Mapping[str, Any] | None:
    """Return the content of a file whose writer still runs, else None."""
    try:
        content = json.loads(path.read_text())
        os.kill(int(content["pid"]), 0)
    except PermissionError:  # it runs, under another user
        return dict(content)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(content)
