"""Brings batches to Postgres; and what was on its way to the local disk, when Postgres is away."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, deque
from typing import Any
from uuid import UUID

import structlog

from journal.announcer import Announcer
from journal.batches import Batch
from journal.connection import address_of
from journal.delivery import Delivery
from journal.errors import JournalError, explain
from journal.local_disk import LocalDisk
from journal.tables import BY_NAME
from journal.unflushed import UnflushedTelemetry

GROUP_BYTES = 4 * 1024 * 1024
PENDING_BYTES = 32 * 1024 * 1024
DELIVERY_TIMEOUT_S = 60.0  # of one group; each statement has a shorter one
BACKOFF_FIRST_S = 0.1
BACKOFF_LAST_S = 5.0

_log = structlog.get_logger("journal")


class Sender:
    """Writes what is pushed, and then what is in the spool.

    Attributes:
        written: Rows of this run that Postgres has, by table.
        first_attempt: Set after the first attempt to connect.
        settled: Not bringing batches to the disk right now.
    """

    def __init__(
        self, database_url: str, run_document: dict[str, Any], disk: LocalDisk, announcer: Announcer
    ) -> None:
        """Write the rows of a run; `run` does it."""
        self.written: Counter[str] = Counter()
        self.first_attempt = asyncio.Event()
        self.settled = asyncio.Event()
        self.settled.set()
        self._database_url = database_url
        self._where = address_of(database_url)
        self._run_id = str(run_document["run_id"])
        self._run_document = run_document
        self._disk = disk
        self._announcer = announcer
        self._pending: deque[Batch] = deque()
        self._pending_bytes = 0
        self._in_flight: list[Batch] = []
        self._unflushed = UnflushedTelemetry()
        self._delivery: Delivery | None = None
        self._known_days: set[tuple[str, int]] = set()
        self._wake = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether Postgres takes rows."""
        return self._delivery is not None

    @property
    def has_room(self) -> bool:
        """Whether another batch may be pushed; else it goes to the disk."""
        return self.connected and self._pending_bytes < PENDING_BYTES

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return self.settled.is_set() and not self._pending and not self._in_flight

    def push(self, batch: Batch, delay_s: float = 0.0) -> None:
        """Have a batch written, from then on."""
        self._pending.append(batch)
        self._pending_bytes += len(batch.payload)
        if delay_s:
            asyncio.get_running_loop().call_later(delay_s, self._wake.set)
        else:
            self._wake.set()

    def wake(self) -> None:
        """Look for work now."""
        self._wake.set()

    async def run(self) -> None:
        """Connect and write, for ever."""
        backoff_s = BACKOFF_FIRST_S
        while True:
            try:
                delivery = await Delivery.connect(
                    self._database_url, self._run_document, self._known_days, self._wake.set
                )
                self._delivery = delivery
                self.first_attempt.set()
                self._announcer.say(f"recording to {self._where}")
                backoff_s = BACKOFF_FIRST_S
                await self._send(delivery)
            except Exception as error:  # noqa: BLE001 - whatever it is, recording must go on: to the spool
                if not isinstance(error, JournalError | TimeoutError):
                    _log.exception("journal: unexpected, recording goes on", run_id=self._run_id)
                self.drop_connection()
                self._announcer.error(
                    f"{explain(error, self._where)}; rows go to the spool {self._disk.root}"
                )
                await self.retreat()
            self.first_attempt.set()
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))
            backoff_s = min(backoff_s * 2, BACKOFF_LAST_S)

    async def retreat(self) -> None:
        """Bring everything that was on its way to Postgres to the local disk."""
        # The server may have crashed and forgotten the unflushed ones; those it has are skipped.
        unflushed = self._unflushed.take()
        for batch in unflushed:
            self.written[batch.table] -= batch.row_count
        batches = [*unflushed, *self._in_flight, *self._pending]
        self.settled.clear()
        self._in_flight = []
        self._pending.clear()
        self._pending_bytes = 0
        await self._disk.orphan_all()
        for batch in batches:
            await self._disk.keep(batch)
        self.settled.set()

    async def end_run(self) -> None:
        """Note the end; that commit waits for the server's disk, and with it all commits before it."""
        if self._delivery is None:
            return
        try:
            await self._delivery.end_run()
        except JournalError as error:
            self._announcer.error(str(error))
        else:
            self._unflushed.take()

    async def close(self, *, forget_batches: bool) -> None:
        """Close the connection, in the end.

        Args:
            forget_batches: Whether no copy of any batch is left, so that Postgres need not remember them.
        """
        if self._delivery is None:
            return
        if forget_batches:
            with contextlib.suppress(JournalError):  # they only take room
                await self._delivery.forget_batches(self._disk.writer_id)
        await self._delivery.close(timeout_s=1.0)
        self._delivery = None

    def drop_connection(self) -> None:
        """End the connection at once, if there is one."""
        if self._delivery is not None:
            self._delivery.terminate()
            self._delivery = None

    async def _send(self, delivery: Delivery) -> None:
        """Write until the connection breaks.

        Raises:
            DatabaseError: It broke, or the server refuses.
        """
        while True:
            if self._pending:
                await self._send_pending(delivery)
            elif self._disk.has_waiting:
                await self._replay_next(delivery)
            else:
                self._wake.clear()
                if self._unflushed:
                    self._unflushed.note(*await delivery.wal_positions())
                if not self._pending:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), 1.0)
            if delivery.closed:
                raise JournalError(f"Postgres at {self._where} closed the connection: it stopped or restarts")

    async def _send_pending(self, delivery: Delivery) -> None:
        size = 0
        while self._pending and size < GROUP_BYTES:
            batch = self._pending.popleft()
            self._in_flight.append(batch)
            size += len(batch.payload)
        self._pending_bytes -= size
        # Too much that a crash of the server would lose: wait for its disk.
        waits = self._unflushed.size_bytes > PENDING_BYTES
        await self._deliver(delivery, self._in_flight, self._run_id, telemetry_waits=waits)
        telemetry = [batch for batch in self._in_flight if BY_NAME[batch.table].telemetry]
        self._in_flight = []
        if telemetry:
            self._unflushed.add(telemetry)
            self._unflushed.note(*await delivery.wal_positions())

    async def _deliver(
        self, delivery: Delivery, batches: list[Batch], run_id: str, *, telemetry_waits: bool
    ) -> None:
        refused: Counter[UUID] = Counter()
        async with asyncio.timeout(DELIVERY_TIMEOUT_S):
            rejected = await delivery.deliver(batches, run_id, telemetry_waits=telemetry_waits)
        for part, reason in rejected:
            self._disk.reject(part.table, part.row_count, part.payload, reason)
            refused[part.batch_id] += part.row_count
        if run_id == self._run_id:
            for batch in batches:
                self.written[batch.table] += batch.row_count - refused[batch.batch_id]
        await self._disk.confirm(batches)

    async def _replay_next(self, delivery: Delivery) -> None:
        """Write one file of the spool."""
        part = await self._disk.next_part()
        if part is None:
            return
        if part.problem:
            self._announcer.error(part.problem)
        if part.run_id != self._run_id:
            await delivery.add_run(part.run_document)
        for start in range(0, len(part.batches), 16):
            await self._deliver(delivery, part.batches[start : start + 16], part.run_id, telemetry_waits=True)
        await self._disk.part_done(part)
        self._announcer.say(f"{part.row_count} rows came from the spool into {self._where}")
