"""Telemetry that Postgres has committed but perhaps not brought to its disk.

With synchronous_commit=off a server that crashes forgets its last commits; so the batches are kept
until the server's log is on its disk, and are sent again to a server that came back (it skips those
it still has).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from journal.batches import Batch


@dataclass(slots=True)
class _Commit:
    batches: list[Batch]
    size_bytes: int
    wal_position: int | None = None


class UnflushedTelemetry:
    """Batches in the order they were committed."""

    def __init__(self) -> None:
        """Start empty."""
        self._commits: deque[_Commit] = deque()
        self.size_bytes = 0

    def __bool__(self) -> bool:
        """Whether any are kept."""
        return bool(self._commits)

    def add(self, batches: list[Batch]) -> None:
        """Keep what was committed just now."""
        size = sum(len(batch.payload) for batch in batches)
        self._commits.append(_Commit(batches, size))
        self.size_bytes += size

    def note(self, written: int, flushed: int) -> None:
        """Let go of what is on the server's disk.

        Args:
            written: How far the server's log went after the last commit, bytes.
            flushed: How far it is on its disk, bytes.
        """
        for commit in self._commits:
            if commit.wal_position is None:
                commit.wal_position = written
        while self._commits and (self._commits[0].wal_position or 0) <= flushed:
            self.size_bytes -= self._commits.popleft().size_bytes

    def take(self) -> list[Batch]:
        """Give up everything, to be sent again or because all of it is on disk."""
        batches = [batch for commit in self._commits for batch in commit.batches]
        self._commits.clear()
        self.size_bytes = 0
        return batches
