"""The `tradeserve` command line."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import Sequence
from importlib import metadata

from tradeserve_cli import (
    chart,
    descriptors,
    detect,
    infer,
    models,
    output,
    read_chart,
    search,
    status,
    watch,
)
from tradeserve_cli.arguments import Parser, UsageError
from tradeserve_client.answers import Reason
from tradeserve_client.errors import CallError, ContractError, TradeserveError

NO_ANSWER = 1
WRONG_USAGE = 2
INTERRUPTED = 130
"""Exit status of shells after Ctrl-C."""


def parser() -> Parser:
    """Return the parser of every command."""
    made = Parser(
        prog="tradeserve",
        description="Ask models, search past states, draw and read charts, find patterns, look at a running strategy.",
        epilog="tradeserve COMMAND --help shows an example of each command",
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=metadata.version("tradeserve"))
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for command in (infer, search, chart, detect, read_chart, status, models, watch, descriptors):
        command.register(commands)
    return made


def completed(arguments: Sequence[str]) -> Sequence[str]:
    """Return the command line with what may be left out: `models` alone lists."""
    match list(arguments):
        case ["models"]:
            return ["models", "list"]
        case ["models", option, *rest] if option.startswith("-") and option not in ("-h", "--help"):
            return ["models", "list", option, *rest]
    return arguments


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    parsed = parser().parse_args(completed(sys.argv[1:] if arguments is None else arguments))
    as_json = bool(getattr(parsed, "json", False))
    try:
        status = parsed.run(parsed)
        if inspect.iscoroutine(status):
            status = asyncio.run(status)
        return int(status)
    except UsageError as error:
        output.complain(str(error))
        return WRONG_USAGE
    except CallError as error:
        return output.no_answer(error.service, error.reason, error.detail, as_json=as_json)
    except ContractError as error:
        mismatch = Reason.CONTRACT_MISMATCH
        return output.no_answer("contract", mismatch, str(error), as_json=as_json)
    except TradeserveError as error:  # a target or a TLS file that can't be used
        output.complain(str(error))
        return WRONG_USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output left; what is buffered has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_ANSWER
