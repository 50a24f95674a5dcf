from __future__ import annotations

import json
import math
from dataclasses import replace
from decimal import Decimal

import pytest

from strategy.core.decision import (
    DecisionInput,
    DecisionRules,
    checks_to_json,
    input_from_json,
    input_to_json,
    make_decision,
    remake,
    rules_from_json,
    rules_to_json,
)
from strategy.core.plain import from_json, to_json
from strategy.core.policy import PolicyState
from strategy.core.risk_limits import RiskState
from strategy.core.values import Probabilities, Purpose, RiskCheck, Side
from tradeserve_client.answers import Answer, CallRecord, NoAnswer, Outcome, Reason

CALL = CallRecord("lstm_cnn", "id", 1, 2, 3)
BULLISH = Answer(Probabilities(0.1, 0.3, 0.6), CALL)


@pytest.fixture
def given(flat: PolicyState, risk_state: RiskState) -> DecisionInput:
    votes: dict[str, Outcome[Probabilities]] = {
        "lstm_cnn": BULLISH,
        "gaf_resnet": BULLISH,
        "similarity": NoAnswer(Reason.LATE, "9 ms", CALL),
    }
    return DecisionInput(votes, flat, risk_state)


def test_an_entry_goes_from_votes_to_a_bracket(given: DecisionInput, rules: DecisionRules) -> None:
    decision = make_decision(given, rules)
    assert decision.signal.side is Side.BUY
    assert decision.consensus.missing == {"similarity": "late: 9 ms"}
    assert decision.verdict is not None
    assert decision.verdict.plan is not None
    assert decision.exit is None


def test_an_exit_is_planned_for_a_position(given: DecisionInput, rules: DecisionRules) -> None:
    ten = Decimal(10)
    held = replace(
        given,
        policy=replace(given.policy, position_quantity=ten, bars_held=99),
        risk=replace(given.risk, position_quantity=ten),
    )
    decision = make_decision(held, rules)
    assert decision.signal.purpose is Purpose.EXIT
    assert decision.exit is not None
    assert (decision.exit.side, decision.exit.quantity) == (Side.SELL, ten)
    assert decision.verdict is None


def test_a_recorded_decision_is_made_again_from_json_text(given: DecisionInput, rules: DecisionRules) -> None:
    strange = replace(given, risk=replace(given.risk, atr=0.1 + 0.2, quote_age_ms=math.inf, equity=-0.0))
    for each in (given, strange):
        text = json.dumps([input_to_json(each), rules_to_json(rules)], allow_nan=False)
        state, recorded_rules = json.loads(text)
        assert to_json(remake(state, recorded_rules)) == to_json(make_decision(each, rules))
        assert input_to_json(input_from_json(state)) == input_to_json(each)
        assert rules_from_json(recorded_rules) == rules


def test_checks_that_are_not_numbers_survive_json(given: DecisionInput, rules: DecisionRules) -> None:
    broken = replace(given, risk=replace(given.risk, bid_price=0.0))
    checks = checks_to_json(make_decision(broken, rules).verdict)
    assert {"name": "spread_bps", "value": "inf", "limit": 20.0, "passed": False} in checks
    assert checks_to_json(None) == []
    assert from_json(RiskCheck, checks[0]).name == "trading_mode"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"atr": "much"}, "RiskState.atr is 'much'"),
        ({"min_tick": 0.01}, "RiskState.min_tick is 0.01"),
        ({"halted": 1}, "RiskState.halted is 1"),
        ({"surprise": 1}, "unknown fields \\['surprise'\\]"),
    ],
)
def test_a_damaged_record_names_the_field(
    change: dict[str, object], message: str, risk_state: RiskState
) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(RiskState, {**to_json(risk_state), **change})


def test_a_value_without_json_form_is_refused() -> None:
    with pytest.raises(TypeError, match="object has no plain JSON form"):
        to_json(object())
