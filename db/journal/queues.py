"""Rows on their way to becoming batches: bounded for telemetry, encoded in short slices."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

from journal import codec
from journal.batches import Batch
from journal.errors import JournalError
from journal.tables import BY_ROW_TYPE, Table

FLUSH_ROWS = 2000
FLUSH_BYTES = 256 * 1024
SLICE_ROWS = 64  # encoded without giving the loop back

Reject = Callable[[str, int, bytes, str], None]


class _Queue:
    """Rows of one table that wait to be encoded."""

    __slots__ = ("encode", "limit", "rows", "table")

    def __init__(self, table: Table, run_id: str, limit: int) -> None:
        self.table = table
        self.rows: deque[Any] = deque()
        self.encode = codec.row_encoder(table, run_id)
        self.limit = limit


class RowQueues:
    """One queue per table; rows become batches with ids of this writer."""

    def __init__(self, run_id: str, writer_id: bytes, telemetry_limit_rows: int, reject: Reject) -> None:
        """Make the queues.

        Args:
            run_id: Run of all rows.
            writer_id: First half of the batch ids, 8 bytes.
            telemetry_limit_rows: More waiting rows of a telemetry table are dropped and counted.
            reject: Called with table, row count, text and reason for rows that cannot be encoded.
        """
        self._writer_id = writer_id
        self._reject = reject
        self._batch_count = 0
        self._queues = {
            row_type: _Queue(table, run_id, telemetry_limit_rows if table.telemetry else table.most_waiting)
            for row_type, table in BY_ROW_TYPE.items()
        }
        self.recorded: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()

    def __bool__(self) -> bool:
        """Whether rows wait."""
        return any(queue.rows for queue in self._queues.values())

    def add(self, row: Any) -> bool:
        """Take a row, or drop and count it; True when a batch is full.

        Raises:
            TypeError: It is no row of journal.rows.
        """
        queue = self._queue_of(row)
        name = queue.table.name
        self.recorded[name] += 1
        waiting = queue.rows
        if queue.limit and len(waiting) >= queue.limit:
            self.dropped[name] += 1
            return False
        waiting.append(row)
        return len(waiting) == FLUSH_ROWS

    def single(self, row: Any) -> Batch:
        """Make a batch of one row that is about to go to the durable disk file.

        Raises:
            TypeError: It is no row of journal.rows.
            JournalError: A value of it cannot be recorded.
        """
        queue = self._queue_of(row)
        try:
            encoded = queue.encode(row)
        except Exception as error:
            raise JournalError(f"a row for {queue.table.name} cannot be recorded: {error}") from error
        return self._batch(queue.table, [row], [encoded], on_disk=True)

    async def batches(self) -> AsyncIterator[Batch]:
        """Encode what waits, giving the loop back between slices."""
        for queue in self._queues.values():
            while queue.rows:
                taken: list[Any] = []
                encoded: list[bytes] = []
                size = 0
                while queue.rows and len(encoded) < FLUSH_ROWS and size < FLUSH_BYTES:
                    size += self._encode_slice(queue, taken, encoded)
                    await asyncio.sleep(0)
                if encoded:
                    yield self._batch(queue.table, taken, encoded)

    def _encode_slice(self, queue: _Queue, taken: list[Any], encoded: list[bytes]) -> int:
        size = 0
        for _ in range(min(SLICE_ROWS, len(queue.rows))):
            row = queue.rows.popleft()
            try:
                item = queue.encode(row)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one row must not stop the others
                self._reject(queue.table.name, 1, repr(row).encode(), f"cannot be encoded: {error}")
                continue
            encoded.append(item)
            taken.append(row)
            size += len(item)
        return size

    def _queue_of(self, row: Any) -> _Queue:
        queue = self._queues.get(type(row))
        if queue is None:
            raise TypeError(f"cannot record a {type(row).__name__}: no such table")
        return queue

    def _batch(self, table: Table, taken: list[Any], encoded: list[bytes], *, on_disk: bool = False) -> Batch:
        self._batch_count += 1
        batch_id = UUID(bytes=self._writer_id + self._batch_count.to_bytes(8, "big"))
        if not table.telemetry:
            return Batch(batch_id, table.name, len(encoded), codec.json_payload(encoded), on_disk=on_disk)
        days = tuple(sorted({codec.day_of(row, table) for row in taken}))
        return Batch(batch_id, table.name, len(encoded), codec.copy_payload(encoded), days, on_disk=on_disk)
