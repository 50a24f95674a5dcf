from dataclasses import replace
from decimal import Decimal

import pytest

from strategy.core.decision import DecisionRules
from strategy.core.policy import PolicyState, decide
from strategy.core.values import Consensus, Probabilities, Purpose, Side

LONG, SHORT = Decimal(10), Decimal(-10)


def consensus(down: float, up: float) -> Consensus:
    return Consensus(Probabilities(down, 1 - down - up, up), {"a": 1.0}, {})


BELOW_QUORUM = Consensus(None, {}, {"lstm_cnn": "late", "similarity": "down"})
BULLISH, BEARISH, UNDECIDED = consensus(0.2, 0.5), consensus(0.5, 0.2), consensus(0.33, 0.34)


@pytest.mark.parametrize(("view", "side"), [(BULLISH, Side.BUY), (BEARISH, Side.SELL)])
def test_a_clear_edge_enters_when_flat(
    view: Consensus, side: Side, flat: PolicyState, rules: DecisionRules
) -> None:
    signal = decide(view, flat, rules.policy)
    assert (signal.side, signal.purpose, signal.strength) == (side, Purpose.ENTRY, 1.0)


def test_half_the_full_edge_enters_at_half_strength(flat: PolicyState, rules: DecisionRules) -> None:
    signal = decide(consensus(0.3, 0.4), flat, replace(rules.policy, full_strength_edge=0.2))
    assert signal.strength == pytest.approx(0.5)


def test_an_edge_below_the_threshold_holds(flat: PolicyState, rules: DecisionRules) -> None:
    assert decide(UNDECIDED, flat, rules.policy).side is Side.HOLD
    limits = replace(rules.policy, entry_edge=0.0, entry_probability=0.0)
    assert decide(consensus(0.3, 0.3), flat, limits).side is Side.HOLD


def test_an_edge_without_enough_probability_holds(flat: PolicyState, rules: DecisionRules) -> None:
    signal = decide(consensus(0.1, 0.3), flat, rules.policy)
    assert (signal.side, signal.purpose) == (Side.HOLD, None)
    assert "P(BUY) 0.300" in signal.reason


def test_a_short_entry_needs_permission(flat: PolicyState, rules: DecisionRules) -> None:
    signal = decide(BEARISH, flat, replace(rules.policy, allow_short=False))
    assert signal.side is Side.HOLD
    assert "short sales are not allowed" in signal.reason


def test_nothing_is_entered_in_the_last_bars(flat: PolicyState, rules: DecisionRules) -> None:
    last = rules.policy.no_entry_last_bars
    assert decide(BULLISH, replace(flat, bars_to_session_end=last), rules.policy).side is Side.HOLD
    assert decide(BULLISH, replace(flat, bars_to_session_end=last + 1), rules.policy).side is Side.BUY
    assert decide(BULLISH, replace(flat, bars_to_session_end=None), rules.policy).side is Side.BUY


def test_nothing_is_entered_while_an_order_works(flat: PolicyState, rules: DecisionRules) -> None:
    assert decide(BULLISH, replace(flat, entry_working=True), rules.policy).side is Side.HOLD
    assert decide(BULLISH, replace(flat, exit_working=True), rules.policy).side is Side.HOLD


@pytest.mark.parametrize("quantity", [Decimal(0), LONG])
def test_below_the_quorum_it_holds_and_names_who_is_missing(
    quantity: Decimal, flat: PolicyState, rules: DecisionRules
) -> None:
    signal = decide(BELOW_QUORUM, replace(flat, position_quantity=quantity), rules.policy)
    assert signal.side is Side.HOLD
    assert signal.reason == "below quorum, missing: lstm_cnn (late), similarity (down)"


@pytest.mark.parametrize(
    ("quantity", "view", "side"),
    [
        (LONG, BEARISH, Side.SELL),
        (LONG, BULLISH, Side.HOLD),
        (SHORT, BULLISH, Side.BUY),
        (SHORT, BEARISH, Side.HOLD),
    ],
)
def test_a_position_closes_on_the_opposite_signal_only(
    quantity: Decimal, view: Consensus, side: Side, flat: PolicyState, rules: DecisionRules
) -> None:
    signal = decide(view, replace(flat, position_quantity=quantity), rules.policy)
    assert signal.side is side
    assert signal.purpose is (None if side is Side.HOLD else Purpose.EXIT)


@pytest.mark.parametrize("view", [BULLISH, BELOW_QUORUM])
def test_time_closes_a_position_whatever_the_voters_say(
    view: Consensus, flat: PolicyState, rules: DecisionRules
) -> None:
    old = replace(flat, position_quantity=LONG, bars_held=rules.policy.max_holding_bars)
    assert decide(view, old, rules.policy).reason.startswith("time stop")
    ending = replace(flat, position_quantity=LONG, bars_to_session_end=rules.policy.flatten_last_bars)
    signal = decide(view, ending, rules.policy)
    assert (signal.side, signal.purpose) == (Side.SELL, Purpose.EXIT)
    assert signal.reason.startswith("flatten")


def test_a_working_exit_is_not_sent_twice(flat: PolicyState, rules: DecisionRules) -> None:
    state = replace(flat, position_quantity=LONG, bars_held=1000, exit_working=True)
    assert decide(BEARISH, state, rules.policy).side is Side.HOLD
