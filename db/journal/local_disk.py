"""The spool, behind threads of its own; and what it does not take, in memory within bounds."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from journal import codec
from journal.announcer import Announcer
from journal.batches import Batch
from journal.errors import SpoolError
from journal.replay import Replay, ReplayPart
from journal.spool import Spool
from journal.tables import BY_NAME

HELD_BYTES = 64 * 1024 * 1024
REJECTED_BYTES = 16 * 1024 * 1024

T = TypeVar("T")


class LocalDisk:
    """Keeps batches that Postgres does not have, and rows that it refused.

    Attributes:
        held: Batches that the disk did not take.
        dropped: Rows given up for lack of room, by table.
        rejected: Rows that were refused, by table.
    """

    def __init__(self, spool: Spool, announcer: Announcer) -> None:
        """Work on an open spool."""
        self.held: deque[Batch] = deque()
        self.dropped: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self._held_bytes = 0
        self._rejected_bytes = 0
        self._spool = spool
        self._replay = Replay(spool)
        self._announcer = announcer
        # Two threads: an intent never waits behind telemetry going to a slow disk.
        self._durable_thread = ThreadPoolExecutor(1, thread_name_prefix="journal-durable")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal-spool")

    @property
    def root(self) -> Path:
        """Folder of the spool."""
        return self._spool.root

    @property
    def writer_id(self) -> bytes:
        """Begin of the ids of all batches of this writer."""
        return self._spool.writer_id

    @property
    def size_bytes(self) -> int:
        """Size of this writer's spool."""
        return self._spool.size_bytes

    @property
    def replayed_count(self) -> int:
        """Rows that came from the spool into Postgres so far."""
        return self._replay.row_count

    @property
    def has_waiting(self) -> bool:
        """Whether anything in the spool is still to be written to Postgres."""
        return self._replay.pending or self._spool.has_waiting

    def waiting_rows(self) -> Counter[str]:
        """Return this writer's rows that wait in the spool, by table."""
        return self._spool.waiting_rows()

    async def keep_durably(self, batch: Batch) -> None:
        """Return when a batch survives a crash of this machine.

        Raises:
            SpoolError: The disk did not take it.
        """
        try:
            await self._run(lambda: self._spool.append(batch, durable=True), self._durable_thread)
        except SpoolError as error:
            self._announcer.error(str(error))
            raise

    async def keep(self, batch: Batch) -> None:
        """Put a batch into the spool; without room telemetry is dropped, everything else is held."""
        if batch.on_disk:
            return
        may_be_dropped = BY_NAME[batch.table].may_be_dropped
        try:
            await self._run(lambda: self._spool.append(batch, durable=False, may_be_refused=may_be_dropped))
        except SpoolError as error:
            self._announcer.error(str(error))
            if may_be_dropped or self._held_bytes + len(batch.payload) > HELD_BYTES:
                self.dropped[batch.table] += batch.row_count
            else:
                self.held.append(batch)
                self._held_bytes += len(batch.payload)

    def take_held(self) -> Sequence[Batch]:
        """Return what the disk did not take, to be tried again."""
        held, self.held, self._held_bytes = self.held, deque(), 0
        return held

    def give_up_held(self) -> int:
        """Count what neither disk nor Postgres took as dropped; return how many rows."""
        for batch in self.held:
            self.dropped[batch.table] += batch.row_count
        return sum(batch.row_count for batch in self.held)

    def reject(self, table: str, row_count: int, payload: bytes, reason: str) -> None:
        """Count rows that were refused, and keep them for a person."""
        self.rejected[table] += row_count
        self._announcer.error(
            f"{row_count} row(s) for {table} were refused ({reason}); they are in {self._spool.folder}"
        )
        if self._rejected_bytes < REJECTED_BYTES:
            self._rejected_bytes += len(payload)
            line = codec.dump_json(
                {"table": table, "reason": reason, "rows": payload.decode("utf-8", "replace")}
            )
            self._thread.submit(self._replay.keep_rejected, line)

    async def confirm(self, batches: Sequence[Batch]) -> None:
        """Forget those of the batches that are in the spool: Postgres has them."""
        on_disk: list[UUID] = [batch.batch_id for batch in batches if batch.on_disk]
        if on_disk:
            await self._run(lambda: self._spool.confirm(on_disk))

    async def orphan_all(self) -> None:
        """Have everything in the spool that was not confirmed written again."""
        await self._run(self._spool.orphan_all)

    async def next_part(self) -> ReplayPart | None:
        """Return the next file of the spool to write; None when there is none."""
        return await self._run(self._replay.next)

    async def part_done(self, part: ReplayPart) -> None:
        """Forget a file of the spool that was written."""
        await self._run(lambda: self._replay.done(part))

    async def close(self) -> int:
        """Close the spool; return how many rows stay in it."""
        left = await self._run(self._spool.close)
        await self._run(self._replay.close)
        return left

    def end(self) -> None:
        """End the threads, once what they do is done."""
        self._durable_thread.shutdown()
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T], thread: ThreadPoolExecutor | None = None) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread or self._thread, work)
