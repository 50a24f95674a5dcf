"""Positions and profit from fills, exact in Decimal."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TypeVar

from strategy.core.values import Commission, Fill, Position, Side

T = TypeVar("T")

ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class PositionState:
    """One instrument's position and profit; money in the instrument's currency.

    Attributes:
        con_id: Instrument.
        symbol: For people.
        quantity: Signed.
        cost: Signed sum paid for the open quantity: quantity x average price.
        realized_pnl: Of what was closed, before commission.
        commission: Paid, of all fills.
        mark_price: Last known price; 0 when none came.
        opened_ns: Time of the fill that opened the present position; 0 when flat.
    """

    con_id: int
    symbol: str
    quantity: Decimal = ZERO
    cost: Decimal = ZERO
    realized_pnl: Decimal = ZERO
    commission: Decimal = ZERO
    mark_price: Decimal = ZERO
    opened_ns: int = 0

    @property
    def average_price(self) -> Decimal:
        """Average entry price; 0 when flat."""
        return self.cost / self.quantity if self.quantity else ZERO

    @property
    def market_value(self) -> Decimal:
        """Signed value at the mark; at cost while there is no mark."""
        return self.quantity * self.mark_price if self.mark_price else self.cost

    @property
    def unrealized_pnl(self) -> Decimal:
        """What closing at the mark would add, before commission."""
        return self.market_value - self.cost

    @property
    def total_pnl(self) -> Decimal:
        """Realised and unrealised, after commission."""
        return self.realized_pnl + self.unrealized_pnl - self.commission


@dataclass(frozen=True, slots=True)
class PositionDifference:
    """Where our book and the broker disagree."""

    con_id: int
    symbol: str
    our_quantity: Decimal
    broker_quantity: Decimal

    def __str__(self) -> str:
        return f"{self.symbol}: we have {self.our_quantity}, the broker {self.broker_quantity}"


class PositionBook:
    """Positions of all instruments; every execution and every commission counts once.

    Args:
        max_executions: exec_ids remembered; the oldest are forgotten beyond it. The gateway
            repeats only the current day's executions.
    """

    def __init__(self, max_executions: int = 100_000) -> None:
        if max_executions <= 0:
            raise ValueError(f"max_executions is {max_executions}; a number > 0 is needed")
        self._max_executions = max_executions
        self._states: dict[int, PositionState] = {}
        self._fills: OrderedDict[str, int] = OrderedDict()
        self._commissions: OrderedDict[str, Commission] = OrderedDict()

    def apply_fill(self, fill: Fill) -> PositionState | None:
        """Apply an execution; return the position after it, or None when it was applied before.

        Raises:
            ValueError: Its quantity or price is not a number > 0, or its side is HOLD.
        """
        if fill.exec_id in self._fills:
            return None
        for name, value in (("quantity", fill.quantity), ("price", fill.price)):
            if not (value.is_finite() and value > 0):
                raise ValueError(f"fill {fill.exec_id}: {name} is {value}; a number > 0 is needed")
        if fill.side is Side.HOLD:
            raise ValueError(f"fill {fill.exec_id}: side is HOLD; BUY or SELL is needed")
        self._remember(self._fills, fill.exec_id, fill.con_id)
        state = _after_fill(self.state(fill.con_id, fill.symbol), fill)
        waiting = self._commissions.get(fill.exec_id)
        if waiting is not None:
            state = replace(state, commission=state.commission + waiting.commission)
        self._states[fill.con_id] = state
        return state

    def apply_commission(self, commission: Commission) -> PositionState | None:
        """Apply a commission; one that comes before its execution waits for it.

        Returns:
            The position after it; None when it was applied before, waits, or is not a number.
        """
        if commission.exec_id in self._commissions or not commission.commission.is_finite():
            return None
        self._remember(self._commissions, commission.exec_id, commission)
        con_id = self._fills.get(commission.exec_id)
        if con_id is None:
            return None
        state = self._states[con_id]
        state = replace(state, commission=state.commission + commission.commission)
        self._states[con_id] = state
        return state

    def mark(self, con_id: int, price: float) -> None:
        """Value an instrument at a price; one that is not > 0 is ignored."""
        state = self._states.get(con_id)
        if state is not None and 0 < price < float("inf"):
            self._states[con_id] = replace(state, mark_price=Decimal(repr(float(price))))

    def state(self, con_id: int, symbol: str = "") -> PositionState:
        """Return an instrument's position; a flat one when there never was any."""
        return self._states.get(con_id) or PositionState(con_id, symbol)

    @property
    def states(self) -> tuple[PositionState, ...]:
        """Every instrument that was ever held, by con_id."""
        return tuple(self._states[con_id] for con_id in sorted(self._states))

    @property
    def open_states(self) -> tuple[PositionState, ...]:
        """Every instrument that is held, by con_id."""
        return tuple(state for state in self.states if state.quantity)

    @property
    def realized_pnl(self) -> Decimal:
        """Sum over all instruments, before commission; one currency is assumed."""
        return sum((state.realized_pnl for state in self.states), ZERO)

    @property
    def unrealized_pnl(self) -> Decimal:
        """Sum over all instruments."""
        return sum((state.unrealized_pnl for state in self.states), ZERO)

    @property
    def commission(self) -> Decimal:
        """Sum over all instruments."""
        return sum((state.commission for state in self.states), ZERO)

    @property
    def total_pnl(self) -> Decimal:
        """Realised and unrealised, after commission."""
        return self.realized_pnl + self.unrealized_pnl - self.commission

    @property
    def gross_notional(self) -> Decimal:
        """Absolute value of all positions at their marks."""
        return sum((abs(state.market_value) for state in self.states), ZERO)

    def compare(self, positions: Iterable[Position]) -> tuple[PositionDifference, ...]:
        """Return where the broker's positions differ from ours, by con_id; changes nothing."""
        theirs = {position.con_id: position for position in positions}
        differences = []
        for con_id in sorted(theirs.keys() | self._states.keys()):
            ours, broker = self.state(con_id), theirs.get(con_id)
            broker_quantity = broker.quantity if broker else ZERO
            if ours.quantity != broker_quantity:
                symbol = broker.symbol if broker else ours.symbol
                differences.append(PositionDifference(con_id, symbol, ours.quantity, broker_quantity))
        return tuple(differences)

    def reconcile(self, positions: Iterable[Position], event_ns: int) -> tuple[PositionDifference, ...]:
        """Take over the broker's quantities, which are the truth; return what differed.

        Apply the snapshot's fills first. Where quantities still differ, the broker's average price
        becomes the cost and no profit is booked; profit and commission so far stay.
        """
        theirs = {position.con_id: position for position in positions}
        differences = self.compare(theirs.values())
        for difference in differences:
            con_id, quantity = difference.con_id, difference.broker_quantity
            state = self.state(con_id, difference.symbol)
            average = Decimal(repr(theirs[con_id].average_price)) if quantity else ZERO
            opened_ns = event_ns if quantity else 0
            self._states[con_id] = replace(
                state, quantity=quantity, cost=quantity * average, opened_ns=opened_ns
            )
        return differences

    def _remember(self, memory: OrderedDict[str, T], exec_id: str, value: T) -> None:
        memory[exec_id] = value
        while len(memory) > self._max_executions:
            memory.popitem(last=False)


def _after_fill(state: PositionState, fill: Fill) -> PositionState:
    change = fill.quantity if fill.side is Side.BUY else -fill.quantity
    quantity, cost, realized = state.quantity, state.cost, state.realized_pnl
    if quantity * change < 0:
        closing = -quantity if abs(change) >= abs(quantity) else change
        # Closing everything removes the whole cost, so that no rounding is left behind.
        removed = -cost if closing == -quantity else cost * closing / quantity
        realized += -closing * fill.price + removed
        quantity, cost, change = quantity + closing, cost + removed, change - closing
    opened_ns = state.opened_ns if quantity else 0
    if change:
        opened_ns = opened_ns or fill.event_ns
        quantity, cost = quantity + change, cost + change * fill.price
    return replace(state, quantity=quantity, cost=cost, realized_pnl=realized, opened_ns=opened_ns)
