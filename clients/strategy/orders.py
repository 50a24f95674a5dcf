"""Sends orders and keeps every position protected.

Rules that hold whatever happens:
- An order is sent only after its intent is durable, and never a second time.
- An entry that can't be on the socket within its budget is not sent.
- A position is closed only after the orders that protect it are confirmed cancelled, so that no
  stop can fill on top of the exit; when the confirmation does not come, the stop stays.
- A position without a working stop is closed.
- After a kill nothing is sent at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Protocol

import structlog
import uuid_utils

from journal.errors import JournalError
from journal.rows import OrderEventRow
from strategy.adapters.errors import BrokerError
from strategy.core.values import OrderEvent, OrderIntent, Purpose, Side, intent_id_of
from strategy.ports import Broker, BrokerSnapshot, Clock, Journal
from strategy.recording import intent_row, order_event_row
from strategy.trading_state import TradingGate

_log = structlog.get_logger(__name__)

_DONE = frozenset({"Filled", "Cancelled", "ApiCancelled", "Inactive"})
_UNCONFIRMED = "Unconfirmed"
_CANCEL_TIMEOUT_S = 3.0


class Role(StrEnum):
    """What a working order is for."""

    ENTRY = "entry"
    EXIT = "exit"
    STOP = "stop"
    TARGET = "target"


@dataclass(slots=True)
class _Working:
    """What is known of one order that may still fill.

    Attributes:
        bars: Bars closed since it was sent.
    """

    order_ref: str
    con_id: int
    role: Role
    quantity: Decimal
    limit_price: float = 0.0
    stop_price: float = 0.0
    bars: int = 0


class OrderWatcher(Protocol):
    """Told what the desk does, for the screen and the journal's risk events."""

    def on_intent_sent(self, intent: OrderIntent) -> None:
        """An order went out."""

    def on_trouble(self, kind: str, con_id: int, detail: str) -> None:
        """Something a person should know."""


