"""Built indexes on disk: `<version folder>/snapshots/<sequence>-<time>/`, immutable once there.

A snapshot is written beside the states it was built from under a temporary name, flushed to the
disk, and renamed; so one that is there is whole. Its manifest.json carries the SHA-256 of every
file: FAISS would crash on a damaged one. The newest that was built from the same states is used.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import faiss
import numpy as np
import structlog
from numpy.typing import NDArray

from server_runtime.errors import StartError
from similarity_server.artifact import IndexCard
from similarity_server.filters import Groups
from similarity_server.kinds import IndexKind
from similarity_server.main_index import MainIndex
from similarity_server.states import COLUMNS, GrowingTable, StateTable, columns_of, empty_columns, room_for

_log = structlog.get_logger()

FORMAT = 1
_CHUNK = 8 * 1024 * 1024
_KEPT = 2
_EMBEDDING, _COLUMNS, _CODES, _MANIFEST = "embedding.f32", "columns.npz", "index.faiss", "manifest.json"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was read back.

    Attributes:
        main: The built index.
        store: Its table, with room to grow.
        deleted: Ids that were deleted before it was written.
        as_of_ns: Latest event in it, nanoseconds UTC.
        sequence: Last change in the database that it has; 0 for none.
    """

    main: MainIndex
    store: GrowingTable
    deleted: NDArray[np.int64]
    as_of_ns: int
    sequence: int


class SnapshotLock:
    """Keeps other processes from writing into one folder of snapshots, as long as it is open."""

    def __init__(self, folder: Path) -> None:
        """Take the lock.

        Raises:
            StartError: The folder cannot be written, or another process has the lock.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = (folder / ".lock").open("ab")
        except OSError as e:
            raise StartError(
                f"snapshots cannot be written to {folder} ({e.strerror or e}): choose another folder with --snapshots",
                2,
            ) from e
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            self._file.close()
            raise StartError(
                f"another process writes the index in {folder}: stop it, start this one with --read-only, "
                "or give it another folder with --snapshots"
            ) from e

    def close(self) -> None:
        """Give the lock back."""
        self._file.close()


def write(
    folder: Path,
    card: IndexCard,
    main: MainIndex,
    *,
    deleted: frozenset[int] = frozenset(),
    as_of_ns: int = 0,
    sequence: int = 0,
) -> Path:
    """Write a snapshot, and remove all but the two newest.

    Args:
        folder: Of all snapshots of the index; the caller has its lock.
        card: What the index is.
        main: What to write.
        deleted: Ids that were deleted.
        as_of_ns: Latest event in it.
        sequence: Last change in the database that it has.

    Returns:
        Its folder.

    Raises:
        OSError: The disk is full or broken; nothing is left of it.
    """
    name = f"{sequence:015d}-{time.time_ns():020d}"
    for leftover in folder.glob(".*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)  # of a process that was killed
    partial = folder / f".{name}.partial"
    partial.mkdir(parents=True)
    try:
        table = main.table
        columns = {name: column for name, column in columns_of(table).items() if name != "embedding"}
        ids = np.fromiter(sorted(deleted), np.int64, len(deleted))
        symbols = np.array(table.symbols, dtype=np.str_)
        files: dict[str, Callable[[Any], object]] = {
            _EMBEDDING: lambda file: file.write(_bytes_of(table.embedding)),
            _COLUMNS: lambda file: np.savez(
                file, allow_pickle=False, deleted=ids, symbols=symbols, **columns
            ),
        }
        if not main.kind.exact:
            codes = faiss.serialize_index(main.codes)
            files[_CODES] = lambda file: file.write(_bytes_of(codes))
        digests = {name: _write_file(partial / name, content) for name, content in files.items()}
        manifest = {
            "format": FORMAT,
            "name": card.provenance.name,
            "version": card.provenance.version,
            "artifact_sha256": card.provenance.artifact_sha256.hex(),
            "dimension": table.dimension,
            "row_count": len(table),
            "kind": {
                "lists": main.kind.lists,
                "subquantizers": main.kind.subquantizers,
                "nprobe": main.kind.nprobe,
                "k_factor": main.kind.k_factor,
            },
            "recall_at_10": main.recall_at_10,
            "recall_queries": main.recall_queries,
            "as_of_ns": max(as_of_ns, card.as_of_ns),
            "sequence": sequence,
            "files": digests,
        }
        _write_file(partial / _MANIFEST, lambda file: file.write(json.dumps(manifest, indent=2).encode()))
        _sync(partial)
        final = partial.rename(folder / name)
        _sync(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in _complete(folder)[_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def read_latest(folder: Path, card: IndexCard) -> Snapshot | None:
    """Read the newest snapshot that was built from the states that a card describes.

    Args:
        folder: Of all snapshots of the index; it need not exist.
        card: What the index is.

    Returns:
        None when there is none.

    Raises:
        StartError: The newest is damaged; the message names it.
    """
    for one in _complete(folder):
        manifest = _read_manifest(one)
        if manifest.get("artifact_sha256") == card.provenance.artifact_sha256.hex():
            return _read(one, manifest, card)
        _log.warning("snapshot is of other states: not used", snapshot=str(one))
    return None


def _complete(folder: Path) -> list[Path]:
    """Return the snapshots in a folder, newest first."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if p.is_dir() and p.name[0] != "."), reverse=True)


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
    except (OSError, ValueError) as e:
        raise _damaged(folder, str(e)) from e
    return manifest


