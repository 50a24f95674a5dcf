"""The local spool: rows on this machine's disk until Postgres has them.

Each writer has a folder of its own, locked while it lives: `run.json` (the run its rows belong to)
and segment files. `durable-*` files are synced record by record and hold what must not be lost
(order intents); `spool-*` files hold batches that Postgres could not take. A file goes when Postgres
has everything in it. Folders of dead writers are adopted by the next one.

Methods block on the disk: call them in a thread, never on the event loop.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson

from journal.batches import Batch
from journal.codec import dump_json, plain
from journal.errors import SettingsError, SpoolError
from journal.segments import SegmentFile, read_segment

SEGMENT_BYTES = 8 * 1024 * 1024


class SpoolFullError(SpoolError):
    """The spool has reached its limit."""


@dataclass(slots=True)
class _Segment:
    path: Path
    file: SegmentFile | None
    waiting: set[UUID] = field(default_factory=set)  # only here
    live: set[UUID] = field(default_factory=set)  # here and on its way to Postgres


class Spool:
    """The folder of one writer."""

    def __init__(self, root: Path, run_document: dict[str, Any], limit_bytes: int) -> None:
        """Make and lock the writer's folder under `root`.

        Raises:
            SettingsError: The folder cannot be made or written.
        """
        self.root = root
        self.writer_id = os.urandom(8)
        self.folder = root / self.writer_id.hex()
        self._limit_bytes = limit_bytes
        self._count = 0
        self._lock = threading.Lock()
        self._file_locks = {"durable": threading.Lock(), "spool": threading.Lock()}
        self._active: dict[str, _Segment] = {}
        self._segments: dict[Path, _Segment] = {}
        self._where: dict[UUID, _Segment] = {}
        self._rows: dict[UUID, tuple[str, int]] = {}
        self._bytes = 0
        try:
            root.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700)
            lock_fd = _lock(self.folder)
            assert lock_fd is not None, "a new folder is not locked by anyone"
            self._lock_fd = lock_fd
            write_atomically(self.folder / "run.json", dump_json(plain(run_document)))
        except OSError as error:
            raise SettingsError(
                f"the spool folder {root} cannot be written ({error.strerror or error}): "
                "free space, or choose another folder"
            ) from error

    @property
    def size_bytes(self) -> int:
        """Size of this writer's files."""
        return self._bytes

    @property
    def has_waiting(self) -> bool:
        """Whether some batches are only in the spool."""
        with self._lock:
            return any(segment.waiting for segment in self._segments.values())

    def waiting_rows(self) -> Counter[str]:
        """Return rows per table that are only in the spool."""
        with self._lock:
            counts: Counter[str] = Counter()
            for segment in self._segments.values():
                for batch_id in segment.waiting:
                    table, rows = self._rows[batch_id]
                    counts[table] += rows
            return counts

    def append(self, batch: Batch, *, durable: bool, may_be_refused: bool = False) -> None:
        """Write a batch; with `durable`, return when the disk has it.

        A durable batch is expected to be on its way to Postgres too, until `orphan_all`.

        Raises:
            SpoolFullError: The limit is reached and the batch may be refused.
            SpoolError: The disk did not take it.
        """
        if may_be_refused and self._bytes >= self._limit_bytes:
            raise SpoolFullError(f"the spool {self.root} has reached its limit of {self._limit_bytes} bytes")
        kind = "durable" if durable else "spool"
        with self._file_locks[kind]:
            segment = self._writable(kind)
            assert segment.file is not None
            before = segment.file.size_bytes
            try:
                segment.file.append(batch.to_record(), durable=durable)
            finally:
                with self._lock:
                    self._bytes += segment.file.size_bytes - before
            with self._lock:
                (segment.live if durable else segment.waiting).add(batch.batch_id)
                self._where[batch.batch_id] = segment
                self._rows[batch.batch_id] = (batch.table, batch.row_count)

    def confirm(self, batch_ids: Iterable[UUID]) -> None:
        """Forget batches that Postgres has; files without any other go."""
        emptied: list[_Segment] = []
        with self._lock:
            for batch_id in batch_ids:
                segment = self._where.pop(batch_id, None)
                if segment is None:
                    continue
                self._rows.pop(batch_id, None)
                segment.waiting.discard(batch_id)
                segment.live.discard(batch_id)
                if segment.file is None and not segment.waiting and not segment.live:
                    emptied.append(segment)
        for segment in emptied:
            self._remove(segment)

    def orphan_all(self) -> None:
        """Postgres is away: what was on its way to it is now only here."""
        with self._lock:
            for segment in self._segments.values():
                segment.waiting |= segment.live
                segment.live.clear()

    def backlog(self) -> list[Path]:
        """Close the files that hold batches only the spool has; return them, oldest first."""
        for kind, lock in self._file_locks.items():
            with lock:
                segment = self._active.get(kind)
                if segment is not None and segment.waiting:
                    self._seal(kind)
        with self._lock:
            return [
                segment.path
                for segment in self._segments.values()
                if segment.file is None and segment.waiting
            ]

    def read(self, path: Path) -> list[Batch]:
        """Return the batches of a file that Postgres does not have yet.

        Raises:
            SpoolError: The file cannot be read.
        """
        found = read_batches(path).batches
        with self._lock:
            waiting = self._segments[path].waiting
            return [batch for batch in found if batch.batch_id in waiting]

    def forget_file(self, path: Path) -> None:
        """Postgres has what could be read of a file: drop it; what the disk lost is kept as *.damaged."""
        with self._lock:
            segment = self._segments.get(path)
            if segment is None:  # every batch was confirmed
                return
            for batch_id in segment.waiting | segment.live:
                self._where.pop(batch_id, None)
                self._rows.pop(batch_id, None)
            self._segments.pop(path)
            self._bytes -= path.stat().st_size
        path.rename(path.with_suffix(".damaged"))

    def close(self) -> int:
        """Close everything; remove the folder when nothing is left in it.

        Returns:
            Rows that stay, for the next writer to replay.
        """
        self.orphan_all()
        for kind, lock in self._file_locks.items():
            with lock:
                self._seal(kind)
        with self._lock:
            empty = [segment for segment in self._segments.values() if not segment.waiting]
        for segment in empty:
            self._remove(segment)
        left = sum(self.waiting_rows().values())
        if not left:
            remove_folder(self.folder)
        os.close(self._lock_fd)
        return left

    def _writable(self, kind: str) -> _Segment:
        segment = self._active.get(kind)
        if segment is not None and segment.file is not None:
            if segment.file.size_bytes < SEGMENT_BYTES and not segment.file.broken:
                return segment
            self._seal(kind)
        self._count += 1
        path = self.folder / f"{kind}-{self._count:06d}.seg"
        segment = _Segment(path, SegmentFile(path))
        assert segment.file is not None
        with self._lock:
            self._bytes += segment.file.size_bytes
            self._active[kind] = self._segments[path] = segment
        return segment

    def _seal(self, kind: str) -> None:
        segment = self._active.pop(kind, None)
        if segment is None or segment.file is None:
            return
        segment.file.close()
        with self._lock:
            segment.file = None
            empty = not segment.waiting and not segment.live
        if empty:
            self._remove(segment)

    def _remove(self, segment: _Segment) -> None:
        with self._lock:
            if self._segments.pop(segment.path, None) is None:
                return
        size = segment.path.stat().st_size
        segment.path.unlink()
        with self._lock:
            self._bytes -= size


