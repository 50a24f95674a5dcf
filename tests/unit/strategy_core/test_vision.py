"""What a reading may do: forbid or shrink an entry against it, for a while, and nothing else."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from strategy.core.calibration import Calibration
from strategy.core.decision import (
    DecisionInput,
    DecisionRules,
    input_to_json,
    make_decision,
    remake,
    rules_to_json,
)
from strategy.core.policy import PolicyState
from strategy.core.risk_limits import RiskState
from strategy.core.values import Probabilities, Purpose, Side, Signal
from strategy.core.vision import Reading, VisionEffect, VisionLimits, effect_of, restrain
from tradeserve_client.answers import Answer, CallRecord

BAR_NS = 60_000_000_000
AS_OF_NS = 1000 * BAR_NS
NOW_NS = 5_000_000_000
LIMITS = VisionLimits(3, 0.5, 0.6, 0.25, 10)
READING = Reading("d1", Side.SELL, 0.7, 0.9, AS_OF_NS, NOW_NS + 1, "ab" * 32, "cd" * 32)
CALIBRATION = Calibration("ab" * 32, "cd" * 32, 10, (0.5, 1.0), (0.4, 0.8))
ENTRY = Signal(Side.BUY, 0.8, Purpose.ENTRY, "edge")


def effect(
    reading: Reading | None = READING,
    calibration: Calibration | None = None,
    *,
    now_ns: int = NOW_NS,
    event_ns: int = AS_OF_NS + BAR_NS,
) -> VisionEffect | None:
    return effect_of(reading, calibration, LIMITS, now_ns=now_ns, event_ns=event_ns, bar_ns=BAR_NS)


def test_an_entry_against_a_confident_reading_is_vetoed() -> None:
    found = effect()
    assert found is not None
    assert found.veto
    vetoed = restrain(ENTRY, found)
    assert (vetoed.side, vetoed.strength, vetoed.purpose) == (Side.HOLD, 0.0, None)
    assert vetoed.reason == "edge; vetoed: vision reads SELL, stated confidence 0.70 x trust 0.90"


def test_an_entry_against_a_less_confident_reading_is_shrunk() -> None:
    found = effect(replace(READING, stated_confidence=0.5, trust=0.8))
    assert found is not None
    assert not found.veto
    shrunk = restrain(ENTRY, found)
    assert (shrunk.side, shrunk.purpose) == (Side.BUY, Purpose.ENTRY)
    assert shrunk.strength == pytest.approx(0.8 * 0.6)


def test_an_undecided_reading_shrinks_entries_of_either_side_and_vetoes_none() -> None:
    found = effect(replace(READING, signal=Side.HOLD, stated_confidence=1.0, trust=1.0))
    assert found is not None
    assert not found.veto
    assert [restrain(replace(ENTRY, side=side), found).strength for side in (Side.BUY, Side.SELL)] == [
        0.4,
        0.4,
    ]


def test_an_entry_that_a_reading_agrees_with_stays_as_it_is() -> None:
    agreed = replace(ENTRY, side=Side.SELL)
    assert restrain(agreed, effect()) is agreed


@pytest.mark.parametrize("purpose", [Purpose.EXIT, Purpose.FLATTEN, None])
def test_nothing_but_an_entry_is_touched(purpose: Purpose | None) -> None:
    signal = Signal(Side.BUY, 1.0, purpose, "")
    assert restrain(signal, effect()) is signal


@pytest.mark.parametrize(
    "reading",
    [
        None,
        replace(READING, expire_ns=NOW_NS),
        replace(READING, trust=0.49),
        replace(READING, trust=math.nan),
        replace(READING, stated_confidence=math.inf),
        replace(READING, stated_confidence=-0.1),
        replace(READING, stated_confidence=0.0),
    ],
    ids=["missing", "expired", "contradicted", "trust unknown", "infinite", "negative", "sure of nothing"],
)
def test_what_is_not_to_be_heard_has_no_effect(reading: Reading | None) -> None:
    assert effect(reading) is None


def test_a_reading_is_heard_after_its_chart_for_so_many_bars_and_no_longer() -> None:
    heard = [effect(event_ns=AS_OF_NS + bars * BAR_NS) is not None for bars in range(-1, 6)]
    assert heard == [False, False, True, True, True, False, False]


def test_a_calibrated_reading_counts_by_its_probability() -> None:
    found = effect(replace(READING, stated_confidence=1.0, trust=1.0), CALIBRATION)
    assert found is not None
    assert (found.confidence, found.calibrated, found.veto) == (0.8, True, True)
    weaker = effect(replace(READING, stated_confidence=0.75, trust=0.9), CALIBRATION)
    assert weaker is not None
    assert not weaker.veto
    assert weaker.share == pytest.approx(1 - 0.2 * 0.9)
    assert "probability 0.60" in restrain(ENTRY, weaker).reason


def test_a_reader_that_was_right_no_more_often_than_a_coin_is_not_heard() -> None:
    assert effect(replace(READING, stated_confidence=0.625), CALIBRATION) is None
    easily = replace(LIMITS, veto_weight=0.3)
    coin = replace(READING, stated_confidence=0.625, trust=1.0)
    now = {"now_ns": NOW_NS, "event_ns": AS_OF_NS + BAR_NS, "bar_ns": BAR_NS}
    assert effect_of(coin, CALIBRATION, easily, **now) is None
    assert effect_of(coin, None, easily, **now) is not None


@pytest.mark.parametrize(
    "calibration",
    [
        replace(CALIBRATION, count=9),
        replace(CALIBRATION, model_sha256="00" * 32),
        replace(CALIBRATION, prompt_sha256="00" * 32),
    ],
    ids=["too few outcomes", "another model", "another prompt"],
)
def test_a_calibration_that_does_not_fit_is_not_used(calibration: Calibration) -> None:
    found = effect(calibration=calibration)
    assert found is not None
    assert (found.calibrated, found.confidence) == (False, READING.stated_confidence)


def test_how_often_a_direction_came_says_nothing_about_undecided_readings() -> None:
    found = effect(replace(READING, signal=Side.HOLD), CALIBRATION)
    assert found is not None
    assert not found.calibrated


@pytest.fixture
def given(flat: PolicyState, risk_state: RiskState) -> DecisionInput:
    call = CallRecord("", "", 0, 0, 0)
    bullish = Answer(Probabilities(0.1, 0.3, 0.6), call)
    return DecisionInput({"lstm_cnn": bullish, "gaf_resnet": bullish}, flat, risk_state)


def test_a_veto_is_part_of_the_decision_and_made_again_from_its_record(
    given: DecisionInput, rules: DecisionRules
) -> None:
    free = make_decision(given, rules)
    assert free.verdict is not None
    assert free.restrained is None
    restrained = replace(given, vision=effect())
    vetoed = make_decision(restrained, rules)
    assert vetoed.signal.side is Side.HOLD
    assert vetoed.verdict is None
    assert vetoed.restrained == free.signal
    assert remake(input_to_json(restrained), rules_to_json(rules)) == vetoed


def test_a_shrunk_entry_is_a_smaller_order(given: DecisionInput, rules: DecisionRules) -> None:
    free = make_decision(given, rules)
    shrunk = make_decision(replace(given, vision=effect(replace(READING, stated_confidence=0.6))), rules)
    assert free.verdict is not None
    assert shrunk.verdict is not None
    assert free.verdict.plan is not None
    assert shrunk.verdict.plan is not None
    assert shrunk.verdict.plan.quantity < free.verdict.plan.quantity
    assert shrunk.verdict.plan.side is free.verdict.plan.side


def test_a_decision_of_before_there_were_readings_can_still_be_made_again(
    given: DecisionInput, rules: DecisionRules
) -> None:
    state = input_to_json(given)
    del state["vision"]
    assert remake(state, rules_to_json(rules)) == make_decision(given, rules)
