"""The decision that would have been made: the same core, one answer replaced."""

from __future__ import annotations

import pytest

from strategy.core.decision import Decision, DecisionInput, DecisionRules, make_decision
from strategy.core.policy import PolicyState
from strategy.core.risk_limits import RiskState
from strategy.core.shadow import agree, largest_difference, side_of, would_be
from strategy.core.values import Consensus, Probabilities, Purpose, Side, Signal
from tradeserve_client.answers import Answer, CallRecord, NoAnswer, Outcome, Reason

CALL = CallRecord("lstm_cnn", "", 0, 0, 0)


@pytest.fixture
def given(flat: PolicyState, risk_state: RiskState) -> DecisionInput:
    bullish = Answer(Probabilities(0.1, 0.3, 0.6), CALL)
    return DecisionInput({"lstm_cnn": bullish, "gaf_resnet": bullish}, flat, risk_state)


def a_decision(side: Side, purpose: Purpose | None) -> Decision:
    return Decision(Consensus(None, {}, {}), Signal(side, 1.0, purpose, ""), None, None)


def test_an_entry_that_risk_refuses_amounts_to_hold() -> None:
    assert side_of(a_decision(Side.BUY, Purpose.ENTRY)) is Side.HOLD
    assert side_of(a_decision(Side.SELL, Purpose.EXIT)) is Side.SELL
    assert agree(a_decision(Side.BUY, Purpose.ENTRY), a_decision(Side.HOLD, None))


def test_the_largest_difference_is_of_any_of_the_three() -> None:
    one, other = Probabilities(0.2, 0.3, 0.5), Probabilities(0.25, 0.05, 0.7)
    assert largest_difference(one, other) == pytest.approx(0.25)


def test_only_one_vote_changes(given: DecisionInput, rules: DecisionRules) -> None:
    before = dict(given.votes)
    same = before["lstm_cnn"]
    assert isinstance(same, Answer)
    assert would_be(given, rules, "lstm_cnn", same) == make_decision(given, rules)
    other = would_be(given, rules, "lstm_cnn", Answer(Probabilities(1.0, 0.0, 0.0), CALL))
    assert other.consensus.probabilities != make_decision(given, rules).consensus.probabilities
    assert given.votes == before


def test_an_answer_counts_where_the_voter_itself_did_not_answer(
    given: DecisionInput, rules: DecisionRules
) -> None:
    gone: dict[str, Outcome[Probabilities]] = {**given.votes, "lstm_cnn": NoAnswer(Reason.LATE, "", CALL)}
    without = DecisionInput(gone, given.policy, given.risk)
    assert "lstm_cnn" in make_decision(without, rules).consensus.missing
    other = would_be(without, rules, "lstm_cnn", Answer(Probabilities(0.1, 0.2, 0.7), CALL))
    assert "lstm_cnn" in other.consensus.weights
