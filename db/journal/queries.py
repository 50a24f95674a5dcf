"""Finds again what was recorded, as the same dataclasses that were recorded."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg

from journal import rows
from journal.codec import read_document
from journal.connection import address_of, connect
from journal.errors import DatabaseError, NotFoundError, explain
from journal.tables import BY_ROW_TYPE, RUNS, TABLES, Table

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run and what is recorded of it.

    Attributes:
        run: As it was recorded.
        ended_time: UTC; None while it runs or when it was killed.
        row_counts: Rows by table name.
    """

    run: rows.Run
    ended_time: dt.datetime | None
    row_counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class DecisionEvidence:
    """A decision with everything that belongs to it; enough to make it again.

    Attributes:
        run_id: Run it is of.
        instrument: None when it was not recorded.
        decision: The decision.
        calls: Its calls, in the order they were recorded.
        neighbors: By rank.
        intents: Orders it caused.
        order_events: Of those orders, by time.
        fills: Of those orders, by time.
        commissions: Of those fills.
    """

    run_id: str
    instrument: rows.InstrumentRow | None
    decision: rows.DecisionRow
    calls: Sequence[rows.ModelCallRow]
    neighbors: Sequence[rows.NeighborRow]
    intents: Sequence[rows.OrderIntentRow]
    order_events: Sequence[rows.OrderEventRow]
    fills: Sequence[rows.FillRow]
    commissions: Sequence[rows.CommissionRow]


class JournalReader:
    """Reads a database. `async with JournalReader(url) as reader: …`."""

    def __init__(self, database_url: str) -> None:
        """Connect on entering.

        Args:
            database_url: postgresql://…
        """
        self._database_url = database_url
        self._where = address_of(database_url)
        self._connection: Any = None

    async def __aenter__(self) -> JournalReader:
        self._connection = await connect(self._database_url)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._connection.terminate()

    async def runs(self, limit: int = 20) -> list[RunSummary]:
        """Return the latest runs, the newest first.

        Raises:
            DatabaseError: The server refused.
        """
        found = await self._fetch("SELECT * FROM runs ORDER BY started_ns DESC, run_id DESC LIMIT $1", limit)
        return [await self._summary(record) for record in found]

    async def run(self, run_id: str) -> RunSummary:
        """Return one run.

        Raises:
            NotFoundError: There is none.
            DatabaseError: The server refused.
        """
        found = await self._fetch("SELECT * FROM runs WHERE run_id = $1", run_id)
        if not found:
            raise NotFoundError(f"no run {run_id} at {self._where}: `python -m journal runs` lists them")
        return await self._summary(found[0])

    async def row_counts(self, run_id: str) -> dict[str, int]:
        """Return the rows of a run by table.

        Raises:
            DatabaseError: The server refused.
        """
        parts = [
            f"SELECT '{table.name}' AS name, count(*) AS n FROM \"{table.name}\" WHERE run_id = $1"  # noqa: S608
            for table in TABLES
        ]
        return {
            record["name"]: record["n"] for record in await self._fetch(" UNION ALL ".join(parts), run_id)
        }

    async def rows_of(self, row_type: type[T], run_id: str, limit: int = 1_000_000) -> list[T]:
        """Return the rows of one kind of a run, in the order of their time where they have one.

        Raises:
            DatabaseError: The server refused.
        """
        table = BY_ROW_TYPE[row_type]
        order = {
            rows.InstrumentRow: "con_id",
            rows.ModelCallRow: "model_call_id",
            rows.NeighborRow: "decision_id, rank",
            rows.OrderIntentRow: "created_ns, intent_id",
            rows.CommissionRow: "exec_id",
            rows.BarRow: "start_ns, con_id",
            rows.OrderEventRow: "event_ns, order_event_id",
            rows.PositionRow: "event_ns, position_id",
            rows.RiskEventRow: "event_ns, risk_event_id",
            rows.FillRow: "event_ns, exec_id",
            rows.DecisionRow: "event_ns, decision_id",
        }.get(row_type, "event_ns, con_id")
        found = await self._fetch(
            f'SELECT * FROM "{table.name}" WHERE run_id = $1 ORDER BY {order} LIMIT $2',  # noqa: S608
            run_id,
            limit,
        )
        return [_row(table, record) for record in found]

    async def decisions(self, run_id: str, limit: int = 1_000_000) -> list[rows.DecisionRow]:
        """Return the decisions of a run, the oldest first.

        Raises:
            DatabaseError: The server refused.
        """
        return await self.rows_of(rows.DecisionRow, run_id, limit)

    async def evidence(self, decision_id: str) -> DecisionEvidence:
        """Return a decision with everything that belongs to it.

        Raises:
            NotFoundError: There is none.
            DatabaseError: The server refused.
        """
        found = await self._fetch("SELECT * FROM decisions WHERE decision_id = $1", decision_id)
        if not found:
            raise NotFoundError(
                f"no decision {decision_id} at {self._where}: see the view v_decisions for their ids"
            )
        run_id = found[0]["run_id"]
        decision: rows.DecisionRow = _row(BY_ROW_TYPE[rows.DecisionRow], found[0])
        instruments = await self._related(
            rows.InstrumentRow, "run_id = $1 AND con_id = $2", run_id, decision.con_id
        )
        intents = await self._related(
            rows.OrderIntentRow, "decision_id = $1 ORDER BY created_ns", decision_id
        )
        of_intents = "run_id = $1 AND intent_id = ANY ($2) ORDER BY event_ns"
        intent_ids = [intent.intent_id for intent in intents]
        fills = await self._related(rows.FillRow, of_intents + ", exec_id", run_id, intent_ids)
        return DecisionEvidence(
            run_id=run_id,
            instrument=instruments[0] if instruments else None,
            decision=decision,
            calls=await self._related(
                rows.ModelCallRow, "decision_id = $1 ORDER BY model_call_id", decision_id
            ),
            neighbors=await self._related(rows.NeighborRow, "decision_id = $1 ORDER BY rank", decision_id),
            intents=intents,
            order_events=await self._related(
                rows.OrderEventRow, of_intents + ", order_event_id", run_id, intent_ids
            ),
            fills=fills,
            commissions=await self._related(
                rows.CommissionRow,
                "run_id = $1 AND exec_id = ANY ($2) ORDER BY exec_id",
                run_id,
                [fill.exec_id for fill in fills],
            ),
        )

    async def _related(self, row_type: type[T], condition: str, *arguments: Any) -> list[T]:
        table = BY_ROW_TYPE[row_type]
        found = await self._fetch(f'SELECT * FROM "{table.name}" WHERE {condition}', *arguments)  # noqa: S608
        return [_row(table, record) for record in found]

    async def _summary(self, record: Any) -> RunSummary:
        run: rows.Run = _row(RUNS, record)
        return RunSummary(run, record["ended_time"], await self.row_counts(run.run_id))

    async def _fetch(self, sql: str, *arguments: Any) -> list[Any]:
        try:
            found: list[Any] = await self._connection.fetch(sql, *arguments)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise DatabaseError(explain(error, self._where)) from error
        return found


def _row(table: Table, record: Any) -> Any:
    values = {
        name: read_document(record[name]) if name in table.documents else record[name]
        for name in table.columns
    }
    return table.row_type(**values)
