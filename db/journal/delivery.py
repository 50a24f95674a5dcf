"""Brings batches into Postgres, each exactly once, over one connection."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from journal.batches import Batch
from journal.codec import dump_json, json_payload, plain, split_json_payload
from journal.connection import address_of, connect
from journal.errors import DatabaseError, explain
from journal.migrations import migrate
from journal.tables import BY_NAME, RUNS, TELEMETRY_TYPES, copy_columns

# SQLSTATE classes of errors that lie in the row: sending it again cannot help.
_DATA_ERROR_CLASSES = {"22", "23"}
# More days than this in one run go to the default partition.
MAX_DAY_PARTITIONS = 1500
_EPOCH = dt.date(1970, 1, 1)

_COLUMN_TYPES_SQL = """
SELECT c.relname AS table_name, a.attname AS column_name, format_type(a.atttypid, a.atttypmod) AS type_name
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE a.attrelid = ANY ($1::text[]::regclass[]) AND a.attnum > 0 AND NOT a.attisdropped
"""
_CLAIM_SQL = """
INSERT INTO batches (batch_id, run_id, table_name, row_count)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int[])
ON CONFLICT DO NOTHING RETURNING batch_id
"""
_WAL_SQL = """
SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS inserted, pg_current_wal_flush_lsn() - '0/0'::pg_lsn AS flushed
"""
_BROKEN = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


class Delivery:
    """A connection for writing. After any DatabaseError it is unusable: make another one."""

    def __init__(self, connection: Any, where: str, run_id: str, known_days: set[tuple[str, int]]) -> None:
        """Use `Delivery.connect`."""
        self._connection = connection
        self._where = where
        self._run_id = run_id
        self._known_days = known_days

    @classmethod
    async def connect(
        cls,
        database_url: str,
        run_document: dict[str, Any],
        known_days: set[tuple[str, int]],
        on_lost: Callable[[], None],
    ) -> Delivery:
        """Connect, bring the schema up to date, and make sure the run is there.

        Args:
            database_url: Where.
            run_document: The run as in `run.json`.
            known_days: (table, day) whose partition was asked for already; shared between connections.
            on_lost: Called when the server closes the connection.

        Raises:
            JournalError: It cannot be used; one line that says what to do.
        """
        where = address_of(database_url)
        connection = await connect(database_url)
        try:
            if await migrate(connection, where):
                # A connection that saw the tables change may remember what they were.
                connection.terminate()
                connection = await connect(database_url)
            delivery = cls(connection, where, str(run_document["run_id"]), known_days)
            await delivery.add_run(run_document)
        except BaseException:
            connection.terminate()
            raise
        connection.add_termination_listener(lambda _: on_lost())
        return delivery

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return bool(self._connection.is_closed())

    async def add_run(self, run_document: dict[str, Any]) -> None:
        """Store a run unless it is there.

        Raises:
            DatabaseError: The server refused.
        """
        payload = json_payload([dump_json(plain(run_document))]).decode()
        try:
            await self._connection.execute(RUNS.insert_sql, payload)
        except _BROKEN as error:
            raise DatabaseError(explain(error, self._where)) from error

    async def end_run(self) -> None:
        """Note that the run ended cleanly.

        Raises:
            DatabaseError: The server refused.
        """
        try:
            await self._connection.execute(
                "UPDATE runs SET ended_time = now() WHERE run_id = $1 AND ended_time IS NULL", self._run_id
            )
        except _BROKEN as error:
            raise DatabaseError(explain(error, self._where)) from error

    async def forget_batches(self, writer_id: bytes) -> None:
        """Delete what was remembered of a writer that has no copy of any batch left.

        Raises:
            DatabaseError: The server refused.
        """
        first, last = (UUID(bytes=writer_id + byte * 8) for byte in (b"\x00", b"\xff"))
        try:
            await self._connection.execute(
                "DELETE FROM batches WHERE batch_id BETWEEN $1 AND $2", first, last
            )
        except _BROKEN as error:
            raise DatabaseError(explain(error, self._where)) from error

    async def wal_positions(self) -> tuple[int, int]:
        """Return how far the server's log is written, and how far it is on the server's disk, in bytes.

        Raises:
            DatabaseError: The server refused.
        """
        try:
            row = await self._connection.fetchrow(_WAL_SQL)
        except _BROKEN as error:
            raise DatabaseError(explain(error, self._where)) from error
        return int(row["inserted"]), int(row["flushed"])

    async def deliver(
        self, batches: Sequence[Batch], run_id: str, *, telemetry_waits: bool = False
    ) -> list[tuple[Batch, str]]:
        """Write batches; each is in the database afterwards, or returned with the reason it cannot be.

        Telemetry is committed without waiting for the server's disk unless `telemetry_waits`: a
        server that crashes may forget what `wal_positions` did not report as flushed yet.

        Raises:
            DatabaseError: The server is away or refused; none, some or all were written: send them
                again on another connection, what is there is skipped.
        """
        telemetry = [batch for batch in batches if BY_NAME[batch.table].telemetry]
        orders = [batch for batch in batches if not BY_NAME[batch.table].telemetry]
        rejected: list[tuple[Batch, str]] = []
        try:
            for group, waits in ((orders, True), (telemetry, telemetry_waits)):
                if group:
                    await self._make_partitions(group)
                    rejected += await self._write_or_isolate(group, run_id, waits)
        except _BROKEN as error:
            self._connection.terminate()
            raise DatabaseError(explain(error, self._where)) from error
        except DatabaseError:
            self._connection.terminate()
            raise
        return rejected

    async def close(self, timeout_s: float) -> None:
        """Say goodbye to the server, or hang up."""
        try:
            await self._connection.close(timeout=timeout_s)
        except _BROKEN:
            self._connection.terminate()

    def terminate(self) -> None:
        """Hang up."""
        self._connection.terminate()

    async def _make_partitions(self, batches: Sequence[Batch]) -> None:
        for table, day in sorted({(batch.table, day) for batch in batches for day in batch.days}):
            if (table, day) in self._known_days or len(self._known_days) >= MAX_DAY_PARTITIONS:
                continue
            date = _date(day)
            if date is not None:
                await self._connection.fetchval("SELECT create_day_partition($1, $2)", table, date)
            self._known_days.add((table, day))

    async def _write_or_isolate(
        self, batches: Sequence[Batch], run_id: str, waits: bool
    ) -> list[tuple[Batch, str]]:
        """Write all in one transaction; if a row is refused, find it."""
        try:
            await self._write(batches, run_id, waits)
            return []
        except asyncpg.PostgresError as error:
            if (error.sqlstate or "")[:2] not in _DATA_ERROR_CLASSES:
                raise
            if len(batches) > 1:
                return [
                    refused
                    for batch in batches
                    for refused in await self._write_or_isolate([batch], run_id, waits)
                ]
            return await self._write_good_rows(batches[0], run_id, waits, " ".join(str(error).split()))

    async def _write_good_rows(
        self, batch: Batch, run_id: str, waits: bool, reason: str
    ) -> list[tuple[Batch, str]]:
        if BY_NAME[batch.table].telemetry or batch.row_count == 1:
            return [(batch, reason)]
        rows = split_json_payload(batch.payload)
        rejected: list[tuple[Batch, str]] = []
        async with self._connection.transaction():
            if not await self._claim([batch], run_id):
                return []
            for row in rows:
                try:
                    async with self._connection.transaction():
                        await self._insert(batch.table, row)
                except asyncpg.PostgresError as error:
                    if (error.sqlstate or "")[:2] not in _DATA_ERROR_CLASSES:
                        raise
                    single = Batch(batch.batch_id, batch.table, 1, row)
                    rejected.append((single, " ".join(str(error).split())))
        return rejected

    async def _write(self, batches: Sequence[Batch], run_id: str, waits: bool) -> None:
        async with self._connection.transaction():
            if not waits:
                await self._connection.execute("SET LOCAL synchronous_commit = off")
            await self._check_types({batch.table for batch in batches if BY_NAME[batch.table].telemetry})
            claimed = await self._claim(batches, run_id)
            for batch in batches:
                if batch.batch_id not in claimed:
                    continue
                if not BY_NAME[batch.table].telemetry:
                    await self._insert(batch.table, batch.payload)
                else:
                    await self._connection.copy_to_table(
                        batch.table,
                        # In one piece: asyncpg waits forever for a server that dies between chunks
                        # (and takes bytes for a path).
                        source=memoryview(batch.payload),
                        columns=copy_columns(BY_NAME[batch.table]),
                        format="binary",
                    )

    async def _claim(self, batches: Sequence[Batch], run_id: str) -> set[Any]:
        rows = await self._connection.fetch(
            _CLAIM_SQL,
            [batch.batch_id for batch in batches],
            [run_id] * len(batches),
            [batch.table for batch in batches],
            [batch.row_count for batch in batches],
        )
        return {row["batch_id"] for row in rows}

    async def _insert(self, table: str, payload: bytes) -> None:
        await self._connection.execute(BY_NAME[table].insert_sql, payload.decode())

    async def _check_types(self, tables: set[str]) -> None:
        """Lock the tables against changes, then compare: binary COPY would store wrong types silently."""
        if not tables:
            return
        names = sorted(tables)
        await self._connection.execute(
            "LOCK TABLE " + ", ".join(f'"{name}"' for name in names) + " IN ROW EXCLUSIVE MODE"
        )
        found = {
            (row["table_name"], row["column_name"]): row["type_name"]
            for row in await self._connection.fetch(_COLUMN_TYPES_SQL, names)
        }
        for table in names:
            for column, wanted in TELEMETRY_TYPES[table].items():
                actual = found.get((table, column), "not there")
                if actual != wanted:
                    raise DatabaseError(
                        f"column {table}.{column} at {self._where} is {actual}, this release writes {wanted}: "
                        "restore the column; rows wait in the spool"
                    )


def _date(day: int) -> dt.date | None:
    try:
        return _EPOCH + dt.timedelta(days=day)
    except OverflowError:
        return None
