"""Which processes a run needs, and how each is called."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local_stack.process import Service, StackError
from triton_server.launcher import unavailable_reason
from vision_server.installation import is_installed

DEFAULT_BUILD_DIR = Path("build")
OTHER_SWITCHES = "SIMILARITY=host:port, GATEWAY=host:port, DATABASE_URL=postgresql://…"
ON, OFF = "on", "off"
# Readings are off the order path; what is on it goes first on a machine of few processors.
_VISION_NICENESS = 10


@dataclass(frozen=True, slots=True)
class Options:
    """What the user chose.

    Attributes:
        session: "generated", "sample" or a file of recorded bars.
        speed: Simulated seconds per second; None for one bar a second.
        symbols: Empty for the session's own.
        seed: Of the generated market.
        gateway: host:port of a real IB Gateway; "" for the simulator.
        triton: host:port of a Triton that runs elsewhere, or of several; "" for a local one.
        similarity: host:port of a similarity server that runs elsewhere, or of several; "" for a local one.
        vision: host:port of a vision server that runs elsewhere, "on" or "off" for a local one; "" for a local
            one where its environment was built.
        database_url: Of a real Postgres; "" for the embedded one.
        config: Strategy configuration on top of the defaults; None for the defaults alone.
        build_dir: Where runs, logs and the embedded database go.
        model_repository: What Triton loads.
        triton_venv: Triton's environment; None for the one in build_dir.
        vllm_venv: vLLM's environment; None for the one in build_dir.
        gateway_arguments: Handed to the simulator as they are.
        strategy_arguments: Handed to the strategy as they are.
    """

    session: str = "generated"
    speed: float | None = None
    symbols: tuple[str, ...] = ()
    seed: int = 7
    gateway: str = ""
    triton: str = ""
    similarity: str = ""
    vision: str = ""
    database_url: str = ""
    config: Path | None = None
    build_dir: Path = DEFAULT_BUILD_DIR
    model_repository: Path = Path("model_repository")
    triton_venv: Path | None = None
    vllm_venv: Path | None = None
    gateway_arguments: tuple[str, ...] = ()
    strategy_arguments: tuple[str, ...] = field(default=())


def _on_same_port(command: Sequence[str], flag: str = "--port", key: str = "address") -> Any:
    """Return a restart command that asks for the port of the first start."""

    def restart(ready: Mapping[str, Any]) -> Sequence[str]:
        port = str(ready[key]).rsplit(":", 1)[1]
        again = list(command)
        again[again.index(flag) + 1] = port
        return again

    return restart


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def postgres(options: Options, folder: Path) -> Service:
    """Return the embedded Postgres; its data outlive the run."""
    command = _python("journal", "serve", "--port", "0")
    if options.build_dir != DEFAULT_BUILD_DIR:  # else it chooses a folder that its user can reach
        command += ["--data-dir", str(options.build_dir.resolve() / "postgres")]
    return Service("postgres", command, folder, restart_command=_on_same_port(command), start_timeout_s=90)


def triton(options: Options, folder: Path) -> Service:
    """Return the local Triton.

    Raises:
        StackError: It can't run on this machine; the message names the switches that help.
    """
    reason = unavailable_reason()
    if reason:
        raise StackError(f"{reason}; the rest can run elsewhere too: {OTHER_SWITCHES}")
    command = _python(
        "triton_server",
        "--model-repository",
        str(options.model_repository.resolve()),
        "--venv",
        str((options.triton_venv or options.build_dir / "venv-triton").resolve()),
        "--grpc-port",
        "0",
    )
    return Service(
        "triton", command, folder, restart_command=_on_same_port(command, "--grpc-port"), start_timeout_s=120
    )


def similarity(folder: Path) -> Service:
    """Return the local similarity server on the index that ships with it."""
    command = _python("similarity_server", "--port", "0")
    return Service("similarity", command, folder, restart_command=_on_same_port(command))


def starts_vision(options: Options) -> bool:
    """Return whether a local vision server belongs to the run."""
    return options.vision == ON or (not options.vision and is_installed(_vllm_venv(options)))


def vision(options: Options, folder: Path) -> Service:
    """Return the local vision server, on a port that is known before it is healthy.

    Raises:
        StackError: Its environment is missing.
    """
    venv = _vllm_venv(options)
    if not is_installed(venv):
        raise StackError(
            f"no environment of vLLM in {venv}: run `make venv-vllm` (2.5 GB), or VISION=off, or VISION=host:port"
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = _python("vision_server", "--port", str(port), "--venv", str(venv.resolve()))
    command += ["--nice", str(_VISION_NICENESS)]
    return Service(
        "vision", command, folder, start_timeout_s=180, restart_command=lambda _: command,
        ready={"address": f"127.0.0.1:{port}"},
    )  # fmt: skip


def _vllm_venv(options: Options) -> Path:
    return options.vllm_venv or options.build_dir / "venv-vllm"


def gateway(options: Options, folder: Path) -> Service:
    """Return the simulated IB Gateway."""
    command = _python(
        "gateway_simulator",
        "--session",
        options.session,
        "--seed",
        str(options.seed),
        "--port",
        "0",
        "--state-file",
        str(folder / "gateway.state.json"),
        *(("--speed", str(options.speed)) if options.speed else ()),
        *(("--symbols", ",".join(options.symbols)) if options.symbols else ()),
        *options.gateway_arguments,
    )
    return Service("gateway", command, folder, restart_command=_on_same_port(command), start_timeout_s=90)


def strategy(
    options: Options, addresses: Mapping[str, str], session: Mapping[str, Any] | None, folder: Path
) -> list[str]:
    """Return the strategy's command.

    Args:
        options: What the user chose.
        addresses: gateway, triton, similarity, vision -> host:port; no vision, or "": it is off.
        session: The simulator's description of the session; None on a real gateway.
        folder: Of this run.
    """
    host, port = addresses["gateway"].rsplit(":", 1)
    settings = {
        "gateway.host": host,
        "gateway.port": port,
        "services.triton.target": addresses["triton"],
        "services.similarity.target": addresses["similarity"],
    }
    if addresses.get("vision"):
        settings["services.vision.target"] = addresses["vision"]
    command = _python(
        "strategy",
        "run",
        "--state-dir",
        str(options.build_dir / "state"),
        "--log-file",
        str(folder / "strategy.log"),
        "--ready-file",
        str(folder / "strategy.ready.json"),
    )
    look = 'make psql SQL="{sql}"'  # starts the embedded Postgres again
    if options.build_dir != DEFAULT_BUILD_DIR:  # else the configuration's word counts
        look = f'python -m journal psql --data-dir {options.build_dir}/postgres -- -c "{{sql}}"'
        settings["journal.spool_dir"] = str(options.build_dir / "spool")
        settings["control.kill_file"] = str(options.build_dir / "KILL")
    if not options.database_url:
        command += ["--look", look]
    if options.config is not None:
        command += ["--config", str(options.config)]
    symbols = options.symbols
    if session is not None:
        symbols = tuple(session["symbols"])
        settings["strategy.bar_size_s"] = str(session["bar_size_s"])
        command += ["--data-source", str(session["source"]), "--until-ns", str(session["end_ns"])]
        if session.get("seed") is not None:
            command += ["--seed", str(session["seed"])]
    if symbols:
        settings["strategy.symbols"] = ",".join(symbols)
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    return [*command, *options.strategy_arguments]


def strategy_environment(database_url: str) -> dict[str, str]:
    """Return the environment of the strategy: the database's password stays off the command line."""
    return {**os.environ, "DATABASE_URL": database_url}
