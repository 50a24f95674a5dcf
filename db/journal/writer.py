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
import random
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import structlog

from journal import codec, rows
from journal.batches import Batch
from journal.connection import address_of
from journal.delivery import Delivery
from journal.errors import JournalError, SettingsError, SpoolError, explain
from journal.queues import RowQueues
from journal.replay import Replay
from journal.spool import Spool
from journal.stats import JournalStats, TableStats
from journal.tables import BY_NAME, RUNS
from journal.unflushed import UnflushedTelemetry

FLUSH_INTERVAL_S = 0.1
DURABLE_DELIVERY_DELAY_S = 0.01
GROUP_BYTES = 4 * 1024 * 1024
PENDING_BYTES = 32 * 1024 * 1024
HELD_BYTES = 64 * 1024 * 1024
DELIVERY_TIMEOUT_S = 60.0  # of one group; each statement has a shorter one
BACKOFF_FIRST_S = 0.1
BACKOFF_LAST_S = 5.0
REJECTED_BYTES = 16 * 1024 * 1024

_log = structlog.get_logger("journal")


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
        self._database_url = database_url
        self._where = address_of(database_url)
        self._run_id = run.run_id
        self._run_document = {name: codec.plain(getattr(run, name)) for name in RUNS.columns}
        self._spool = spool
        self._on_state = on_state
        self._last_state = ""
        self._last_error = ""
        self._queues = RowQueues(run.run_id, spool.writer_id, queue_rows, self._reject)
        self._written: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._rejected_bytes = 0
        self._pending: deque[Batch] = deque()
        self._pending_bytes = 0
        self._in_flight: list[Batch] = []
        self._unflushed = UnflushedTelemetry()
        self._held: deque[Batch] = deque()  # the disk takes nothing: in memory, bounded
        self._held_bytes = 0
        self._collecting = False
        self._settled = asyncio.Event()  # not bringing batches to the disk right now
        self._settled.set()
        self._delivery: Delivery | None = None
        self._replay = Replay(spool)
        self._known_days: set[tuple[str, int]] = set()
        self._collect_now = asyncio.Event()
        self._send_now = asyncio.Event()
        self._first_attempt = asyncio.Event()
        self._ended = False
        # Two threads: an intent never waits behind telemetry going to a slow disk.
        self._durable_disk = ThreadPoolExecutor(1, thread_name_prefix="journal-durable")
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="journal-spool")
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
            asyncio.create_task(journal._send_forever(), name="journal-sender"),
        ]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(journal._first_attempt.wait(), connect_timeout_s)
        return journal

    async def close(self, timeout_s: float = 10.0) -> int:
        """Write what is left; what cannot reach Postgres in time stays in the spool for the next open.

        Returns:
            Rows that stay in the spool.
        """
        if self._ended:
            return 0
        if self._delivery is not None and not await self.flush(timeout_s):
            self._drop_connection()
        self._ended = True
        collector, sender = self._tasks
        self._collect_now.set()
        await collector
        await self._settled.wait()  # a batch between memory and disk must arrive there
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
        await self._collect_all(to_disk=True)
        if self._delivery is not None:
            await self._end_run(self._delivery)
        await self._retreat()
        await self._spool_held()
        loop = asyncio.get_running_loop()
        left = await loop.run_in_executor(self._disk, self._spool.close)
        await loop.run_in_executor(self._disk, self._replay.close)
        if self._delivery is not None:
            if not left:
                with contextlib.suppress(JournalError):  # they only take room
                    await self._delivery.forget_batches(self._spool.writer_id)
            await self._delivery.close(timeout_s=1.0)
            self._delivery = None
        self._durable_disk.shutdown()
        self._disk.shutdown()
        lost = sum(batch.row_count for batch in self._held)
        if lost:
            for batch in self._held:
                self._queues.dropped[batch.table] += batch.row_count
            self._say(f"{lost} rows are lost: neither Postgres nor the spool {self._spool.root} took them")
        if left:
            self._say(f"{left} rows stay in the spool {self._spool.root}; they are written at the next start")
        return left

    async def flush(self, timeout_s: float) -> bool:
        """Wait until everything recorded so far is in Postgres; False when it is not by then."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        while not self._idle():
            if loop.time() >= end:
                return False
            self._collect_now.set()
            self._send_now.set()
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
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._durable_disk, lambda: self._spool.append(batch, durable=True))
        except SpoolError as error:
            self._note_error(str(error))
            raise
        self._queues.recorded[batch.table] += 1
        if self._delivery is not None:
            self._pending.append(batch)
            self._pending_bytes += len(batch.payload)
            # The order that waits for this row goes out first; then Postgres is told.
            loop.call_later(DURABLE_DELIVERY_DELAY_S, self._send_now.set)
        else:
            await loop.run_in_executor(self._disk, self._spool.orphan_all)

    def stats(self) -> JournalStats:
        """Return how recording stands."""
        spooled = self._spool.waiting_rows()
        tables = {}
        for name, recorded in sorted(self._queues.recorded.items()):
            written, dropped, rejected = self._written[name], self._queues.dropped[name], self._rejected[name]
            queued = max(0, recorded - written - dropped - rejected - spooled[name])
            tables[name] = TableStats(recorded, written, spooled[name], queued, dropped, rejected)
        return JournalStats(
            tables,
            self._delivery is not None,
            self._last_error,
            self._spool.size_bytes,
            self._replay.row_count,
        )

    # --- collector: rows to batches --------------------------------------------------------------

    async def _collect_forever(self) -> None:
        while not self._ended:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._collect_now.wait(), FLUSH_INTERVAL_S)
            self._collect_now.clear()
            self._collecting = True
            await self._collect_all(to_disk=False)
            if self._held:
                await self._spool_held()
            self._collecting = False

    async def _collect_all(self, *, to_disk: bool) -> None:
        async for batch in self._queues.batches():
            if not to_disk and self._delivery is not None and self._pending_bytes < PENDING_BYTES:
                self._push(batch)
            else:
                await self._to_spool(batch)

    def _push(self, batch: Batch) -> None:
        self._pending.append(batch)
        self._pending_bytes += len(batch.payload)
        self._send_now.set()

    # --- the local disk --------------------------------------------------------------------------

    async def _to_spool(self, batch: Batch) -> None:
        """Put a batch into the spool; without room telemetry is dropped, everything else is held."""
        if batch.on_disk:
            return
        may_be_dropped = BY_NAME[batch.table].may_be_dropped
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(
                self._disk, lambda: self._spool.append(batch, durable=False, may_be_refused=may_be_dropped)
            )
        except SpoolError as error:
            self._note_error(str(error))
            if may_be_dropped or self._held_bytes + len(batch.payload) > HELD_BYTES:
                self._queues.dropped[batch.table] += batch.row_count
            else:
                self._held.append(batch)
                self._held_bytes += len(batch.payload)

    async def _spool_held(self) -> None:
        """Try again with what the disk did not take."""
        held, self._held, self._held_bytes = self._held, deque(), 0
        for batch in held:
            if self._delivery is not None and not self._ended:
                self._push(batch)
            else:
                await self._to_spool(batch)

    async def _retreat(self) -> None:
        """Postgres is away: bring everything that was on its way to the local disk."""
        # The server may have crashed and forgotten the unflushed ones; those it has are skipped.
        unflushed = self._unflushed.take()
        for batch in unflushed:
            self._written[batch.table] -= batch.row_count
        batches = [*unflushed, *self._in_flight, *self._pending]
        self._settled.clear()
        self._in_flight = []
        self._pending.clear()
        self._pending_bytes = 0
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._disk, self._spool.orphan_all)
        for batch in batches:
            await self._to_spool(batch)
        self._settled.set()

    def _reject(self, table: str, row_count: int, payload: bytes, reason: str) -> None:
        self._rejected[table] += row_count
        self._note_error(
            f"{row_count} row(s) for {table} were refused ({reason}); they are in {self._spool.folder}"
        )
        if self._rejected_bytes < REJECTED_BYTES:
            self._rejected_bytes += len(payload)
            line = codec.dump_json(
                {"table": table, "reason": reason, "rows": payload.decode("utf-8", "replace")}
            )
            self._disk.submit(self._replay.keep_rejected, line)

    # --- sender: batches to Postgres -------------------------------------------------------------

    async def _send_forever(self) -> None:
        backoff_s = BACKOFF_FIRST_S
        while True:
            try:
                delivery = await Delivery.connect(
                    self._database_url, self._run_document, self._known_days, self._send_now.set
                )
                self._delivery = delivery
                self._first_attempt.set()
                self._say(f"recording to {self._where}")
                backoff_s = BACKOFF_FIRST_S
                await self._send(delivery)
            except Exception as error:  # noqa: BLE001 - whatever it is, recording must go on: to the spool
                if not isinstance(error, JournalError | TimeoutError):
                    _log.exception("journal: unexpected, recording goes on", run_id=self._run_id)
                self._drop_connection()
                self._note_error(f"{explain(error, self._where)}; rows go to the spool {self._spool.root}")
                await self._retreat()
            self._first_attempt.set()
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))
            backoff_s = min(backoff_s * 2, BACKOFF_LAST_S)

    def _drop_connection(self) -> None:
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
            elif self._replay.pending or self._spool.has_waiting:
                await self._replay_next(delivery)
            else:
                self._send_now.clear()
                if self._unflushed:
                    self._unflushed.note(*await delivery.wal_positions())
                if not self._pending:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._send_now.wait(), 1.0)
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
            self._reject(part.table, part.row_count, part.payload, reason)
            refused[part.batch_id] += part.row_count
        if run_id == self._run_id:
            for batch in batches:
                self._written[batch.table] += batch.row_count - refused[batch.batch_id]
        on_disk = [batch.batch_id for batch in batches if batch.on_disk]
        if on_disk:
            await asyncio.get_running_loop().run_in_executor(self._disk, self._spool.confirm, on_disk)

    async def _replay_next(self, delivery: Delivery) -> None:
        """Write one file of the spool."""
        loop = asyncio.get_running_loop()
        part = await loop.run_in_executor(self._disk, self._replay.next)
        if part is None:
            return
        if part.problem:
            self._note_error(part.problem)
        if part.run_id != self._run_id:
            await delivery.add_run(part.run_document)
        for start in range(0, len(part.batches), 16):
            await self._deliver(delivery, part.batches[start : start + 16], part.run_id, telemetry_waits=True)
        await loop.run_in_executor(self._disk, self._replay.done, part)
        self._say(f"{part.row_count} rows came from the spool into {self._where}")

    async def _end_run(self, delivery: Delivery) -> None:
        """Note the end; that commit waits for the server's disk, and with it all commits before it."""
        try:
            await delivery.end_run()
        except JournalError as error:
            self._note_error(str(error))
        else:
            self._unflushed.take()

    def _idle(self) -> bool:
        return (
            not self._queues
            and not self._collecting
            and self._settled.is_set()
            and not self._replay.pending
            and not self._pending
            and not self._in_flight
            and not self._held
            and not self._spool.has_waiting
        )

    # --- telling ---------------------------------------------------------------------------------

    def _note_error(self, text: str) -> None:
        self._last_error = text
        self._say(text)

    def _say(self, text: str) -> None:
        """Tell once: a sentence that repeats itself is not news."""
        if text == self._last_state:
            return
        self._last_state = text
        if self._on_state is not None:
            self._on_state(text)
        else:
            _log.info("journal", state=text, run_id=self._run_id)
