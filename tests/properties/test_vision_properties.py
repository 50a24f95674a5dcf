"""Whatever is read, an order is never made, enlarged or turned around by it, and an exit never touched."""

from __future__ import annotations

import dataclasses
import math
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from strategy.config import load
from strategy.core.calibration import Calibration, isotonic
from strategy.core.decision import DecisionInput, input_from_json, input_to_json, make_decision
from strategy.core.policy import PolicyState
from strategy.core.risk_limits import RiskState
from strategy.core.values import Probabilities, Purpose, Side
from strategy.core.vision import Reading, VisionEffect, VisionLimits, effect_of
from tradeserve_client.answers import Answer, CallRecord

RULES = load().rules
CALL = CallRecord("", "", 0, 0, 0)
BAR_NS = 60_000_000_000
SHARES = st.floats(0, 1)
ANYTHING = st.floats(allow_nan=True, allow_infinity=True)

LIMITS = st.builds(
    VisionLimits,
    lifetime_bars=st.integers(1, 10),
    min_trust=SHARES,
    veto_weight=SHARES,
    smallest_share=st.floats(0.01, 1),
    min_calibration_count=st.integers(1, 100),
)
READINGS = st.builds(
    Reading,
    decision_id=st.just("d"),
    signal=st.sampled_from(Side),
    stated_confidence=SHARES | ANYTHING,
    trust=SHARES | ANYTHING,
    as_of_ns=st.integers(-12, 12).map(lambda bars: bars * BAR_NS),
    expire_ns=st.integers(-10, 10),
    model_sha256=st.sampled_from(("", "ab")),
    prompt_sha256=st.just("cd"),
)


@st.composite
def calibrations(draw: st.DrawFn) -> Calibration | None:
    stated = draw(st.lists(SHARES, max_size=30))
    if not stated:
        return None
    right = draw(st.lists(st.booleans(), min_size=len(stated), max_size=len(stated)))
    x, y = isotonic(stated, right)
    return Calibration("ab", "cd", len(stated), tuple(x.tolist()), tuple(y.tolist()))


@st.composite
def inputs(draw: st.DrawFn) -> DecisionInput:
    up = draw(SHARES)
    down = draw(SHARES) * (1 - up)
    vote = Answer(Probabilities(down, 1 - up - down, up), CALL)
    held = Decimal(draw(st.integers(-5, 5)))
    policy = PolicyState(held, draw(st.integers(0, 20)), draw(st.integers(0, 40)), False, False)
    equity = draw(st.sampled_from((100_000.0, 3_000.0, 9e6)))
    risk = RiskState(
        "paper", False, "running", True, equity, equity, equity, 0.0, 0, held, 0,
        99.99, 100.01, 10.0, True, False, True, 0.25, Decimal("0.01"),
    )  # fmt: skip
    return DecisionInput({"lstm_cnn": vote, "gaf_resnet": vote}, policy, risk)


def found(
    reading: Reading | None, calibration: Calibration | None, limits: VisionLimits
) -> VisionEffect | None:
    return effect_of(reading, calibration, limits, now_ns=0, event_ns=0, bar_ns=BAR_NS)


@given(inputs(), st.none() | READINGS, calibrations(), LIMITS)
def test_a_reading_only_takes_away(
    free: DecisionInput, reading: Reading | None, calibration: Calibration | None, limits: VisionLimits
) -> None:
    effect = found(reading, calibration, limits)
    before, after = make_decision(free, RULES), make_decision(dataclasses.replace(free, vision=effect), RULES)
    assert after.consensus == before.consensus
    assert after.exit == before.exit
    if before.signal.purpose is not Purpose.ENTRY or effect is None:
        assert after == before
        return
    assert after.signal.side in (before.signal.side, Side.HOLD)
    assert after.signal.strength <= before.signal.strength
    if effect.signal is before.signal.side:
        assert after == before
    if after.verdict is not None and after.verdict.plan is not None:
        assert before.verdict is not None
        assert before.verdict.plan is not None, "an order that was refused must not be made possible"
        assert after.verdict.plan.quantity <= before.verdict.plan.quantity
        assert after.verdict.plan.side is before.verdict.plan.side
        assert after.verdict.plan.stop_price == before.verdict.plan.stop_price


@given(READINGS, calibrations(), LIMITS)
def test_only_living_trusted_readings_of_earlier_charts_are_heard(
    reading: Reading, calibration: Calibration | None, limits: VisionLimits
) -> None:
    effect = found(reading, calibration, limits)
    if effect is None:
        return
    assert reading.expire_ns > 0
    assert -limits.lifetime_bars * BAR_NS <= reading.as_of_ns < 0
    assert reading.trust >= limits.min_trust
    assert math.isfinite(effect.confidence)
    assert limits.smallest_share <= effect.share <= 1
    assert not (effect.veto and effect.signal is Side.HOLD)


@given(inputs(), READINGS, calibrations(), LIMITS)
def test_what_a_reading_does_survives_the_journal_bit_for_bit(
    free: DecisionInput, reading: Reading, calibration: Calibration | None, limits: VisionLimits
) -> None:
    held = dataclasses.replace(free, vision=found(reading, calibration, limits))
    read = input_from_json(input_to_json(held))
    assert read.vision == held.vision
    assert make_decision(read, RULES) == make_decision(held, RULES)


@given(st.lists(st.tuples(SHARES, st.booleans()), min_size=1, max_size=60))
def test_a_calibration_never_falls_and_keeps_the_mean(outcomes: list[tuple[float, bool]]) -> None:
    stated, right = [one for one, _ in outcomes], [one for _, one in outcomes]
    x, y = isotonic(stated, right)
    made = Calibration("ab", "cd", len(stated), tuple(x.tolist()), tuple(y.tolist()))
    fitted = [made.probability(one) for one in sorted(stated)]
    assert fitted == sorted(fitted)
    assert abs(math.fsum(fitted) - sum(right)) < 1e-6
