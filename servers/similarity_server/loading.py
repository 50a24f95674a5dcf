"""Make an index ready to serve: from its newest snapshot, or built from its states now."""

import time
from collections.abc import Callable
from pathlib import Path

import faiss
import structlog

from server_runtime.errors import StartError
from similarity_server import building, snapshot
from similarity_server.artifact import read_card, read_states
from similarity_server.index import Limits, StateIndex
from similarity_server.kinds import AUTO, choose
from similarity_server.main_index import MainIndex

_log = structlog.get_logger()


def snapshots_of(version_folder: Path) -> Path:
    """Return where the snapshots of an index lie when no other folder is named."""
    return version_folder / "snapshots"


def load_index(
    indexes: Path,
    name: str,
    version: int = 0,
    limits: Limits | None = None,
    snapshots: Path | None = None,
    accelerate: Callable[[MainIndex], faiss.Index] | None = None,
) -> tuple[StateIndex, int]:
    """Load one index from disk.

    Args:
        indexes: Folder of all indexes.
        name: Name of the index.
        version: Its version; 0 takes the highest.
        limits: What it may hold, and how it is searched.
        snapshots: Folder of its snapshots; beside its states when None.
        accelerate: Makes what searches a main part faster and exactly, such as a GPU.

    Returns:
        The index, and the last change in the database that it has (0 for none).

    Raises:
        StartError: It is missing, damaged, or does not match its card.
    """
    limits = limits or Limits()
    folder, card = read_card(indexes, name, version)
    found = snapshot.read_latest(snapshots or snapshots_of(folder), card)
    if found is not None:
        index = StateIndex(
            card,
            found.main,
            limits,
            store=found.store,
            deleted=found.deleted.tolist(),
            as_of_ns=found.as_of_ns,
            accelerate=accelerate,
        )
        _refuse_another_kind(index)
        return index, found.sequence
    table = read_states(folder / "states.npz", card)
    try:
        kind = choose(len(table), card.dimension, limits.kind)
    except ValueError as e:
        raise StartError(f"--index-kind: {e}", 2) from e
    if not kind.exact:
        _log.warning(
            "no snapshot: building the index at start; run `python -m similarity_server build` once",
            states=len(table), kind=str(kind),
        )  # fmt: skip
    began = time.monotonic()
    main = building.build(table, kind)
    if not kind.exact:
        _log.info(
            "index built",
            recall_at_10=round(main.recall_at_10, 4),
            seconds=round(time.monotonic() - began, 1),
        )
    return StateIndex(card, main, limits, accelerate=accelerate), 0


def _refuse_another_kind(index: StateIndex) -> None:
    if index.limits.kind == AUTO:
        return
    wanted = choose(len(index.main.table), index.card.dimension, index.limits.kind)
    if wanted.codes != index.main.kind.codes:
        raise StartError(
            f"--index-kind {index.limits.kind} is asked for, but the snapshot is {index.main.kind}: "
            "leave the option out, or build it again with `python -m similarity_server build`", 2
        )  # fmt: skip
