"""Takes files out of the spool, one after the other: this writer's and those of dead writers."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from journal.batches import Batch
from journal.errors import SpoolError
from journal.spool import DeadSpool, Spool, adopt_dead_spools, read_batches


@dataclass(frozen=True, slots=True)
class ReplayPart:
    """What one file of the spool holds.

    Attributes:
        path: The file.
        run_document: Run of its rows.
        batches: What Postgres may not have yet.
        problem: What was wrong with the file; "" when nothing.
        dead: Whose folder it is in, when not this writer's.
    """

    path: Path
    run_document: dict[str, Any]
    batches: list[Batch] = field(default_factory=list)
    problem: str = ""
    dead: DeadSpool | None = None

    @property
    def run_id(self) -> str:
        """Run of its rows."""
        return str(self.run_document["run_id"])

    @property
    def row_count(self) -> int:
        """Rows in its batches."""
        return sum(batch.row_count for batch in self.batches)


class Replay:
    """Walks through the spool. Methods block on the disk: call them in one thread."""

    def __init__(self, spool: Spool) -> None:
        """Walk through a writer's spool, and adopt dead ones beside it."""
        self._spool = spool
        self._run_document: dict[str, Any] = orjson.loads((spool.folder / "run.json").read_bytes())
        self._adopted = False
        self._dead: deque[DeadSpool] = deque()
        self._files: deque[tuple[Path, DeadSpool]] = deque()
        self.row_count = 0
        self.pending = True  # folders of dead writers were not looked for, or still hold rows

    def next(self) -> ReplayPart | None:
        """Return the next file with rows for Postgres, earlier runs first; None when there is none.

        The same file comes again until `done` was called for it.
        """
        if not self._adopted:
            self._adopted = True
            for dead in adopt_dead_spools(self._spool.root):
                self._dead.append(dead)
                self._files.extend((path, dead) for path in dead.files)
        if self._files:
            return self._dead_part(*self._files[0])
        self.pending = False
        for path in self._spool.backlog():
            try:
                batches = self._spool.read(path)
            except SpoolError as error:
                return ReplayPart(path, self._run_document, problem=str(error))
            return ReplayPart(path, self._run_document, batches)
        return None

    def done(self, part: ReplayPart) -> None:
        """Postgres has what the file held: remove it, or keep it for people when it was damaged."""
        self.row_count += part.row_count
        if part.dead is None:
            self._spool.forget_file(part.path)
            return
        self._files.popleft()
        if part.problem:
            part.path.rename(part.path.with_suffix(".damaged"))
        else:
            part.path.unlink()
        if not self._files or self._files[0][1] is not part.dead:
            self._dead.remove(part.dead)
            part.dead.release()

    def keep_rejected(self, line: bytes) -> None:
        """Append rows that Postgres refused to a file for people; a full disk is not worth stopping for."""
        try:
            descriptor = os.open(
                self._spool.folder / "rejected.jsonl",
                os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC,
                0o600,
            )
        except OSError:
            return
        try:
            os.write(descriptor, line + b"\n")
        except OSError:
            return
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Unlock the folders of dead writers that still hold something."""
        while self._dead:
            self._dead.popleft().release()

    @staticmethod
    def _dead_part(path: Path, dead: DeadSpool) -> ReplayPart:
        try:
            content = read_batches(path)
        except SpoolError as error:
            return ReplayPart(path, dead.run_document, problem=str(error), dead=dead)
        problem = ""
        if content.damaged_bytes:
            problem = (
                f"{content.damaged_bytes} bytes of {path} are damaged and were skipped; "
                f"the file is kept as {path.with_suffix('.damaged').name}"
            )
        return ReplayPart(path, dead.run_document, content.batches, problem, dead)
