"""From a consensus and a position to a signal: enter, exit, or hold."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

from strategy.core.values import Consensus, Purpose, Side, Signal
from tradeserve_client.bounds import Within


@dataclass(frozen=True, slots=True)
class PolicyLimits:
    """When to enter and when to leave. An edge is P(up) - P(down).

    Attributes:
        entry_edge: Edge that an entry needs, in the entry's direction.
        entry_probability: Probability of the entry's direction that it needs.
        full_strength_edge: Edge at which an entry gets its full size; below, proportionally less.
        exit_edge: Edge against the position that closes it.
        max_holding_bars: Bars after which a position is closed whatever the voters say.
        no_entry_last_bars: Bars before the session's end in which nothing is entered.
        flatten_last_bars: Bars before the session's end in which every position is closed.
        allow_short: Whether a flat strategy may sell.
    """

    entry_edge: Annotated[float, Within(0, 1)]
    entry_probability: Annotated[float, Within(0, 1)]
    full_strength_edge: Annotated[float, Within(0.001, 1)]
    exit_edge: Annotated[float, Within(0, 1)]
    max_holding_bars: Annotated[int, Within(1, 100_000)]
    no_entry_last_bars: Annotated[int, Within(0, 10_000)]
    flatten_last_bars: Annotated[int, Within(0, 10_000)]
    allow_short: bool


@dataclass(frozen=True, slots=True)
class PolicyState:
    """What the policy sees beside the consensus; recorded with the decision.

    Attributes:
        position_quantity: Signed; 0 is flat.
        bars_held: Closed bars since the entry was filled; 0 when flat.
        bars_to_session_end: Whole bars left after this one; None when the market does not close
            or its hours are unknown.
        entry_working: An entry order of ours in this instrument is still open.
        exit_working: An exit order of ours in this instrument is still open (a protective stop or
            take-profit of a bracket is not one).
    """

    position_quantity: Decimal
    bars_held: int
    bars_to_session_end: int | None
    entry_working: bool
    exit_working: bool


def decide(consensus: Consensus, state: PolicyState, limits: PolicyLimits) -> Signal:
    """Return ENTRY only when flat, EXIT only when holding, HOLD otherwise: never both at once.

    Before an EXIT is sent, what still works of the entry and its bracket has to be cancelled;
    otherwise a late fill would stay without protection.
    """
    if state.position_quantity != 0:
        return _decide_holding(consensus, state, limits)
    return _decide_flat(consensus, state, limits)


def _decide_holding(consensus: Consensus, state: PolicyState, limits: PolicyLimits) -> Signal:
    if state.exit_working:
        return _hold("an exit order is working")
    close = Side.SELL if state.position_quantity > 0 else Side.BUY
    left = state.bars_to_session_end
    if left is not None and left <= limits.flatten_last_bars:
        return Signal(close, 1.0, Purpose.EXIT, f"flatten: {left} bars to the session's end")
    if state.bars_held >= limits.max_holding_bars:
        held = f"held {state.bars_held} of at most {limits.max_holding_bars} bars"
        return Signal(close, 1.0, Purpose.EXIT, f"time stop: {held}")
    if consensus.probabilities is None:
        return _hold(_below_quorum(consensus))
    against = consensus.probabilities.up - consensus.probabilities.down
    if close is Side.SELL:
        against = -against
    if against > 0 and against >= limits.exit_edge:
        reason = f"opposite signal: edge {against:+.3f} against the position"
        return Signal(close, 1.0, Purpose.EXIT, f"{reason}, {limits.exit_edge:.3f} closes it")
    return _hold(f"keep the position: edge against it {against:+.3f}, {limits.exit_edge:.3f} closes it")


def _decide_flat(consensus: Consensus, state: PolicyState, limits: PolicyLimits) -> Signal:
    if state.entry_working or state.exit_working:
        return _hold("an order is working")
    probabilities = consensus.probabilities
    if probabilities is None:
        return _hold(_below_quorum(consensus))
    edge = probabilities.up - probabilities.down
    side = Side.BUY if edge > 0 else Side.SELL
    probability = probabilities.up if edge > 0 else probabilities.down
    if edge == 0 or abs(edge) < limits.entry_edge:
        return _hold(f"edge {edge:+.3f}, an entry needs {limits.entry_edge:.3f}")
    if probability < limits.entry_probability:
        return _hold(f"P({side.value}) {probability:.3f}, an entry needs {limits.entry_probability:.3f}")
    if side is Side.SELL and not limits.allow_short:
        return _hold(f"edge {edge:+.3f}, but short sales are not allowed")
    left = state.bars_to_session_end
    if left is not None and left <= max(limits.no_entry_last_bars, limits.flatten_last_bars):
        return _hold(f"edge {edge:+.3f}, but only {left} bars to the session's end")
    strength = min(1.0, abs(edge) / limits.full_strength_edge)
    return Signal(side, strength, Purpose.ENTRY, f"edge {edge:+.3f}, P({side.value}) {probability:.3f}")


def _below_quorum(consensus: Consensus) -> str:
    missing = ", ".join(f"{name} ({why})" for name, why in sorted(consensus.missing.items()))
    return f"below quorum, missing: {missing or 'no voters'}"


def _hold(reason: str) -> Signal:
    return Signal(Side.HOLD, 0.0, None, reason)
