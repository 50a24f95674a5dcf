"""Where the servers are: an option, the environment, a configuration, or the running `make run`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
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


@dataclass(frozen=True, slots=True)
class Place:
    """Where one server is.

    Attributes:
        server: Key of SERVERS.
        target: host:port or a URI; "" when nobody says.
        source: Who said so, for people.
    """

    server: str
    target: str = ""
    source: str = ""


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
    environment: Mapping[str, str] = os.environ,
) -> Mapping[str, Place]:
    """Return where each server is.

    Args:
        options: Of the command line; "" where not given.
        configured: Of the configuration file.
        environment: TRADESERVE_TRITON and so on; TRADESERVE_BUILD_DIR (default: build).
    """
    build_dir = Path(environment.get(BUILD_DIR_VARIABLE) or "build")
    stack: Mapping[str, str] | None = None
    found: dict[str, Place] = {}
    for server in SERVERS:
        variable = f"TRADESERVE_{server.upper()}"
        for target, source in (
            (options.get(server), f"--{server}"),
            (environment.get(variable), variable),
            (configured.get(server), "the configuration"),
        ):
            if target:
                found[server] = Place(server, target, source)
                break
        else:
            stack = running_stack(build_dir) if stack is None else stack
            source = "the running stack" if server in stack else ""
            found[server] = Place(server, stack.get(server, ""), source)
    return found


def how_to_name(server: str) -> str:
    """Return how a person can say where a server is."""
    ways = f"give --{server} host:port, set TRADESERVE_{server.upper()}, or name it in --config"
    if server == "vision":  # no part of the local stack
        return ways
    build_dir = os.environ.get(BUILD_DIR_VARIABLE) or "build"
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