def _read(folder: Path, manifest: dict[str, Any], card: IndexCard) -> Snapshot:
    try:
        count, dimension = int(manifest["row_count"]), int(manifest["dimension"])
        if dimension != card.dimension:
            raise ValueError(f"its dimension is {dimension}, the card says {card.dimension}")
        kind = IndexKind(**{key: int(value) for key, value in manifest["kind"].items()})
        files: dict[str, str] = manifest["files"]
        columns = empty_columns(count + room_for(count), dimension)
        embedding = columns["embedding"][:count]
        _read_checked(folder / _EMBEDDING, files[_EMBEDDING], _bytes_of(embedding))
        _check(folder / _COLUMNS, files[_COLUMNS])
        with np.load(folder / _COLUMNS, allow_pickle=False) as archive:
            for name in COLUMNS.keys() - {"embedding"}:
                columns[name][:count] = archive[name]
            symbols, deleted = archive["symbols"].tolist(), archive["deleted"]
        store = GrowingTable(columns, count, symbols)
        table = store.table()
        main = MainIndex(
            table,
            kind,
            _read_codes(folder, files, table, kind),
            Groups.of(table),
            float(manifest["recall_at_10"]),
            int(manifest["recall_queries"]),
        )
        for state_id in deleted.tolist():
            main.delete(state_id)
        return Snapshot(main, store, deleted, int(manifest["as_of_ns"]), int(manifest["sequence"]))
    except OSError as e:
        raise _damaged(folder, e.strerror or str(e)) from e
    except (KeyError, TypeError, ValueError, EOFError) as e:
        raise _damaged(folder, f"{type(e).__name__}: {e}") from e


def _read_codes(folder: Path, files: dict[str, str], table: StateTable, kind: IndexKind) -> faiss.Index:
    if kind.exact:
        flat = faiss.IndexFlatIP(table.dimension)
        flat.add(table.embedding)
        return flat
    _check(folder / _CODES, files[_CODES])
    codes = faiss.read_index(str(folder / _CODES))
    if (codes.ntotal, codes.d) != (len(table), table.dimension):
        raise ValueError(f"{_CODES} holds {codes.ntotal} states of dimension {codes.d}")
    return codes


def _damaged(folder: Path, why: str) -> StartError:
    return StartError(
        f"snapshot {folder} is damaged ({why}): remove the folder, and build it again with "
        "`python -m similarity_server build`",
        2,
    )


class _Hashing:
    """A file that is written once from its start to its end, and hashed on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        for first in range(0, len(view), _CHUNK):
            self._sha256.update(view[first : first + _CHUNK])
            self._file.write(view[first : first + _CHUNK])
        return len(view)

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()

    # np.savez asks for these; without seek it writes an archive front to back.
    def flush(self) -> None:
        self._file.flush()

    def read(self, size: int = -1) -> bytes:
        raise OSError(f"not open for reading ({size})")


def _write_file(path: Path, content: Callable[[Any], object]) -> str:
    with path.open("wb") as file:
        hashing = _Hashing(file)
        content(hashing)
        file.flush()
        os.fsync(file.fileno())
    return hashing.hexdigest()


def _read_checked(path: Path, sha256: str, into: memoryview) -> None:
    """Read a file of known length into memory, and compare its hash on the way."""
    digest = hashlib.sha256()
    at = 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(into[at : at + _CHUNK]):
            digest.update(into[at : at + count])
            at += count
        if at != len(into) or file.read(1):
            raise ValueError(f"{path.name} has the wrong length")
    if digest.hexdigest() != sha256:
        raise ValueError(f"{path.name} has another sha256 than the manifest says")


def _check(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise ValueError(f"{path.name} has another sha256 than the manifest says")


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
