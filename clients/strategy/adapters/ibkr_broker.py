"""Orders at Interactive Brokers: `ports.Broker` over an `IbkrConnection`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from time import time_ns
from typing import Any, TypeVar

import structlog

from strategy.adapters.errors import BrokerError
from strategy.adapters.ibkr_codes import describe
from strategy.adapters.ibkr_connection import IbkrConnection
from strategy.adapters.ibkr_messages import OrderStatus
from strategy.adapters.ibkr_orders import (
    DONE_STATUSES,
    UNCONFIRMED,
    OrderSpec,
    decimal_of,
    execution_family,
    fill_order,
    order_specs,
    parse_account,
    status_after_error,
)
from strategy.adapters.ibkr_pacer import CANCEL_RESERVE
from strategy.adapters.ibkr_session import IbkrSession
from strategy.core.values import Commission, Fill, OrderEvent, OrderIntent, Position
from strategy.ports import BrokerListener, BrokerSnapshot, ConnectionState

_V = TypeVar("_V")

log = structlog.get_logger("ibkr")

EXECUTIONS_KEPT = 100_000
"""Executions that are still recognised; the gateway repeats those of today."""

DONE_ORDERS_KEPT = 1_000
"""Finished orders that are still recognised, so that late messages about them find their reference."""


@dataclass(slots=True)
class _KnownOrder:
    """What is known of an order of ours."""

    order_ref: str
    order_id: int
    con_id: int
    quantity: Decimal
    perm_id: int = 0
    status: str = ""
    filled: Decimal = Decimal(0)
    remaining: Decimal | None = None
    average_price: float = 0.0
    acknowledged: bool = False

    @property
    def done(self) -> bool:
        return self.status in DONE_STATUSES


class IbkrBroker:
    """Sends orders and tells the listener what becomes of them; never sends one twice.

    Orders are known by their orderRef, which the gateway carries, and by its permId. An order's status
    is only what an orderStatus or openOrder message said; after an error it may be "Inactive" (refused
    for good) or "Unconfirmed" (it may be live: cancel it by its orderRef, or wait for the next snapshot).

    Args:
        connection: Shared with the feed.
        wall_ns: Clock of events that carry no time of their own.
    """

    def __init__(
        self,
        connection: IbkrConnection,
        wall_ns: Callable[[], int] = time_ns,
    ) -> None:
        self._connection = connection
        self._wall_ns = wall_ns
        self._listener: BrokerListener | None = None
        self._orders: OrderedDict[str, _KnownOrder] = OrderedDict()
        self._by_id: dict[int, _KnownOrder] = {}
        self._fills: dict[str, str] = {}
        self._commissions: dict[str, None] = {}
        self._cancel_all_wanted = False
        self._reconciled = False
        self._earlier: list[Fill | Commission] = []

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands."""
        return self._connection.state

    async def connect(self, listener: BrokerListener) -> None:
        """Connect and reconcile; afterwards the connection is kept up until close().

        Raises:
            BrokerError: No connection within the connect timeout; the message says what to do.
        """
        self._listener = listener
        self._connection.order_handler = self
        self._connection.observe(self)
        await self._connection.open()

    async def close(self) -> None:
        """Disconnect for good; working orders stay at the gateway."""
        await self._connection.close()

    # --- sending -----------------------------------------------------------------------------------

    def place(self, intent: OrderIntent) -> int:
        """Write the order, or the bracket, to the socket at once; return when the last message was.

        Raises:
            BrokerError: Not READY, a wrong or repeated intent, no room below the message rate, or a
                socket that does not take more; nothing was sent.
        """
        try:
            specs = order_specs(intent)
        except ValueError as e:
            raise BrokerError(str(e)) from e
        session = self._session(intent)
        if repeated := [s.order_ref for s in specs if s.order_ref in self._orders]:
            raise BrokerError(f"{repeated[0]} was placed before: an order is never sent twice")
        if not session.writes_at_once:
            raise BrokerError(
                f"{intent.entry_ref}: the socket does not take more at the moment; nothing was sent"
            )
        if not session.pacer.try_take(len(specs), CANCEL_RESERVE):
            raise BrokerError(
                f"{intent.entry_ref}: {session.pacer.limit} messages were sent within a second, "
                "which is near the gateway's limit; nothing was sent"
            )
        return self._send(session, intent, specs)

    def _session(self, intent: OrderIntent) -> IbkrSession:
        session = self._connection.session
        if self.state is not ConnectionState.READY or session is None or not session.usable:
            raise BrokerError(
                f"{intent.entry_ref}: nothing was sent, because the connection is {self.state.value} "
                f"({self._connection.reason})"
            )
        return session

    def _send(self, session: IbkrSession, intent: OrderIntent, specs: tuple[OrderSpec, ...]) -> int:
        contract = self._contract(session, intent)
        ids = [int(session.client.getReqId()) for _ in specs]
        sent_before = session.sent_count()
        for spec, order_id in zip(specs, ids, strict=True):
            known = _KnownOrder(spec.order_ref, order_id, intent.con_id, intent.quantity)
            self._remember(known)
            order = fill_order(session.library.order(), spec, order_id, ids[0], session.account)
            session.client.placeOrder(order_id, contract, order)
        sent_ns = self._connection.monotonic_ns()
        if session.sent_count() != sent_before + len(specs) or not session.writes_at_once:
            log.error("order messages were queued, not written", order_ref=intent.entry_ref)
        return sent_ns

    def _contract(self, session: IbkrSession, intent: OrderIntent) -> Any:
        # A position to flatten may be in something that was never resolved.
        known = self._connection.contracts.get(intent.con_id)
        return known or session.library.contract(conId=intent.con_id, exchange="SMART")

    def cancel(self, order_ref: str) -> bool:
        """Ask to cancel one order; False when it is unknown, finished, or nobody can be asked now."""
        known = self._orders.get(order_ref)
        if known is None or known.done or not known.order_id:
            return False
        session = self._connection.session
        if session is None or not session.usable or not session.pacer.try_take(1, 1):
            log.warning("cancel not sent", order_ref=order_ref, state=self.state.value)
            return False
        session.client.cancelOrder(known.order_id)
        return True

    def cancel_all(self) -> int:
        """Ask to cancel every working order, other programs' too; return how many of ours are known.

        While nobody can be asked the wish is kept, and sent before the connection is READY again.
        """
        self._cancel_all_wanted = True
        self._send_cancel_all()
        return sum(not order.done for order in self._orders.values())

    def _send_cancel_all(self) -> None:
        session = self._connection.session
        if session is None or not session.usable or not session.pacer.try_take(1):
            log.warning("global cancel waits for the connection", state=self.state.value)
            return
        session.client.reqGlobalCancel()
        self._cancel_all_wanted = False

    # --- what the gateway says (OrderHandler) ----------------------------------------------------

    def on_open_order(self, contract: Any, order: Any, status: str) -> None:
        """Learn an order's permId and, of an earlier process's order, its reference."""
        known = self._by_id.get(int(order.orderId))
        if known is None or (order.orderRef and known.order_ref != order.orderRef):
            ref = order.orderRef or f"order {order.orderId}"
            order_id, con_id = int(order.orderId), int(contract.conId)
            known = self._orders.get(ref) or _KnownOrder(ref, order_id, con_id, Decimal(0))
            known.order_id = int(order.orderId)
            self._remember(known)
        known.perm_id = int(order.permId) or known.perm_id
        known.quantity = decimal_of(float(order.totalQuantity))
        known.acknowledged = True
        # How much is filled comes with orderStatus, so that message says that an order is done.
        if status and status != known.status and status not in DONE_STATUSES and not known.done:
            self._update(known, status)

    def on_order_status(self, status: OrderStatus) -> None:
        """Pass on an order's state."""
        known = self._by_id.get(status.order_id)
        if known is None:
            log.warning("status of an unknown order", order_id=status.order_id, status=status.status)
            return
        known.perm_id = status.perm_id or known.perm_id
        known.acknowledged = True
        changed = (status.status, status.filled, status.remaining) != (
            known.status,
            known.filled,
            known.remaining,
        )
        known.filled, known.remaining = status.filled, status.remaining
        known.average_price = status.average_price
        if changed:
            self._update(known, status.status)

    def on_order_error(self, order_id: int, code: int, text: str) -> None:
        """Pass on an error about an order, with what it leaves of the order's status."""
        known = self._by_id.get(order_id)
        if known is None:
            log.warning("gateway", message=describe(code, text), request_id=order_id)
            return
        status = status_after_error(code, known.status, known.acknowledged)
        self._update(known, status, describe(code, text), code)

    def on_execution(self, fill: Fill) -> None:
        """Pass on each execution once per process; a correction makes us ask for the truth."""
        family = execution_family(fill.exec_id)
        delivered = self._fills.get(family)
        if delivered is None:
            _remember_execution(self._fills, family, fill.exec_id)
            self._tell(fill)
        elif fill.exec_id > delivered:
            self._fills[family] = fill.exec_id
            log.warning("execution corrected", exec_id=fill.exec_id, corrects=delivered)
            self._connection.request_resync(f"execution {delivered} was corrected by {fill.exec_id}")

    def on_commission(self, commission: Commission) -> None:
        """Pass on each commission once per process."""
        if commission.exec_id not in self._commissions:
            _remember_execution(self._commissions, commission.exec_id, None)
            self._tell(commission)

    def _tell(self, news: Fill | Commission) -> None:
        if not self._reconciled:
            self._earlier.append(news)
        elif self._listener is not None and isinstance(news, Fill):
            self._listener.on_fill(news)
        elif self._listener is not None and isinstance(news, Commission):
            self._listener.on_commission(news)

    def on_position(self, position: Position) -> None:
        """Pass on a position."""
        if self._listener is not None:
            self._listener.on_position(position)

    def on_account_values(self) -> None:
        """Pass on the account's figures once it has any."""
        session = self._connection.session
        if self._listener is None or session is None or not session.state.account_values:
            return
        try:
            account = parse_account(session.state.account_values)
        except ValueError:
            return  # its NetLiquidation comes with a later packet
        self._listener.on_account(account)

    # --- what the connection says (ConnectionObserver) -------------------------------------------

    def on_connection_state(self, state: ConnectionState, reason: str) -> None:
        """Pass on the connection's state."""
        if self._listener is not None:
            self._listener.on_connection(state, reason)

    def on_snapshot(self, snapshot: BrokerSnapshot) -> None:
        """Match what we knew with what is open now, then pass the snapshot on.

        Executions of while we were away came before it. Those of before this process are part of its
        first snapshot and follow it, so that they are not taken for news.
        """
        if self._cancel_all_wanted:
            self._send_cancel_all()
        working = {order.order_ref for order in snapshot.working_orders}
        filled: dict[int, Decimal] = {}
        for fill in snapshot.fills:
            filled[fill.perm_id] = filled.get(fill.perm_id, Decimal(0)) + fill.quantity
        for known in [o for o in self._orders.values() if not o.done and o.order_ref not in working]:
            known.filled = max(known.filled, filled.get(known.perm_id, Decimal(0)))
            if known.filled >= known.quantity:
                known.remaining = Decimal(0)
                self._update(known, "Filled", "filled while away")
            else:
                # It may have been cancelled, or never have arrived; nobody said so.
                self._update(known, UNCONFIRMED, "not among the open orders after the reconnect")
        if self._listener is not None:
            self._listener.on_reconciled(snapshot)
        self._reconciled = True
        earlier, self._earlier = self._earlier, []
        for news in earlier:
            self._tell(news)

    def on_session_ready(self, session: IbkrSession, resubscribe: bool) -> None:
        """Nothing to subscribe to."""

    # --- bookkeeping -----------------------------------------------------------------------------

    def _remember(self, known: _KnownOrder) -> None:
        namesake = self._by_id.get(known.order_id)
        if namesake is not None and namesake is not known:
            namesake.order_id = 0  # the gateway started counting anew
        self._orders[known.order_ref] = known
        self._by_id[known.order_id] = known
        if len(self._orders) > DONE_ORDERS_KEPT:
            oldest = next((o for o in self._orders.values() if o.done), None)
            if oldest is not None:
                del self._orders[oldest.order_ref]
                if self._by_id.get(oldest.order_id) is oldest:
                    del self._by_id[oldest.order_id]

    def _update(self, known: _KnownOrder, status: str, message: str = "", code: int = 0) -> None:
        known.status = status
        if self._listener is not None:
            self._listener.on_order(
                OrderEvent(
                    order_ref=known.order_ref,
                    perm_id=known.perm_id,
                    order_id=known.order_id,
                    con_id=known.con_id,
                    status=status,
                    filled=known.filled,
                    remaining=known.quantity - known.filled if known.remaining is None else known.remaining,
                    average_price=known.average_price,
                    event_ns=self._wall_ns(),
                    message=message,
                    error_code=code,
                )
            )


def _remember_execution(known: dict[str, _V], key: str, value: _V) -> None:
    known[key] = value
    if len(known) > EXECUTIONS_KEPT:
        del known[next(iter(known))]
