"""Change an index: store first, then show it; merge and write snapshots in the background.

Searches never pass through here.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from journal.errors import JournalError
from server_runtime import errors
from similarity_server import snapshot
from similarity_server.index import DeltaFullError, StateIndex
from similarity_server.state_log import Changes, StateLog
from similarity_server.states import State

_log = structlog.get_logger()
T = TypeVar("T")

DEFAULT_FOLLOW_INTERVAL_S = 1.0
_RETRY_S = 1.0
_SNAPSHOT_SHARE = 20  # a snapshot is due when a twentieth of the states is not in the last one
_CLOSE_TIMEOUT_S = 60.0


class IndexKeeper:
    """The one place where an index changes. Use it from one event loop."""

    def __init__(
        self,
        index: StateIndex,
        *,
        log: StateLog | None = None,
        sequence: int = 0,
        snapshots: Path | None = None,
        follow_interval_s: float = DEFAULT_FOLLOW_INTERVAL_S,
    ) -> None:
        """Keep an index.

        Args:
            index: What changes.
            log: Where changes are stored before they show; None keeps them in memory only. One that
                does not write makes this a replica: it refuses changes and follows the table.
            sequence: Last change that the index has.
            snapshots: Where snapshots are written; None for nowhere.
            follow_interval_s: How often a replica looks for changes.
        """
        self.index = index
        self.sequence = sequence
        self._log = log
        self._snapshots = snapshots
        self._follow_interval_s = follow_interval_s
        self._since_snapshot = 0
        self._changing = asyncio.Lock()
        self._grown = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def durable(self) -> bool:
        """Whether changes outlive the process."""
        return self._log is not None

    @property
    def read_only(self) -> bool:
        """Whether changes are refused."""
        return self._log is not None and not self._log.writes

    async def start(self) -> None:
        """Catch up with the database, then work in the background.

        Raises:
            JournalError: The database is away.
        """
        if self._log is not None:
            await self._catch_up(self._log)
        self._tasks = [asyncio.create_task(self._merge_when_due())]
        if self.read_only:
            self._tasks.append(asyncio.create_task(self._follow()))

    async def close(self) -> None:
        """Stop; a merge that runs is waited for."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_TIMEOUT_S)
        if self._log is not None:
            await self._log.close()

    async def add(self, states: Sequence[State], embeddings: NDArray[np.float32]) -> int:
        """Add states, all or none.

        Args:
            states: What to add.
            embeddings: (n, dimension) float32, length 1.

        Returns:
            How many were new.

        Raises:
            OverloadedError: They do not fit now.
            RefusedError: This is a replica.
            UnavailableError: They could not be stored.
        """
        async with self._changes() as log:
            try:
                rows = self.index.new_rows(states)
            except DeltaFullError as e:
                raise self._full(e) from e
            fresh, vectors = [states[row] for row in rows], embeddings[rows]
            if not fresh:
                return 0
            sequence = None if log is None else await self._stored(log.add(fresh, vectors))
            added = self.index.add(fresh, vectors)
            self._note(added, sequence)
            return added

    async def delete(self, state_ids: Sequence[int]) -> int:
        """Delete states, all or none.

        Returns:
            How many were there.

        Raises:
            RefusedError: This is a replica.
            UnavailableError: It could not be stored.
        """
        async with self._changes() as log:
            there = self.index.find(state_ids)
            sequence = None if log is None or not there else await self._stored(log.delete(there))
            deleted = self.index.delete(there)
            self._note(deleted, sequence)
            return deleted

    @contextlib.asynccontextmanager
    async def _changes(self) -> AsyncIterator[StateLog | None]:
        """Let one change at a time through, with the database connected."""
        if self.read_only:
            raise errors.RefusedError("this server is a replica (--read-only): send changes to the writer")
        async with self._changing:
            if self._log is not None and not self._log.connected:
                await self._stored(self._reconnect(self._log))
            yield self._log

    async def _reconnect(self, log: StateLog) -> None:
        await log.open()
        await self._catch_up(log)

    async def _stored(self, work: Awaitable[T]) -> T:
        try:
            return await work
        except JournalError as e:
            _log.warning("states were not stored", error=str(e))
            raise errors.UnavailableError(f"nothing was changed here: {e}", retry_after_s=_RETRY_S) from e

    async def _catch_up(self, log: StateLog) -> None:
        """Apply what the database has and the index has not, merging where there is too much of it."""
        count = 0
        async for changes in log.after(self.sequence):
            if len(changes.states) > self.index.limits.max_added - self.index.added_count:
                await asyncio.to_thread(self.index.merge)
            self._apply(changes)
            count += len(changes.states) + len(changes.deleted)
        if count:
            _log.info("changes read from the database", count=count, sequence=self.sequence, where=log.where)

    def _apply(self, changes: Changes) -> None:
        self.index.add(changes.states, changes.embeddings)
        self.index.delete(changes.deleted)
        self.index.block(changes.deleted)
        self._note(len(changes.states) + len(changes.deleted), changes.sequence)

    def _note(self, count: int, sequence: int | None) -> None:
        """Count changes that the index has by now: a snapshot must not claim one that it lacks."""
        self.sequence = sequence or self.sequence
        self._since_snapshot += count
        if self.index.merge_is_due:
            self._grown.set()

    def _full(self, e: DeltaFullError) -> errors.OverloadedError:
        if self.index.limits.merge_at:
            return errors.OverloadedError(
                f"{e}: try again when they are", field="states", retry_after_s=_RETRY_S
            )
        return errors.OverloadedError(
            f"{e}: add no more, or restart the server with --merge-at", field="states"
        )

    async def _merge_when_due(self) -> None:
        while True:
            await self._grown.wait()
            self._grown.clear()
            if not self.index.merge_is_due:
                continue
            try:
                merging = asyncio.ensure_future(asyncio.to_thread(self._merge))
                await asyncio.shield(merging)
            except asyncio.CancelledError:
                await merging
                raise
            except Exception:  # noqa: BLE001 - searches and adds go on; it is tried again
                _log.exception("merge failed: the states stay in memory beside the index")
                await asyncio.sleep(_RETRY_S)

    def _merge(self) -> None:
        # Both before the merge: it takes in these changes at least, and replaying one that is there
        # changes nothing.
        sequence = self.sequence
        deleted = self.index.deleted
        merged = self.index.merge()
        main = self.index.main
        _log.info("states merged", merged=merged, states=len(main), kind=str(main.kind))
        due = max(self.index.limits.merge_at, len(main) // _SNAPSHOT_SHARE)
        if self._snapshots is None or self._since_snapshot < due:
            return
        path = snapshot.write(
            self._snapshots, self.index.card, main,
            deleted=deleted, as_of_ns=self.index.as_of_ns, sequence=sequence,
        )  # fmt: skip
        self._since_snapshot = 0
        _log.info("snapshot written", snapshot=str(path), sequence=sequence)

    async def _follow(self) -> None:
        log = self._log
        assert log is not None, "only a replica follows"
        while True:
            await asyncio.sleep(self._follow_interval_s)
            try:
                if not log.connected:
                    await log.open()
                await self._catch_up(log)
            except JournalError as e:
                _log.warning("the database cannot be followed: searches go on as they are", error=str(e))
                await log.close()
