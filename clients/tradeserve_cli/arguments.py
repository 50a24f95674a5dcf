"""What the command lines of all commands share: a terse parser, addresses, time limits, JSON."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NoReturn, TypeAlias

from tradeserve_cli.servers import SERVERS, variable

MAX_TIMEOUT_MS = 600_000.0
MAX_CON_ID = 2**63 - 1

Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"


class UsageError(Exception):
    """The command line, or a file that it names, is wrong; the message says what to do."""


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where to look; exit 2."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def add_command(
    commands: Subparsers,
    name: str,
    *,
    summary: str,
    example: str,
    servers: Sequence[str],
    timeout_ms: float = 2000.0,
    json_fields: str = "",
) -> Parser:
    """Add a command with what all of them have.

    Args:
        commands: Of the parser above.
        name: Of the command.
        summary: One sentence.
        example: Lines for the end of --help.
        servers: Which addresses it takes: keys of SERVERS.
        timeout_ms: Default limit of each call.
        json_fields: Fields of --json, for --help.
    """
    fields = f"\n\n--json prints: {json_fields}" if json_fields else ""
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n{_indented(example)}{fields}\n\n"
        "exit status: 0 done, 1 no answer (the reason is printed), 2 wrong usage",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    where = parser.add_argument_group(
        "servers",
        "An option, else --config and its environment variables, else the running `make run`. Replicas are "
        "separated by commas.",
    )
    for server in servers:
        where.add_argument(
            f"--{server}", default="", metavar="HOST:PORT", help=f"{SERVERS[server]} ({variable(server)})"
        )
    where.add_argument(
        "--config",
        type=Path,
        default=None,
        metavar="FILE",
        help="TOML with targets, TLS and headers (TRADESERVE_CONFIG)",
    )
    where.add_argument("--tls", action="store_true", help="encrypt; trust the machine's authorities")
    where.add_argument("--tls-ca", type=Path, default=None, metavar="FILE", help="authorities to trust, PEM")
    where.add_argument(
        "--tls-certificate",
        type=Path,
        default=None,
        metavar="FILE",
        help="own certificate for mutual TLS, PEM",
    )
    where.add_argument("--tls-key", type=Path, default=None, metavar="FILE", help="its private key, PEM")
    where.add_argument(
        "--timeout-ms",
        type=number(0.1, MAX_TIMEOUT_MS),
        default=timeout_ms,
        metavar="MS",
        help="longest wait for an answer (default: %(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    return parser


def number(low: float, high: float) -> Callable[[str], float]:
    """Return a parser of numbers within bounds, both included."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
        return value

    return parse


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of whole numbers within bounds, both included."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return parse


def instant(text: str) -> int:
    """Parse ISO-8601 with a zone into nanoseconds UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no ISO-8601 time") from error
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} has no zone: add Z or an offset such as -04:00")
    return round(moment.timestamp() * 1e6) * 1000


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines())
