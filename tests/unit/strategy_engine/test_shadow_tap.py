"""Versions that are tried are asked, recorded and never used; the outside world is in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes.engine_world import World
from fakes.fake_shadow import SECOND, WILD, FakeShadow
from journal.rows import DecisionRow, OrderIntentRow, ShadowAnswerRow
from strategy.core.decision import rules_to_json
from strategy.core.values import Probabilities
from strategy.ledger import RunLedger, ShadowTally
from strategy.replay import differences, shadow_differences
from tradeserve_client.answers import Reason

UPS = (0.7, 0.1, 0.6, 0.34, 0.2, 0.75, 0.05)


async def session(world: World) -> World:
    await world.start()
    for up in UPS:
        world.forecaster.probabilities = Probabilities(0.8 - up, 0.2, up)
        await world.bar()
    await world.stop()
    return world


def decisions(world: World) -> Sequence[DecisionRow]:
    return [row for row in world.journal.rows if isinstance(row, DecisionRow)]


def shadows(world: World) -> Sequence[ShadowAnswerRow]:
    return [row for row in world.journal.rows if isinstance(row, ShadowAnswerRow)]


def what_was_done(world: World) -> Sequence[object]:
    """Every decision, order and intent, without the ids that are new in each run."""
    decided = [replace(row, decision_id="") for row in decisions(world)]
    placed = [replace(order, intent_id="", decision_id="") for order in world.broker.placed]
    intents = [
        replace(row, intent_id="", decision_id="")
        for row in world.journal.durable
        if isinstance(row, OrderIntentRow)
    ]
    ledger = world.engine.ledger
    answered = {name: (tally.in_time, tally.missing) for name, tally in ledger.services.items()}
    return [decided, placed, intents, len(world.broker.cancelled), answered, ledger.decisions]


@pytest.mark.parametrize(
    "behaviour",
    [
        {"probabilities": WILD},
        {"gate": asyncio.Event()},
        {"error": RuntimeError("the shadow is broken")},
        {"reason": Reason.DOWN},
    ],
    ids=["wildly different", "hanging", "raising", "unloaded"],
)
async def test_no_decision_or_order_changes_whatever_a_shadow_does(
    tmp_path: Path, behaviour: Mapping[str, Any]
) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "with").mkdir()
    without = await session(World(tmp_path / "without"))
    shadow = FakeShadow(**behaviour)
    tapped = World(tmp_path / "with", shadow=shadow, shadow_in_flight=2)
    await session(tapped)
    assert what_was_done(tapped) == what_was_done(without)
    assert len(without.broker.placed) > 2
    assert shadow.asked
    assert not shadows(without)


async def test_a_shadow_is_asked_once_the_decision_is_recorded_and_its_order_is_out(world: World) -> None:
    seen: list[tuple[int, int, int]] = []
    shadow = world.shadow = FakeShadow()
    shadow.on_ask = lambda: seen.append(
        (len(world.broker.placed), len(decisions(world)), world.engine.ledger.decisions.total())
    )
    await world.start()
    await world.bar()
    await world.until(lambda: bool(shadows(world)))
    assert seen == [(1, 1, 1)]
    (request,), (decision,) = shadow.asked, decisions(world)
    assert request.window.astype("<f4").tobytes() == decision.window


async def test_the_answer_and_the_would_be_decision_are_recorded_with_the_real_ones_id(world: World) -> None:
    world.shadow = FakeShadow(probabilities=[Probabilities(0.9, 0.1, 0.0)])
    await session(world)
    real, (first, *rest) = decisions(world), shadows(world)
    assert [row.decision_id for row in (first, *rest)] == [row.decision_id for row in real]
    assert (first.service, first.model_version, first.artifact_sha256) == ("lstm_cnn", 2, "cd" * 32)
    assert (first.outcome, first.output) == ("in time", {"probabilities": [0.9, 0.1, 0.0]})
    assert (first.live_side, first.side, first.agrees) == ("BUY", "SELL", False)
    assert first.quantity is not None
    assert first.risk_checks
    assert first.probability_difference == pytest.approx(0.8)
    assert first.up_probability == pytest.approx((0.7 + 0.0) / 2)
    tally = world.engine.ledger.shadows[SECOND]
    assert (tally.asked, tally.answered, tally.dropped) == (len(UPS), len(UPS), 0)
    assert tally.agreed == sum(bool(row.agrees) for row in (first, *rest)) < len(UPS)


async def test_the_same_answers_lead_to_the_same_decisions(world: World) -> None:
    world.shadow = FakeShadow(probabilities=[Probabilities(0.8 - up, 0.2, up) for up in UPS])
    await session(world)
    assert all(row.agrees and row.probability_difference == 0 for row in shadows(world))
    for real, other in zip(decisions(world), shadows(world), strict=True):
        assert other.up_probability == real.up_probability
        assert list(other.risk_checks) == list(real.risk_checks)


async def test_a_shadow_that_hangs_fills_its_places_and_what_is_more_is_dropped(world: World) -> None:
    gate = asyncio.Event()
    shadow = world.shadow = FakeShadow(gate=gate)
    world.shadow_in_flight = 2
    await world.start()
    for _ in range(5):
        await world.bar()
    assert len(shadow.asked) == 2
    dropped = shadows(world)
    assert [row.outcome for row in dropped] == ["busy"] * 3
    assert {row.sent_after_ns for row in dropped} == {-1}
    assert "2 questions are open" in dropped[0].detail
    assert world.engine.ledger.shadows[SECOND].dropped == 3
    gate.set()
    await world.until(lambda: len(shadows(world)) == 5)
    await world.bar()
    await world.until(lambda: len(shadow.asked) == 3)


async def test_an_answer_that_comes_while_a_decision_is_made_waits_for_it(world: World) -> None:
    shadow = world.shadow = FakeShadow(gate=asyncio.Event())
    await world.start()
    await world.bar()
    world.forecaster.gate = asyncio.Event()
    world.feed.quote()
    world.feed.bar()
    await world.until(lambda: len(world.forecaster.requests) == 2)
    assert shadow.gate is not None
    shadow.gate.set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not shadows(world)
    world.forecaster.gate.set()
    await world.until(lambda: len(shadows(world)) == 2)


async def test_the_run_ends_although_a_shadow_does_not_answer(world: World) -> None:
    world.shadow = FakeShadow(gate=asyncio.Event())
    await world.start()
    await world.bar()
    await world.stop()
    (row,) = shadows(world)
    assert (row.outcome, row.detail, row.agrees) == ("late", "the run ended first", None)


async def test_a_shadow_that_raises_is_counted_as_failed(world: World) -> None:
    world.shadow = FakeShadow(error=RuntimeError("broken"))
    await session(world)
    assert world.engine.ledger.shadows[SECOND].missing == {"failed": len(UPS)}


async def test_would_be_decisions_are_made_again_bit_for_bit(world: World) -> None:
    world.shadow = FakeShadow(probabilities=WILD)
    await session(world)
    rules = rules_to_json(world.rules)
    for real, answer in zip(decisions(world), shadows(world), strict=True):
        assert list(differences(real, rules, ())) == []
        assert list(shadow_differences(real, rules, [answer])) == []
    assert answer.up_probability is not None
    changed = replace(answer, up_probability=answer.up_probability + 1e-12)
    (found,) = shadow_differences(real, rules, [changed])
    assert found.field == "lstm_cnn v2 up_probability"


def test_a_tally_starts_without_a_difference() -> None:
    ledger = RunLedger()
    tally = ledger.shadows.setdefault(SECOND, ShadowTally())
    assert not tally.max_difference >= 0
