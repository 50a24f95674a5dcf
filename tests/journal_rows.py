"""Rows for the journal's tests."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np

from journal import rows

NS = 1_700_000_000_123_456_789  # 2023-11-14T22:13:20Z and odd nanoseconds
DAY_NS = 86_400_000_000_000


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait for something that another task or process brings about."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    for _ in iter(condition, True):
        assert loop.time() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


def a_run(run_id: str = "") -> rows.Run:
    return rows.Run(
        run_id=run_id or str(uuid.uuid4()),
        started_ns=NS,
        strategy_name="demo",
        trading_mode="paper",
        data_source="generated",
        seed=7,
        code_version="abc",
        config={"risk": {"limit": 0.02}, "symbols": ["AAA"]},
        models=[{"name": "lstm_cnn", "version": 1}],
    )


def a_quote(index: int = 0, event_ns: int = NS) -> rows.QuoteRow:
    return rows.QuoteRow(1, event_ns + index, 100.0 + index, 5.0, 100.01 + index, 7.0)


def an_intent(intent_id: str = "", decision_id: str = "d") -> rows.OrderIntentRow:
    return rows.OrderIntentRow(
        intent_id=intent_id or uuid.uuid4().hex,
        decision_id=decision_id,
        con_id=1,
        symbol="AAA",
        side="BUY",
        purpose="entry",
        quantity=Decimal(10),
        limit_price=Decimal("100.0100"),
        stop_price=Decimal("99.5"),
        take_profit_price=None,
        created_ns=NS,
    )


def a_decision(decision_id: str = "", **changes: Any) -> rows.DecisionRow:
    values: dict[str, Any] = {
        "decision_id": decision_id or str(uuid.uuid4()),
        "con_id": 1,
        "event_ns": NS,
        "decided_ns": NS + 5_000_000,
        "side": "BUY",
        "purpose": "entry",
        "strength": 1 / 3,
        "reason": "up, said both “voters”",
        "down_probability": 0.1 + 0.2,
        "flat_probability": 1e-300,
        "up_probability": 0.7,
        "weights": {"zeta": 0.1, "alpha": 0.9},
        "missing": {"vision": "off"},
        "risk_checks": [{"name": "notional", "value": 2.5, "limit": float("inf"), "passed": True}],
        "state": {"equity": 1e6 / 3, "spread_bps": float("inf"), "zero": -0.0, "counters": [1, 2]},
        "ledger": {"decode": 1000, "ensemble": 2000},
        "budget_ns": 50_000_000,
        "window": np.arange(300, dtype="<f4").reshape(60, 5).tobytes(),
    }
    return rows.DecisionRow(**{**values, **changes})


def one_of_each(decision_id: str = "", intent_id: str = "") -> list[rows.Row]:
    decision_id = decision_id or str(uuid.uuid4())
    intent_id = intent_id or uuid.uuid4().hex
    reference = f"ts/{intent_id}/E"
    return [
        a_quote(),
        rows.TradeRow(1, NS, 100.01, 3.0),
        rows.BarRow(1, NS - 60_000_000_000, NS, 1.5, 2.5, 1.25, 2.0, 1e6),
        rows.BookRow(1, NS, [100.0, 99.99], [1.0, 2.0], [100.01], [5.5]),
        rows.InstrumentRow(1, "AAA", "USD", 0.01, "STK"),
        a_decision(decision_id),
        rows.ModelCallRow(
            decision_id, "lstm_cnn", "r1", "in time", "", True, 100, 15_000_000, 3_000_000, 10, 20, 30,
            "lstm_cnn", 1, "ab" * 32, {"probabilities": [0.1, 0.2, 0.7]},
            [
                {"target": "gpu1:8001", "cause": "first", "outcome": "down", "sent_after_ns": 50},
                {"target": "gpu2:8001", "cause": "retry", "outcome": "in time", "sent_after_ns": 100},
            ],
        ),
        rows.NeighborRow(decision_id, 0, 42, 7, "EURUSD", NS - DAY_NS, 3600, 0.987654321, -12.5),
        an_intent(intent_id, decision_id),
        rows.OrderEventRow(
            reference, intent_id, 9, 1, "Filled", Decimal(10), Decimal(0), 100.01, NS + 1, 0, "done"
        ),
        rows.FillRow(
            "0001.1", reference, intent_id, 9, 1, "AAA", "BUY", Decimal(10), Decimal("100.0100"), NS + 2
        ),
        rows.CommissionRow("0001.1", Decimal("1.005"), "USD", None),
        rows.PositionRow(1, "AAA", Decimal(10), 100.01, NS + 3),
        rows.RiskEventRow("disconnected", 0, NS + 4, "the gateway went away", {"code": 1100}),
        rows.ShadowAnswerRow(
            decision_id, "lstm_cnn", 2, "cd" * 32, "r2", "in time", "", 6_000_000, 1_006_000_000, 8_000_000,
            {"probabilities": [0.2, 0.2, 0.6]}, "BUY", "BUY", "entry", 1 / 3, Decimal(9), "up, by 0.4", 0.2, 0.2, 0.6,
            [{"name": "notional", "value": 2.5, "limit": float("inf"), "passed": True}], True, 0.1 + 0.2,
        ),
        rows.VisionChartRow("ef" * 32, b"\x89PNG\r\n\x1a\n\x00" + bytes(range(256))),
        rows.VisionReadingRow(
            decision_id, 1, NS, "r3", "in time", "", 7_000_000, 3_007_000_000, 900_000_000, 2_000_000, 640_000_000,
            1_000_000, "ef" * 32, {"symbol": "AAA", "extent": {"low_price": 99.5}, "past_outcomes": [[0.5, -3.25]]},
            Decimal(-3), "chart_reader", 3, "ab" * 32, "rev 7", "swing", "cd" * 32, "Read “this”.", '{"signal": "BUY"}',
            '{"temperature": 0}', 200, 20, 120_000_000, "BUY", 0.1 + 0.2, 0.5, "a higher low", ["double_top", "a,{b}"],
            [99.5, 1 / 3], ["volume is \"thin\""], [{"field": "key_levels", "detail": "outside"}], NS + 60_000_000_000,
        ),
        rows.VisionEffectRow(decision_id, str(uuid.uuid4()), "shrink", "BUY", 1 / 3, 0.1, 0.7, False, 0.5),
    ]  # fmt: skip
