"""What a run left in Postgres and at the simulator, for tests of the whole stack."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg


class Records:
    """The rows of one run; $1 is its id in every statement."""

    def __init__(self, database_url: str, run_id: str) -> None:
        self._url = database_url
        self.run_id = run_id

    def rows(self, sql: str) -> Sequence[Mapping[str, Any]]:
        """Return the rows of a statement."""

        async def fetch() -> Sequence[Mapping[str, Any]]:
            connection = await asyncpg.connect(self._url, timeout=10)
            try:
                found: Sequence[Mapping[str, Any]] = await connection.fetch(sql, self.run_id)
                return found
            finally:
                await connection.close()

        return asyncio.run(fetch())

    def value(self, sql: str) -> Any:
        """Return the only value of a statement."""
        (row,) = self.rows(sql)
        return next(iter(row.values()))


def assert_orders_were_recorded_first(records: Records) -> None:
    """Every order that was sent has one intent, made before it was sent; none was sent twice."""
    sent = records.rows(
        "select e.intent_id, e.event_ns, i.created_ns from order_events e left join order_intents i "
        "using (intent_id) where e.run_id = $1 and e.status = 'sent'"
    )
    assert sent
    assert [row for row in sent if row["created_ns"] is None] == []
    assert [row for row in sent if row["created_ns"] > row["event_ns"]] == []
    assert len({row["intent_id"] for row in sent}) == len(sent)


def state_file(folder: Path) -> Path:
    """Return where the simulator of a stack saves."""
    (path,) = folder.glob("runs/*/gateway.state.json")
    return path


def simulator_orders(path: Path) -> list[str]:
    """Return the references of all orders that the simulator ever took."""
    return [order["order_ref"] for order in json.loads(path.read_text())["orders"]]


def simulator_executions(path: Path) -> dict[str, tuple[str, Decimal, Decimal]]:
    """Return the executions at the simulator: exec_id -> side, quantity, price."""
    return {
        one["exec_id"]: (one["action"], Decimal(str(one["shares"])), Decimal(str(one["price"])))
        for one in json.loads(path.read_text())["executions"]
    }
