"""Build the index of many states ahead: `python -m similarity_server build --help`."""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from journal.errors import JournalError
from server_runtime import cli, logs
from server_runtime.errors import StartError
from similarity_server import building, snapshot
from similarity_server.artifact import read_card, read_states
from similarity_server.index import Limits, StateIndex
from similarity_server.keeper import IndexKeeper
from similarity_server.kinds import AUTO, EXACT, FLAT, KINDS, choose
from similarity_server.loading import snapshots_of
from similarity_server.main_index import MainIndex
from similarity_server.snapshot import SnapshotLock
from similarity_server.state_log import opened

_log = structlog.get_logger()
PACKAGED_INDEXES = Path(__file__).parent / "indexes"


def add_index_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which index is meant."""
    index = parser.add_argument_group("index")
    index.add_argument("--indexes", type=Path, default=PACKAGED_INDEXES, metavar="DIR",
                       help="folder of <name>/<version>/{states.npz,card.json} (default: packaged)")  # fmt: skip
    index.add_argument("--index", default="market_states", metavar="NAME",
                       help="name of the index (default: %(default)s)")  # fmt: skip
    index.add_argument(
        "--index-version", type=cli.count, default=0, metavar="N", help="its version (default: highest)"
    )
    index.add_argument("--snapshots", type=Path, metavar="DIR",
                       help="folder of its snapshots (default: snapshots/ beside its states)")  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Build a snapshot.

    Returns:
        The exit status: 0 when it is there, 2 for bad input, 1 for what the machine lacks.
    """
    parser = cli.Parser(
        prog="similarity_server build",
        description="Train the index of many states, measure its recall, and write it as a snapshot that the "
        "server starts from. With --database-url the changes kept there go in too; stop the server that writes "
        "the index first.",
    )
    add_index_options(parser)
    build = parser.add_argument_group("building")
    build.add_argument("--kind", choices=KINDS, default=AUTO,
                       help="exact, scanned codes, or inverted lists of codes (default: chosen by size)")  # fmt: skip
    build.add_argument("--nprobe", type=cli.count, default=32, metavar="N",
                       help="inverted lists that a search looks into (default: %(default)s)")  # fmt: skip
    build.add_argument("--k-factor", type=cli.count, default=16, metavar="N",
                       help="candidates per neighbour that are compared exactly (default: %(default)s)")  # fmt: skip
    build.add_argument("--threads", type=cli.count, default=1, metavar="N",
                       help="threads for training (default: %(default)s)")  # fmt: skip
    build.add_argument("--database-url", default="", metavar="URL", help="postgresql://… that keeps changes")
    args = parser.parse_args(arguments)
    logs.configure("similarity", json=False)
    try:
        path, built = _build(args)
    except StartError as e:
        return cli.report(e)
    sys.stdout.write(f"{path}: {len(built)} states, {built.kind}, recall@10 {built.recall_at_10:.4f}\n")
    return 0


def _build(args: argparse.Namespace) -> tuple[Path, MainIndex]:
    folder, card = read_card(args.indexes, args.index, args.index_version)
    snapshots = args.snapshots or snapshots_of(folder)
    lock = SnapshotLock(snapshots)
    try:
        table = read_states(folder / "states.npz", card)
        sequence, deleted, as_of_ns = 0, frozenset[int](), card.as_of_ns
        if args.database_url:
            # Changes first: then all states are trained on, measured and put in order of time.
            exact = StateIndex(card, building.build(table, EXACT), Limits(merge_at=0, kind=FLAT))
            sequence = asyncio.run(_catch_up(exact, args.database_url))
            exact.merge()
            deleted, as_of_ns = exact.deleted, exact.as_of_ns
            table = exact.main.table.rows(exact.main.alive())
        began = time.monotonic()
        try:
            kind = choose(len(table), card.dimension, args.kind, nprobe=args.nprobe, k_factor=args.k_factor)
        except ValueError as e:
            raise StartError(f"--kind: {e}", 2) from e
        main_part = building.build(table, kind, threads=args.threads)
        _log.info("index built", kind=str(kind), seconds=round(time.monotonic() - began, 1))
        path = snapshot.write(
            snapshots, card, main_part, deleted=deleted, as_of_ns=as_of_ns, sequence=sequence
        )
    except OSError as e:
        raise StartError(
            f"the snapshot cannot be written to {snapshots} ({e.strerror or e}): free space there"
        ) from e
    finally:
        lock.close()
    return path, main_part


async def _catch_up(index: StateIndex, database_url: str) -> int:
    of = index.card.provenance
    log = await opened(database_url, of.name, of.version, index.card.dimension, writes=True)
    keeper = IndexKeeper(index, log=log)
    try:
        await keeper.start()
    except JournalError as e:
        raise StartError(str(e)) from e
    finally:
        await keeper.close()
    return keeper.sequence