@dataclass(frozen=True, slots=True)
class SegmentBatches:
    """What a segment file held, and how much of it was damaged."""

    batches: list[Batch]
    torn_bytes: int
    damaged_bytes: int


def read_batches(path: Path) -> SegmentBatches:
    """Read all batches of a segment file.

    Raises:
        SpoolError: The file cannot be read.
    """
    content = read_segment(path)
    return SegmentBatches(
        [Batch.from_record(record) for record in content.payloads], content.torn_bytes, content.damaged_bytes
    )


@dataclass(frozen=True, slots=True)
class DeadSpool:
    """The folder of a writer that is gone; locked for us until `release`."""

    folder: Path
    run_document: dict[str, Any]
    files: tuple[Path, ...]
    lock_fd: int

    def release(self) -> None:
        """Remove what is empty and unlock."""
        if not any(self.folder.glob("*.seg")):
            remove_folder(self.folder)
        os.close(self.lock_fd)


def adopt_dead_spools(root: Path) -> list[DeadSpool]:
    """Lock and return the folders of writers that no longer live."""
    found: list[DeadSpool] = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        lock_fd = _lock(folder)
        if lock_fd is None:
            continue
        files = tuple(sorted(folder.glob("*.seg")))
        try:
            run_document = orjson.loads((folder / "run.json").read_bytes())
        except (OSError, ValueError):
            run_document = None
        if run_document is None or not files:
            # Killed before it wrote anything, or kept for people as *.damaged.
            if not files:
                remove_folder(folder)
            os.close(lock_fd)
            continue
        found.append(DeadSpool(folder, run_document, files, lock_fd))
    return found


def remove_folder(folder: Path) -> None:
    """Remove a writer's folder; it stays when something for people is in it (rejected, damaged)."""
    if any(path.name not in {"lock", "run.json"} for path in folder.iterdir()):
        return
    for name in ("run.json", "lock"):
        (folder / name).unlink(missing_ok=True)
    folder.rmdir()


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file so that a reader sees the old or the new content, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.rename(path)


def _lock(folder: Path) -> int | None:
    try:
        descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
