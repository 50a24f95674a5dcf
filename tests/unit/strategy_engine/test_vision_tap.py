"""Charts are read once decisions are made; readings restrain later entries and nothing else. All in memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes.engine_world import World
from fakes.fake_reader import CONTRADICTED, READING, FakeReader, plan
from fakes.fake_world import START_NS
from journal.rows import DecisionRow, OrderIntentRow, VisionChartRow, VisionEffectRow, VisionReadingRow
from strategy.core.calibration import Calibration
from strategy.core.decision import rules_to_json
from strategy.core.values import Probabilities, Side
from strategy.replay import differences
from tradeserve_client.answers import Reason
from tradeserve_client.strategy_service import Side as Said

UPS = (0.7, 0.1, 0.6, 0.34, 0.2, 0.75, 0.05)
NEUTRAL = Probabilities(0.3, 0.4, 0.3)
BULLISH = Probabilities(0.1, 0.2, 0.7)


def rows(world: World, kind: type[Any]) -> list[Any]:
    return [row for row in world.journal.rows if isinstance(row, kind)]


async def heard(world: World, count: int) -> None:
    await world.until(lambda: len(rows(world, VisionReadingRow)) == count)


async def bar(world: World, probabilities: Probabilities, readings: int) -> DecisionRow:
    """Close a bar, wait until its chart is dealt with, and return its decision."""
    world.forecaster.probabilities = probabilities
    await world.bar()
    await heard(world, readings)
    decision: DecisionRow = rows(world, DecisionRow)[-1]
    return decision


async def session(world: World, reader: FakeReader | None = None) -> World:
    await world.start()
    for up in UPS:
        world.forecaster.probabilities = Probabilities(0.8 - up, 0.2, up)
        await world.bar()
        await world.until(lambda: reader is None or bool(reader.asked))
    await world.stop()
    return world


def what_was_done(world: World) -> Sequence[object]:
    """Every decision, order and intent, without the ids that are new in each run."""
    decided = [replace(row, decision_id="") for row in rows(world, DecisionRow)]
    placed = [replace(order, intent_id="", decision_id="") for order in world.broker.placed]
    intents = [
        replace(row, intent_id="", decision_id="")
        for row in world.journal.durable
        if isinstance(row, OrderIntentRow)
    ]
    return [decided, placed, intents, len(world.broker.cancelled), world.engine.ledger.decisions]


@pytest.mark.parametrize(
    "behaviour",
    [
        {"gate": asyncio.Event()},
        {"error": RuntimeError("the reader is broken")},
        {"reason": Reason.LATE},
        {"reason": Reason.DOWN},
        {"reading": CONTRADICTED},
        {"reading": replace(READING, expire_ns=START_NS)},
    ],
    ids=["hanging", "raising", "late", "killed", "contradicted", "expired"],
)
async def test_without_a_reading_that_counts_every_decision_and_order_is_as_without_a_reader(
    tmp_path: Path, behaviour: Mapping[str, Any]
) -> None:
    for name in ("without", "with"):
        (tmp_path / name).mkdir()
    without = await session(World(tmp_path / "without"))
    reader = FakeReader(**behaviour)
    tapped = await session(World(tmp_path / "with", vision=plan(reader)), reader)
    assert what_was_done(tapped) == what_was_done(without)
    assert len(without.broker.placed) > 2
    assert not rows(without, VisionReadingRow)
    assert not rows(tapped, VisionEffectRow)


async def test_a_chart_is_drawn_once_the_decision_is_recorded_and_its_order_is_out(world: World) -> None:
    seen: list[tuple[int, int]] = []
    reader = FakeReader(on_ask=lambda: seen.append((len(world.broker.placed), len(rows(world, DecisionRow)))))
    world.vision = plan(reader)
    await world.start()
    decision = await bar(world, BULLISH, 1)
    assert seen == [(1, 1)]
    (query,), (chart,), (row,) = reader.asked, rows(world, VisionChartRow), rows(world, VisionReadingRow)
    assert query.chart_png == chart.png
    assert chart.chart_sha256 == row.chart_sha256 == hashlib.sha256(chart.png).hexdigest()
    assert (row.decision_id, row.as_of_ns) == (decision.decision_id, decision.event_ns)
    assert (query.symbol, query.as_of_ns, query.request_id) == ("ACME", decision.event_ns, row.request_id)
    assert query.extent is not None
    assert query.context is not None
    assert query.extent.end_ns == decision.event_ns
    assert query.extent.low_price < query.extent.last_price < query.extent.high_price
    assert set(query.context.indicators) == {"rsi_14", "atr_14_bps", "volatility_bps", "sma_20", "sma_50"}
    assert query.context.volume_ratio_forecast is None
    assert row.question["indicators"] == query.context.indicators
    assert (row.outcome, row.signal, row.trust, row.prompt) == ("in time", "SELL", 1.0, "Read the chart.")
    assert row.held_quantity == world.held > 0
    assert f"against the open +{world.held}, which stays as it is" in world.text.getvalue()


async def test_a_veto_blocks_the_entries_against_it_until_it_expires(world: World) -> None:
    reader = FakeReader()
    world.vision = plan(reader)
    await world.start()
    first = await bar(world, NEUTRAL, 1)
    reader.reason = Reason.DOWN  # from here on nothing new is read
    vetoed = [await bar(world, BULLISH, count) for count in (2, 3, 4)]
    assert not world.broker.placed
    for row in vetoed:
        assert row.side == "HOLD"
        assert "vetoed: vision reads SELL, stated confidence 0.90 x trust 1.00" in row.reason
        assert row.state["vision"]["decision_id"] == first.decision_id
    free = await bar(world, BULLISH, 5)
    assert (free.side, free.state["vision"]) == ("BUY", None)
    assert len(world.broker.placed) == 1
    effects = rows(world, VisionEffectRow)
    assert [(row.effect, row.wanted_side, row.strength) for row in effects] == [("veto", "BUY", 0.0)] * 3
    assert {row.reading_decision_id for row in effects} == {first.decision_id}
    assert [row.decision_id for row in effects] == [row.decision_id for row in vetoed]
    tally = world.engine.ledger.vision
    assert (tally.asked, tally.answered, tally.vetoes, tally.shrinks) == (5, 1, 3, 0)
    assert tally.missing == {"down": 4}


async def test_the_servers_expiry_ends_a_veto_before_its_bars_do(world: World) -> None:
    reader = FakeReader(reading=replace(READING, expire_ns=world.clock.wall_ns() + 10**9))
    world.vision = plan(reader)
    await world.start()
    await bar(world, NEUTRAL, 1)
    reader.reason = Reason.DOWN
    assert (await bar(world, BULLISH, 2)).side == "HOLD"
    world.clock.now_ns += 10**9
    assert (await bar(world, BULLISH, 3)).side == "BUY"


async def test_an_entry_with_the_reading_goes_out_in_full(world: World, tmp_path: Path) -> None:
    world.vision = plan(FakeReader(reading=replace(READING, signal=Said.BUY)))
    await world.start()
    await bar(world, NEUTRAL, 1)
    agreed = await bar(world, BULLISH, 2)
    assert agreed.side == "BUY"
    (effect,) = rows(world, VisionEffectRow)
    assert (effect.effect, effect.strength) == ("agrees", agreed.strength)
    (tmp_path / "other").mkdir()
    other = World(tmp_path / "other")
    await other.start()
    for probabilities in (NEUTRAL, BULLISH):
        other.forecaster.probabilities = probabilities
        await other.bar()
    await other.stop()
    assert [order.quantity for order in other.broker.placed] == [
        order.quantity for order in world.broker.placed
    ]


async def test_a_less_confident_reading_shrinks_the_order(world: World) -> None:
    world.vision = plan(FakeReader(reading=replace(READING, stated_confidence=0.5)))
    await world.start()
    await bar(world, NEUTRAL, 1)
    shrunk = await bar(world, BULLISH, 2)
    (order,) = world.broker.placed
    (effect,) = rows(world, VisionEffectRow)
    assert (shrunk.side, effect.effect) == ("BUY", "shrink")
    assert effect.strength == effect.wanted_strength * 0.5
    assert order.quantity == 9  # 2 % of 100,000 at 100.03 would be 19
    assert world.engine.ledger.vision.shrinks == 1
    assert "shrunk to 0.50: vision reads SELL" in shrunk.reason


async def test_an_exit_is_never_held_back(world: World) -> None:
    reader = FakeReader(reason=Reason.DOWN)
    world.vision = plan(reader)
    await world.start()
    await bar(world, BULLISH, 1)
    assert world.held > 0
    reader.reason, reader.reading = None, replace(READING, signal=Said.BUY)
    await bar(world, NEUTRAL, 2)
    left = await bar(world, Probabilities(0.7, 0.2, 0.1), 3)
    assert left.side == "SELL"
    assert left.purpose == "exit"
    assert left.state["vision"]["veto"]


async def test_a_calibrated_reader_that_is_no_better_than_a_coin_is_not_heard(world: World) -> None:
    calibration = Calibration("ab" * 32, "cd" * 32, 10, (0.0, 1.0), (0.3, 0.5))
    world.vision = plan(FakeReader(), calibration=calibration)
    await world.start()
    await bar(world, NEUTRAL, 1)
    assert (await bar(world, BULLISH, 2)).side == "BUY"
    assert "SELL 0.90 x trust 1.00: no effect" in world.text.getvalue()


async def test_one_question_is_open_and_the_newest_chart_waits(world: World) -> None:
    reader = FakeReader(gate=asyncio.Event())
    world.vision = plan(reader)
    await world.start()
    await world.bar()
    await world.until(lambda: bool(reader.asked))
    for _ in range(3):
        await world.bar()
    await heard(world, 2)
    assert len(reader.asked) == 1
    dropped = rows(world, VisionReadingRow)
    assert [(row.outcome, row.request_id, row.chart_sha256) for row in dropped] == [("busy", "", "")] * 2
    assert "a newer chart" in dropped[0].detail
    decisions = rows(world, DecisionRow)
    assert [row.decision_id for row in dropped] == [row.decision_id for row in decisions[1:3]]
    assert reader.gate is not None
    reader.gate.set()
    await heard(world, 4)
    assert [query.as_of_ns for query in reader.asked] == [decisions[0].event_ns, decisions[3].event_ns]
    assert world.engine.ledger.vision.dropped == 2


async def test_nothing_is_drawn_or_heard_while_a_decision_is_made(world: World) -> None:
    reader = FakeReader(gate=asyncio.Event())
    world.vision = plan(reader)
    await world.start()
    await world.bar()
    await world.until(lambda: bool(reader.asked))
    world.forecaster.gate = asyncio.Event()
    world.feed.quote()
    world.feed.bar()
    await world.until(lambda: len(world.forecaster.requests) == 2)
    assert reader.gate is not None
    reader.gate.set()
    for _ in range(20):
        await asyncio.sleep(0)
    early = rows(world, VisionReadingRow)
    world.forecaster.gate.set()
    await heard(world, 2)
    assert not early


async def test_the_run_ends_although_nobody_reads(world: World) -> None:
    world.vision = plan(FakeReader(gate=asyncio.Event()))
    await world.start()
    await world.bar()
    await world.bar()
    await world.until(lambda: world.engine.ledger.vision.asked == 1)
    await world.stop()
    assert sorted((row.outcome, row.detail) for row in rows(world, VisionReadingRow)) == [
        ("busy", "the run ended first"),
        ("late", "the run ended first"),
    ]


async def test_restrained_decisions_are_made_again_bit_for_bit(world: World) -> None:
    world.vision = plan(FakeReader(reading=replace(READING, stated_confidence=0.3)))
    await world.start()
    for count, up in enumerate(UPS, 1):
        await bar(world, Probabilities(0.8 - up, 0.2, up), count)
    rules = rules_to_json(world.rules)
    intents = [row for row in world.journal.durable if isinstance(row, OrderIntentRow)]
    assert world.engine.ledger.vision.shrinks
    for row in rows(world, DecisionRow):
        own = [intent for intent in intents if intent.decision_id == row.decision_id]
        assert list(differences(row, rules, own)) == []
    entered = next(row for row in rows(world, DecisionRow) if row.state["vision"] and row.purpose == "entry")
    state = {**entered.state, "vision": {**entered.state["vision"], "share": 0.71}}
    assert "strength" in {found.field for found in differences(replace(entered, state=state), rules, ())}


async def test_the_effect_is_for_the_side_it_speaks_against(world: World) -> None:
    world.vision = plan(FakeReader(reading=replace(READING, signal=Said.BUY)))
    await world.start()
    await bar(world, NEUTRAL, 1)
    vetoed = await bar(world, Probabilities(0.7, 0.2, 0.1), 2)
    assert vetoed.side == Side.HOLD.value
    assert "vetoed: vision reads BUY" in vetoed.reason
