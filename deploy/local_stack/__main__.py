"""Command line of the local stack; `make run` calls it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import NoReturn

from local_stack import stack
from local_stack.plan import OFF, ON, Options
from local_stack.process import StackError


def _host_port(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if text and not (colon and host and port.isdigit() and 0 < int(port) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not host:port")
    return text


def _host_ports(text: str) -> str:
    """Check one or several, separated by commas."""
    return ",".join(_host_port(part.strip()) for part in text.split(","))


def _vision(text: str) -> str:
    return text if text in (ON, OFF) else _host_port(text)


def _speed(text: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from e
    if not 0.1 <= value <= 100_000:
        raise argparse.ArgumentTypeError(f"{text} is outside 0.1 to 100000")
    return value


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where to look; exit 2."""
        self.exit(2, f"error: {message}; see python -m {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="local_stack",
        allow_abbrev=False,  # what it does not know is the simulator's
        description="Start Postgres, Triton, the similarity server, the IB Gateway simulator and, where vLLM is "
        "installed, the vision server on this machine, "
        "trade one session on paper, print a report, and stop everything. Options that are not "
        "listed here go to the simulator: see python -m gateway_simulator --help. With make: ARGS='…'.",
    )
    parser.add_argument(
        "--session", default="generated", help="generated, sample, or a file of bars (docs/session_format.md)"
    )
    parser.add_argument(
        "--speed", type=_speed, default=None, help="simulated seconds per second (default: a bar a second)"
    )
    parser.add_argument("--symbols", default="", help="comma-separated; default: the session's own")
    parser.add_argument("--seed", type=int, default=7, help="of the generated market (default 7)")
    parser.add_argument(
        "--gateway", type=_host_port, default="", help="host:port of a real IB Gateway in paper mode"
    )
    parser.add_argument(
        "--triton",
        type=_host_ports,
        default="",
        help="host:port of a Triton that runs elsewhere; replicas after commas",
    )
    parser.add_argument(
        "--similarity",
        type=_host_ports,
        default="",
        help="host:port of a similarity server elsewhere; replicas after commas",
    )
    parser.add_argument(
        "--vision",
        type=_vision,
        default="",
        help="on, off, or host:port of a vision server elsewhere (default: on where `make venv-vllm` was run)",
    )
    parser.add_argument(
        "--config", type=Path, default=None, help="strategy configuration on top of the defaults (TOML)"
    )
    parser.add_argument(
        "--build-dir", type=Path, default=Path("build"), help="where runs, logs and the database go"
    )
    parser.add_argument(
        "--model-repository", type=Path, default=Path("model_repository"), help="what Triton loads"
    )
    parser.add_argument(
        "--triton-venv", type=Path, default=None, help="Triton's environment (default: venv-triton in there)"
    )
    parser.add_argument(
        "--vllm-venv", type=Path, default=None, help="vLLM's environment (default: venv-vllm in there)"
    )
    parser.add_argument(
        "--strategy-arg", action="append", default=[], help="handed to the strategy; repeatable"
    )
    return parser


def _say(line: str) -> None:
    """Print a line at once; a closed pipe or a full disk must not end the session."""
    with contextlib.suppress(OSError):
        print(f"{line}\n", end="", flush=True)  # one write: the strategy writes to the same terminal


def main() -> int:
    """Run; return the exit status."""
    parser = _parser()
    arguments, for_simulator = parser.parse_known_args()
    if for_simulator and arguments.gateway:
        parser.error(f"{for_simulator[0]} is unknown, and there is no simulator that may know it")
    options = Options(
        session=arguments.session,
        speed=arguments.speed,
        symbols=tuple(symbol.strip() for symbol in arguments.symbols.split(",") if symbol.strip()),
        seed=arguments.seed,
        gateway=arguments.gateway,
        triton=arguments.triton,
        similarity=arguments.similarity,
        vision=arguments.vision,
        database_url=os.environ.get("DATABASE_URL", ""),
        config=arguments.config,
        build_dir=arguments.build_dir,
        model_repository=arguments.model_repository,
        triton_venv=arguments.triton_venv,
        vllm_venv=arguments.vllm_venv,
        gateway_arguments=tuple(for_simulator),
        strategy_arguments=tuple(arguments.strategy_arg),
    )
    try:
        return asyncio.run(stack.run(options, _say))
    except KeyboardInterrupt:  # before the handlers were there, so before anything was started
        return stack.INTERRUPTED
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