@dataclass(slots=True)
class OrderDesk:
    """The only place that calls the broker.

    Attributes:
        broker: Sends.
        journal: Records intents and order events.
        gate: Says whether orders may go out.
        clock: For the budget.
        position_of: con_id -> signed quantity held.
        watcher: Told what happens.
    """

    broker: Broker
    journal: Journal
    gate: TradingGate
    clock: Clock
    position_of: Callable[[int], Decimal]
    watcher: OrderWatcher
    _working: dict[str, _Working] = field(default_factory=dict)
    _closing: set[int] = field(default_factory=set)
    _entering: set[int] = field(default_factory=set)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def working(self, con_id: int) -> Sequence[str]:
        """Return the references of the orders that may still fill."""
        return [order.order_ref for order in self._working.values() if order.con_id == con_id]

    def entry_working(self, con_id: int) -> bool:
        """Whether an entry is on its way or open."""
        return con_id in self._entering or self._find(con_id, Role.ENTRY) is not None

    def exit_working(self, con_id: int) -> bool:
        """Whether an exit is on its way or open."""
        return con_id in self._closing or self._find(con_id, Role.EXIT) is not None

    def stop_price(self, con_id: int) -> float:
        """Return the trigger of the stop that protects a position; 0 when there is none."""
        stop = self._find(con_id, Role.STOP)
        return stop.stop_price if stop else 0.0

    def entering_notional(self) -> float:
        """Return the notional of the open entries, at their limits."""
        entries = (order for order in self._working.values() if order.role is Role.ENTRY)
        return sum(float(order.quantity) * order.limit_price for order in entries)

    def entering(self) -> frozenset[int]:
        """Return the instruments in which an entry is on its way or open."""
        open_entries = {order.con_id for order in self._working.values() if order.role is Role.ENTRY}
        return frozenset(self._entering | open_entries)

    async def enter(self, intent: OrderIntent, not_after_ns: int, on_durable: Callable[[], None]) -> str:
        """Send a bracket.

        Args:
            intent: The bracket.
            not_after_ns: Monotonic end of the budget; later it is not sent.
            on_durable: Called when the intent is durable.

        Returns:
            "" when it was sent, else why it was not.
        """
        self._entering.add(intent.con_id)
        try:
            try:
                await self.journal.record_durably(intent_row(intent))
            except JournalError as error:
                self.watcher.on_trouble("intent not durable", intent.con_id, str(error))
                return f"intent not recorded: {error}"
            on_durable()
            if not self.gate.may_enter:
                return f"{self.gate.state}: {self.gate.reason}"
            late_ns = self.clock.monotonic_ns() - not_after_ns
            if late_ns >= 0:
                return f"budget was over {late_ns / 1e6:.1f} ms ago"
            return self._send(intent)
        finally:
            self._entering.discard(intent.con_id)

    async def close(
        self, con_id: int, symbol: str, purpose: Purpose, decision_id: str, limit_price: Decimal | None = None
    ) -> str:
        """Close a position: cancel what protects it, wait until that is confirmed, send the exit.

        Args:
            con_id: Instrument.
            symbol: For people.
            purpose: EXIT or FLATTEN.
            decision_id: What caused it; "" for a flatten.
            limit_price: Of the exit; None for a market order.

        Returns:
            "" when the position is flat or an exit was sent, else why not.
        """
        if con_id in self._closing:
            return ""
        if self.gate.killed or not self.gate.may_exit:
            return f"{self.gate.state}: {self.gate.reason}"
        self._closing.add(con_id)
        try:
            return await self._close(con_id, symbol, purpose, decision_id, limit_price)
        finally:
            self._closing.discard(con_id)

    async def keep_protected(self, con_id: int, symbol: str) -> None:
        """After a bar: cancel what did not fill, close a position that has no stop."""
        for order in [order for order in self._working.values() if order.con_id == con_id]:
            order.bars += 1
            if (
                order.role in (Role.ENTRY, Role.EXIT) and order.bars >= 2
            ):  # sent on one bar, open after the next
                self.broker.cancel(order.order_ref)
        if (
            self.entry_working(con_id)
            or self.exit_working(con_id)
            or self.gate.killed
            or not self.gate.may_exit
        ):
            return
        held = self.position_of(con_id)
        if not held:
            for ref in self.working(con_id):  # a child without a position must not open one
                self.broker.cancel(ref)
            return
        stops = [
            order for order in self._working.values() if order.con_id == con_id and order.role is Role.STOP
        ]
        if sum(order.quantity for order in stops) != abs(held):
            self.watcher.on_trouble(
                "unprotected", con_id, f"{symbol} {held:+} has no stop of that size; closing it"
            )
            await self.close(con_id, symbol, Purpose.FLATTEN, "")

    def cancel_entries(self) -> None:
        """Ask to cancel every entry that has not filled."""
        for order in tuple(self._working.values()):
            if order.role is Role.ENTRY:
                self.broker.cancel(order.order_ref)

    async def entries_settled(self, timeout_s: float) -> bool:
        """Wait until no entry can fill any more; False when that is not known in time."""
        return await self._until(lambda: not self.entering(), timeout_s)

    def cancel_all(self) -> int:
        """Ask to cancel everything; return how many were known."""
        return self.broker.cancel_all()

    def on_order(self, event: OrderEvent) -> None:
        """Take a change of an order."""
        self.journal.record(order_event_row(event))
        if event.status in _DONE:
            self._working.pop(event.order_ref, None)
        elif intent_id_of(event.order_ref):
            order = self._working.get(event.order_ref)
            if order is None and event.status == _UNCONFIRMED:
                return  # neither the broker's open orders nor we know it as working
            if order is None:
                role = self._role(event.order_ref, event.con_id)
                order = _Working(event.order_ref, event.con_id, role, event.remaining)
                self._working[event.order_ref] = order
            order.quantity = event.remaining
        self._changed.set()

    def on_reconciled(self, snapshot: BrokerSnapshot) -> None:
        """Take the broker's word for what is working; an order it does not name may have ended."""
        named = {order.order_ref: order for order in snapshot.working_orders if intent_id_of(order.order_ref)}
        self._forget([ref for ref in self._working if ref not in named])
        for ref, order in named.items():
            role = self._role(ref, order.con_id, order.side)
            known = self._working.setdefault(ref, _Working(ref, order.con_id, role, Decimal(0)))
            known.quantity = order.quantity - order.filled
            known.limit_price, known.stop_price = order.limit_price, order.stop_price
        foreign = [order for order in snapshot.working_orders if not intent_id_of(order.order_ref)]
        if foreign:
            names = ", ".join(
                f"{order.side} {order.quantity} (permId {order.perm_id})" for order in foreign[:5]
            )
            self.watcher.on_trouble("foreign orders", 0, f"{len(foreign)} open orders are not ours: {names}")
        self._changed.set()

    def _forget(self, refs: Sequence[str]) -> None:
        """Drop what the broker does not have; one word per bracket to the watcher."""
        legs: dict[str, list[_Working]] = {}
        for ref in refs:
            legs.setdefault(intent_id_of(ref) or ref, []).append(self._working.pop(ref))
        for orders in legs.values():
            roles = ", ".join(sorted(order.role for order in orders))
            self.watcher.on_trouble(
                "order missing",
                orders[0].con_id,
                f"{roles} ({orders[0].order_ref}) not among the broker's open orders: "
                "it never arrived, or ended while the connection was away",
            )

    async def _close(
        self, con_id: int, symbol: str, purpose: Purpose, decision_id: str, limit_price: Decimal | None
    ) -> str:
        held = self.position_of(con_id)
        refs = self.working(con_id)
        intent: OrderIntent | None = None
        if held:
            intent = await self._durable_exit(con_id, symbol, purpose, decision_id, held, limit_price)
            if intent is None:
                return "intent not recorded"  # its stop stays where it is
        for ref in refs:
            self.broker.cancel(ref)
        if not await self._cancelled(con_id):
            left = ", ".join(self.working(con_id))
            self.watcher.on_trouble(
                "cancel not confirmed", con_id, f"{symbol}: {left} may still fill; exit not sent"
            )
            return "cancel of its stop not confirmed"
        now_held = self.position_of(con_id)
        if not now_held:
            return ""
        if intent is None or now_held != held:
            intent = await self._durable_exit(con_id, symbol, purpose, decision_id, now_held, limit_price)
        return "intent not recorded" if intent is None else self._send(intent)

    async def _durable_exit(
        self,
        con_id: int,
        symbol: str,
        purpose: Purpose,
        decision_id: str,
        held: Decimal,
        limit_price: Decimal | None,
    ) -> OrderIntent | None:
        intent = OrderIntent(
            intent_id=uuid_utils.uuid7().hex,
            decision_id=decision_id,
            con_id=con_id,
            symbol=symbol,
            side=Side.SELL if held > 0 else Side.BUY,
            purpose=purpose,
            quantity=abs(held),
            limit_price=limit_price,
            stop_price=None,
            take_profit_price=None,
            created_ns=self.clock.wall_ns(),
        )
        try:
            await self.journal.record_durably(intent_row(intent))
        except JournalError as error:
            self.watcher.on_trouble("intent not durable", con_id, f"{symbol}: exit not sent: {error}")
            return None
        return intent

    async def _cancelled(self, con_id: int) -> bool:
        return await self._until(lambda: not self.working(con_id), _CANCEL_TIMEOUT_S)

    async def _until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for what a change of an order brings about."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not condition():
            self._changed.clear()
            left_s = deadline - asyncio.get_running_loop().time()
            try:
                await asyncio.wait_for(self._changed.wait(), max(0.0, left_s))
            except TimeoutError:
                return condition()
        return True

    def _find(self, con_id: int, role: Role) -> _Working | None:
        for order in self._working.values():
            if order.con_id == con_id and order.role is role:
                return order
        return None

    def _role(self, order_ref: str, con_id: int, side: Side | None = None) -> Role:
        """Tell an order's role from its reference; one that reduces the position is an exit."""
        leg = order_ref.rsplit("/", 1)[-1]
        if leg != "E":
            return Role.STOP if leg == "S" else Role.TARGET
        held = self.position_of(con_id)
        reduces = (side is Side.SELL and held > 0) or (side is Side.BUY and held < 0)
        return Role.EXIT if reduces else Role.ENTRY

    def _send(self, intent: OrderIntent) -> str:
        # Known before the first answer can come, so that nothing is sent on top of it.
        role = Role.ENTRY if intent.purpose is Purpose.ENTRY else Role.EXIT
        limit_price = float(intent.limit_price or 0)
        legs = [_Working(intent.entry_ref, intent.con_id, role, intent.quantity, limit_price)]
        if intent.stop_price is not None:
            stop = _Working(intent.stop_ref, intent.con_id, Role.STOP, intent.quantity)
            stop.stop_price = float(intent.stop_price)
            legs.append(stop)
        if intent.take_profit_price is not None:
            legs.append(_Working(intent.take_profit_ref, intent.con_id, Role.TARGET, intent.quantity))
        for leg in legs:
            self._working[leg.order_ref] = leg
        try:
            self.broker.place(intent)
        except BrokerError as error:
            for leg in legs:
                self._working.pop(leg.order_ref, None)
            self.watcher.on_trouble("order refused", intent.con_id, str(error))
            return f"order not sent: {error}"
        self.journal.record(
            OrderEventRow(
                order_ref=intent.entry_ref,
                intent_id=intent.intent_id,
                perm_id=0,
                con_id=intent.con_id,
                status="sent",
                filled=Decimal(0),
                remaining=intent.quantity,
                average_price=0.0,
                event_ns=self.clock.wall_ns(),
                error_code=0,
                message="",
            )
        )
        self.watcher.on_intent_sent(intent)
        return ""
