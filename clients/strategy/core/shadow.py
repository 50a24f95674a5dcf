"""The decision that would have been made with another answer of one voter; nothing acts on it."""

from __future__ import annotations

from dataclasses import replace

from strategy.core.decision import Decision, DecisionInput, DecisionRules, make_decision
from strategy.core.values import Probabilities, Purpose, Side
from tradeserve_client.answers import Answer


def would_be(
    given: DecisionInput, rules: DecisionRules, voter: str, answer: Answer[Probabilities]
) -> Decision:
    """Make a decision again with another answer in one voter's place, everything else as it was."""
    return make_decision(replace(given, votes={**given.votes, voter: answer}), rules)


def side_of(decision: Decision) -> Side:
    """Return what a decision amounts to: HOLD also where the risk checks refuse the entry."""
    refused = decision.signal.purpose is Purpose.ENTRY and (
        decision.verdict is None or decision.verdict.plan is None
    )
    return Side.HOLD if refused else decision.signal.side


def agree(one: Decision, other: Decision) -> bool:
    """Return whether two decisions amount to the same: side, and purpose where there is an order."""
    side = side_of(one)
    if side is not side_of(other):
        return False
    return side is Side.HOLD or one.signal.purpose is other.signal.purpose


def largest_difference(one: Probabilities, other: Probabilities) -> float:
    """Return the largest distance between two answers' probabilities."""
    return max(abs(one.down - other.down), abs(one.flat - other.flat), abs(one.up - other.up))
