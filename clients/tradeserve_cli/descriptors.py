"""`tradeserve descriptors`: the APIs as a file that other languages generate clients from."""

from __future__ import annotations

import argparse
from pathlib import Path

from tradeserve_cli import output
from tradeserve_cli.arguments import Subparsers, UsageError
from tradeserve_client.descriptors import descriptor_set

_SUMMARY = "Write the servers' APIs (KServe v2 and ours) as one protobuf descriptor set."


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "descriptors",
        help=_SUMMARY,
        description=_SUMMARY,
        epilog="example:\n  tradeserve descriptors apis.binpb\n"
        "  protoc --descriptor_set_in=apis.binpb --java_out=generated grpc_service.proto",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="where to write it")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    content = descriptor_set()
    try:
        arguments.file.write_bytes(content)
    except OSError as error:
        raise UsageError(f"{arguments.file}: can't be written: {error.strerror or error}") from error
    output.line(f"{arguments.file}: {len(content)} bytes")
    return 0
