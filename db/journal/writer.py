"""The journal: takes rows at once, brings them to Postgres in batches, and loses none that matter.

    record ──▶ queues ──collector──▶ batches ──sender──▶ Postgres
                                        │                   ▲
    record_durably ──▶ local disk       └──▶ spool ──replay─┘   (Postgres away, slow, or restarted)

Everything but the disk runs on the caller's event loop in slices of well under a millisecond; the
disk has threads of its own. Rows are not copied: do not change a mapping after recording it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from journal import codec, rows
from journal.announcer import Announcer
from journal.batches import Batch
from journal.connection import address_of
from journal.errors import SettingsError
from journal.local_disk import LocalDisk
from journal.queues import RowQueues
from journal.sender import Sender
from journal.spool import Spool
from journal.stats import JournalStats, TableStats
from journal.tables import RUNS

FLUSH_INTERVAL_S = 0.1
DURABLE_DELIVERY_DELAY_S = 0.01


class Journal:
    """Records the rows of one run. Use it from one event loop."""

    def __init__(
        self,
        database_url: str,
        run: rows.Run,
        spool: Spool,
        queue_rows: int,
        on_state: Callable[[str], None] | None,
    ) -> None:
        """Use `Journal.open`."""
        document = {name: codec.plain(getattr(run, name)) for name in RUNS.columns}
        self._announcer = Announcer(run.run_id, on_state)
        self._disk = LocalDisk(spool, self._announcer)
        self._sender = Sender(database_url, document, self._disk, self._announcer)
        self._queues = RowQueues(run.run_id, spool.writer_id, queue_rows, self._disk.reject)
        self._collecting = False
        self._collect_now = asyncio.Event()
        self._ended = False
        self._tasks: list[asyncio.Task[None]] = []

    # --- opening and closing ---------------------------------------------------------------------

    @classmethod
    async def open(
        cls,
        database_url: str,
        run: rows.Run,
        *,
        spool_dir: Path,
        queue_rows: int = 50_000,
        spool_limit_bytes: int = 512 * 1024 * 1024,
        on_state: Callable[[str], None] | None = None,
        connect_timeout_s: float = 5.0,
    ) -> Journal:
        """Open the journal of a run; rows of earlier runs that are still in the spool are written too.

        When Postgres is away it opens all the same, says so through `on_state`, and spools.

        Args:
            database_url: postgresql://…; its schema is brought up to date.
            run: The run that all rows belong to.
            spool_dir: Folder on a local disk, shared by all runs on this machine.
            queue_rows: Telemetry rows per table that may wait in memory; more are dropped and counted.
            spool_limit_bytes: Size of this run's spool from which on telemetry is dropped and counted.
            on_state: Called with a sentence when recording changes: connected, away, full disk, …
            connect_timeout_s: How long to wait for the first connection attempt.

        Raises:
            SettingsError: The address is none, or the spool folder cannot be written.
        """
        address_of(database_url)
        document = {name: getattr(run, name) for name in RUNS.columns}
        try:
            spool = await asyncio.to_thread(Spool, Path(spool_dir), document, spool_limit_bytes)
        except TypeError as error:
            raise SettingsError(f"the run cannot be recorded: {error}") from error
        journal = cls(database_url, run, spool, queue_rows, on_state)
        journal._tasks = [
            asyncio.create_task(journal._collect_forever(), name="journal-collector"),
            asyncio.create_task(journal._sender.run(), name="journal-sender"),
        ]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(journal._sender.first_attempt.wait(), connect_timeout_s)
        return journal

    async def close(self, timeout_s: float = 10.0) -> int:
        """Write what is left; what cannot reach Postgres in time stays in the spool for the next open.

        Returns:
            Rows that stay in the spool.
        """
        if self._ended:
            return 0
        if self._sender.connected and not await self.flush(timeout_s):
            self._sender.drop_connection()
        self._ended = True
        collector, sender = self._tasks
        self._collect_now.set()
        await collector
        await self._sender.settled.wait()  # a batch between memory and disk must arrive there
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
        await self._collect_all(to_disk=True)
        await self._sender.end_run()
        await self._sender.retreat()
        await self._keep_held()
        left = await self._disk.close()
        await self._sender.close(forget_batches=not left)
        self._disk.end()
        lost, spool = self._disk.give_up_held(), self._disk.root
        if lost:
            self._announcer.say(f"{lost} rows are lost: neither Postgres nor the spool {spool} took them")
        if left:
            self._announcer.say(f"{left} rows stay in the spool {spool}; they are written at the next start")
        return left

    async def flush(self, timeout_s: float) -> bool:
        """Wait until everything recorded so far is in Postgres; False when it is not by then."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        while not self._idle():
            if loop.time() >= end:
                return False
            self._collect_now.set()
            self._sender.wake()
            await asyncio.sleep(0.005)
        return True

    # --- recording -------------------------------------------------------------------------------

    def record(self, row: rows.Row) -> None:
        """Take a row; never blocks. Telemetry beyond the queue's bound is dropped and counted.

        Raises:
            TypeError: It is no row of journal.rows (a mistake in the program).
        """
        if self._ended:
            raise TypeError(f"cannot record a {type(row).__name__}: the journal is closed")
        if self._queues.add(row):
            self._collect_now.set()

    async def record_durably(self, row: rows.Row) -> None:
        """Return when the row is on this machine's disk; it reaches Postgres afterwards, exactly once.

        Raises:
            JournalError: The disk did not take it: do not send the order.
        """
        if self._ended:
            raise TypeError(f"cannot record a {type(row).__name__}: the journal is closed")
        batch = self._queues.single(row)
        # Shielded: once the disk may have it, it must go on to Postgres even if the caller gives up.
        await asyncio.shield(asyncio.ensure_future(self._make_durable(batch)))

    async def _make_durable(self, batch: Batch) -> None:
        await self._disk.keep_durably(batch)
        self._queues.recorded[batch.table] += 1
        if self._sender.connected:
            # The order that waits for this row goes out first; then Postgres is told.
            self._sender.push(batch, DURABLE_DELIVERY_DELAY_S)
        else:
            await self._disk.orphan_all()

    def stats(self) -> JournalStats:
        """Return how recording stands."""
        spooled = self._disk.waiting_rows()
        tables = {}
        for name, recorded in sorted(self._queues.recorded.items()):
            written, rejected = self._sender.written[name], self._disk.rejected[name]
            dropped = self._queues.dropped[name] + self._disk.dropped[name]
            queued = max(0, recorded - written - dropped - rejected - spooled[name])
            tables[name] = TableStats(recorded, written, spooled[name], queued, dropped, rejected)
        return JournalStats(
            tables,
            self._sender.connected,
            self._announcer.last_error,
            self._disk.size_bytes,
            self._disk.replayed_count,
        )

    # --- collector: rows to batches --------------------------------------------------------------

    async def _collect_forever(self) -> None:
        while not self._ended:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._collect_now.wait(), FLUSH_INTERVAL_S)
            self._collect_now.clear()
            self._collecting = True
            await self._collect_all(to_disk=False)
            if self._disk.held:
                await self._keep_held()
            self._collecting = False

    async def _collect_all(self, *, to_disk: bool) -> None:
        async for batch in self._queues.batches():
            if not to_disk and self._sender.has_room:
                self._sender.push(batch)
            else:
                await self._disk.keep(batch)

    async def _keep_held(self) -> None:
        """Try again with what the disk did not take."""
        for batch in self._disk.take_held():
            if self._sender.connected and not self._ended:
                self._sender.push(batch)
            else:
                await self._disk.keep(batch)

    def _idle(self) -> bool:
        return (
            not self._queues
            and not self._collecting
            and not self._disk.held
            and not self._disk.has_waiting
            and self._sender.idle
        )
