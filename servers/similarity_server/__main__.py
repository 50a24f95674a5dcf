"""Start the similarity server: `python -m similarity_server --help`."""

import argparse
import asyncio
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from journal.errors import JournalError
from server_runtime import cli, logs
from server_runtime.errors import StartError
from server_runtime.server import GrpcServer
from similarity_server import build_command
from similarity_server.gpu import exact_on_gpu, require_gpu
from similarity_server.index import (
    DEFAULT_MAX_ADDED,
    DEFAULT_MAX_STATES,
    DEFAULT_MERGE_AT,
    Limits,
    StateIndex,
)
from similarity_server.keeper import DEFAULT_FOLLOW_INTERVAL_S, IndexKeeper
from similarity_server.kinds import AUTO, KINDS
from similarity_server.loading import load_index, snapshots_of
from similarity_server.servicer import SERVICE_NAME, SimilarityServicer
from similarity_server.snapshot import SnapshotLock
from similarity_server.state_log import StateLog, opened
from tradeserve.similarity.v1 import similarity_service_pb2_grpc as pb_grpc

_log = structlog.get_logger()


def build_parser() -> cli.Parser:
    """Return the parser of the command line."""
    parser = cli.Parser(
        prog="similarity_server",
        description="Search past market states by embedding (tradeserve.similarity.v1). "
        "With --database-url, states that are added or deleted are kept in Postgres; without, they live in "
        "memory and are lost at exit: add them again, it is idempotent. "
        "`similarity_server build` builds the index of many states ahead, so that a start is quick.",
    )
    build_command.add_index_options(parser)
    index = parser.add_argument_group("changes and search")
    index.add_argument("--database-url", default=os.environ.get("SIMILARITY_DATABASE_URL", ""), metavar="URL",
                       help="postgresql://… that keeps changes (default: $SIMILARITY_DATABASE_URL)")  # fmt: skip
    index.add_argument("--read-only", action="store_true",
                       help="a replica: refuse changes, follow those in the database")  # fmt: skip
    index.add_argument("--max-added", type=cli.count, default=DEFAULT_MAX_ADDED, metavar="N",
                       help="most states that are added and not merged yet (default: %(default)s)")  # fmt: skip
    index.add_argument("--merge-at", type=_count_or_none, default=DEFAULT_MERGE_AT, metavar="N",
                       help="merge when so many were added; 0 for never (default: %(default)s)")  # fmt: skip
    index.add_argument("--gpu", action="store_true",
                       help="search exactly on an NVIDIA GPU where there is no filter (faiss-gpu)")  # fmt: skip
    index.add_argument("--index-kind", choices=KINDS, default=AUTO,
                       help="exact, scanned codes, or inverted lists of codes (default: chosen by size)")  # fmt: skip
    cli.add_server_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; or build a snapshot, when the first argument is `build`.

    Returns:
        The exit status: 0 after a drain, 2 for bad input, 1 for what the machine lacks, 130 when
        interrupted before it served.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["build"]:
        return build_command.main(given[1:])
    args = build_parser().parse_args(given)
    logs.configure("similarity", json=args.log_format == "json", level=args.log_level)
    try:
        options = cli.server_options(args)
        if args.read_only and not args.database_url:
            raise StartError("--read-only follows a database: give --database-url too", 2)
        if args.gpu:
            require_gpu()
        limits = Limits(args.max_added, args.merge_at, DEFAULT_MAX_STATES, args.index_kind)
        accelerate = exact_on_gpu if args.gpu else None
        index, sequence = load_index(
            args.indexes, args.index, args.index_version, limits, args.snapshots, accelerate
        )
        snapshots = _snapshots(args, index) if args.database_url and not args.read_only else None
        lock = SnapshotLock(snapshots) if snapshots is not None else None
        try:
            asyncio.run(_serve(args, GrpcServer(options), index, sequence, snapshots))
        finally:
            if lock is not None:
                lock.close()
    except StartError as e:
        return cli.report(e)
    except KeyboardInterrupt:
        return 130  # while the index was loading: nothing was served yet
    return 0


async def _serve(
    args: argparse.Namespace, server: GrpcServer, index: StateIndex, sequence: int, snapshots: Path | None
) -> None:
    name, version = index.card.provenance.name, index.card.provenance.version
    log: StateLog | None = None
    if args.database_url:
        log = await opened(args.database_url, name, version, index.card.dimension, writes=not args.read_only)
    keeper = IndexKeeper(
        index, log=log, sequence=sequence, snapshots=snapshots, follow_interval_s=DEFAULT_FOLLOW_INTERVAL_S
    )
    try:
        try:
            await keeper.start()
        except JournalError as e:
            raise StartError(str(e)) from e
        servicer = SimilarityServicer(keeper, server.metrics, server.turns)
        server.add_service(
            SERVICE_NAME, lambda target: pb_grpc.add_SimilarityServiceServicer_to_server(servicer, target)
        )
        facts: dict[str, object] = {
            "name": name,
            "version": version,
            "state_count": len(index),
            "dimension": index.card.dimension,
        }
        kept = f"kept at {log.where}" if log is not None else "in memory only, not durable"
        _log.info("index loaded", **facts, kind=str(index.main.kind), changes=kept)
        # The table of states is never garbage; scanning it would stall searches for milliseconds.
        gc.collect()
        gc.freeze()
        await server.serve({"index": facts})
    finally:
        await keeper.close()


def _snapshots(args: argparse.Namespace, index: StateIndex) -> Path:
    of = index.card.provenance
    folder: Path = args.snapshots or snapshots_of(args.indexes / of.name / str(of.version))
    return folder


def _count_or_none(text: str) -> int:
    return 0 if text == "0" else cli.count(text)


if __name__ == "__main__":
    sys.exit(main())
