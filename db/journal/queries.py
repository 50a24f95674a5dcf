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
from journal.readings import OUTCOMES_SQL, ReadChart, ReadingOutcome
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
        shadows: What versions that are tried answered, and would have led to.
        reading: What was read on its chart afterwards; None when nobody was asked.
        vision_effect: What an earlier chart's reading did to the entry that it wanted; None: nothing.
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
    shadows: Sequence[rows.ShadowAnswerRow] = ()
    reading: rows.VisionReadingRow | None = None
    vision_effect: rows.VisionEffectRow | None = None


@dataclass(frozen=True, slots=True)
class ShadowSummary:
    """What a version that was tried did beside the real one, over all runs that asked it.

    Attributes:
        artifacts: Digests of the files that had this number.
        runs: How many runs asked it.
        decisions: Real decisions after which it was to be asked.
        asked: Questions that were sent.
        answered: Those that were answered by its deadline.
        missing: Why there was no answer -> how often.
        agreed: Answers that lead to the decision that was made.
        changes: "HOLD -> BUY", the real side and the other -> how often, without those that agree.
        max_probability_difference: From the voter's own answers; None without a pair.
        p50_ms, p99_ms: Round trips; None without an answer.
    """

    artifacts: Sequence[str]
    runs: int
    decisions: int
    asked: int
    answered: int
    missing: Mapping[str, int]
    agreed: int
    changes: Mapping[str, int]
    max_probability_difference: float | None
    p50_ms: float | None
    p99_ms: float | None


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
            rows.ShadowAnswerRow: "decision_id, service, model_version",
            rows.VisionChartRow: "chart_sha256",
            rows.VisionReadingRow: "as_of_ns, decision_id",
            rows.VisionEffectRow: "decision_id",
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

    async def last_decisions(self, run_id: str, count: int) -> list[rows.DecisionRow]:
        """Return the last decisions of a run, the oldest of them first.

        Raises:
            DatabaseError: The server refused.
        """
        table = BY_ROW_TYPE[rows.DecisionRow]
        found = await self._fetch(
            "SELECT * FROM decisions WHERE run_id = $1 ORDER BY event_ns DESC, decision_id DESC LIMIT $2",
            run_id,
            count,
        )
        return [_row(table, record) for record in reversed(found)]

    async def shadow_summary(self, service: str, model_version: int) -> ShadowSummary:
        """Return what a version that was tried did, over all runs.

        Raises:
            NotFoundError: No run has asked it.
            DatabaseError: The server refused.
        """
        of_it = "FROM shadow_answers WHERE service = $1 AND model_version = $2"
        trip = "(ORDER BY received_after_ns - sent_after_ns) FILTER (WHERE agrees IS NOT NULL) / 1e6"
        (whole,) = await self._fetch(
            "SELECT array_agg(DISTINCT artifact_sha256) AS artifacts, count(DISTINCT run_id) AS runs, "
            "count(*) AS decisions, count(*) FILTER (WHERE sent_after_ns >= 0) AS asked, "
            "count(*) FILTER (WHERE agrees IS NOT NULL) AS answered, count(*) FILTER (WHERE agrees) AS agreed, "
            "max(probability_difference) AS max_probability_difference, "
            f"percentile_cont(0.5) WITHIN GROUP {trip} AS p50_ms, "
            f"percentile_cont(0.99) WITHIN GROUP {trip} AS p99_ms {of_it}",
            service,
            model_version,
        )
        if not whole["decisions"]:
            raise NotFoundError(
                f"no run at {self._where} has asked version {model_version} of {service} beside another"
            )
        parts = await self._fetch(
            f"SELECT outcome, agrees, live_side, side, count(*) AS n {of_it} GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC",
            service,
            model_version,
        )
        missing: dict[str, int] = {}
        changes: dict[str, int] = {}
        for part in parts:
            if part["agrees"] is None:
                missing[part["outcome"]] = missing.get(part["outcome"], 0) + part["n"]
            elif not part["agrees"]:
                change = f"{part['live_side']} -> {part['side']}"
                changes[change] = changes.get(change, 0) + part["n"]
        return ShadowSummary(**dict(whole), missing=missing, changes=changes)

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
            shadows=await self._related(
                rows.ShadowAnswerRow, "decision_id = $1 ORDER BY service, model_version", decision_id
            ),
            reading=_first(await self._related(rows.VisionReadingRow, "decision_id = $1", decision_id)),
            vision_effect=_first(await self._related(rows.VisionEffectRow, "decision_id = $1", decision_id)),
        )

    async def read_chart(self, decision_id: str) -> ReadChart:
        """Return the chart that was drawn after a decision, and what was read on it.

        Raises:
            NotFoundError: Nobody was asked to read one.
            DatabaseError: The server refused.
        """
        reading = _first(await self._related(rows.VisionReadingRow, "decision_id = $1", decision_id))
        if reading is None:
            raise NotFoundError(f"no chart of a decision {decision_id} was to be read, at {self._where}")
        charts = await self._related(rows.VisionChartRow, "chart_sha256 = $1", reading.chart_sha256)
        return ReadChart(
            symbol=str(reading.question.get("symbol", f"con_id {reading.con_id}")),
            reading=reading,
            png=charts[0].png if charts else b"",
            effects=await self._related(
                rows.VisionEffectRow, "reading_decision_id = $1 ORDER BY decision_id", decision_id
            ),
        )

    async def reading_outcomes(self, horizon_bars: int) -> list[ReadingOutcome]:
        """Return every reading that named a direction and whose outcome is recorded, the oldest first.

        The close of the chart's last bar is compared with that of the bar that ends `horizon_bars` bars
        later; where that bar is missing (the session ended) there is no outcome. A picture that was read
        again, as in a session that is replayed, counts once.

        Raises:
            DatabaseError: The server refused.
        """
        found = await self._fetch(OUTCOMES_SQL, horizon_bars)
        return [ReadingOutcome(**dict(record)) for record in found]

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


def _first(found: Sequence[T]) -> T | None:
    return found[0] if found else None


def _row(table: Table, record: Any) -> Any:
    values = {
        name: read_document(record[name]) if name in table.documents else record[name]
        for name in table.columns
    }
    return table.row_type(**values)
