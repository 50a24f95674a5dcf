"""Matches orders against the replayed market, the way IBKR's simulated accounts do.

What fills, and where:
- An order that arrives, a market order and a triggered stop take the displayed book level by level,
  at the book's prices; what they take is gone until the market's next step.
- A limit order that rests fills at its limit, up to the size displayed at or through it.
- Nothing fills at a price the market showed before the order came.
- Stops trigger on prints, as IBKR does for stocks.
- The children of a bracket become executable share by share as their parent fills; they shrink each
  other like an OCA group of type 2, so that one filling cancels the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gateway_simulator.account import LEVERAGE, Account
from gateway_simulator.orders import (
    HELD,
    Execution,
    Order,
    OrderCancelled,
    OrderChanged,
    OrderFilled,
    OrderNews,
    OrderRefused,
    commission,
)
from gateway_simulator.replay import Line, Replay

ORDER_TYPES = ("MKT", "LMT", "STP", "STP LMT")
MAX_WORKING_PER_CONTRACT = 20
MAX_ORDERS = 20_000
_EPSILON = 1e-9


class Exchange:
    """All orders of the account, and their matching."""

    def __init__(self, replay: Replay, account: Account, *, first_perm_id: int, exec_prefix: str) -> None:
        self.replay = replay
        self.account = account
        self.orders: dict[tuple[int, int], Order] = {}
        self.executions: list[Execution] = []
        self.next_perm_id = first_perm_id
        self.exec_prefix = exec_prefix
        self.next_exec = 1
        self.next_order_id: dict[int, int] = {}
        self.refuse_next = 0
        self.connected = True
        self._news: list[OrderNews] = []
        self._taken: dict[int, dict[tuple[str, float], float]] = {}

    # --- what clients ask for ---------------------------------------------------------------------

    def place(self, request: Order) -> list[OrderNews]:
        """Accept, change or refuse an order, match it, and return everything that happened."""
        key = request.key
        known = self.orders.get(key)
        refusal = self._refusal(request, known)
        if refusal is not None:
            self._use_id(request)
            return [OrderRefused(*key, *refusal)]
        if known is not None:
            return self._modify(known, request)
        self._use_id(request)
        order = replace(request, perm_id=self.next_perm_id, status=HELD)
        self.next_perm_id += 1
        if len(self.orders) >= MAX_ORDERS:
            oldest = next((k for k, one in self.orders.items() if one.done), None)
            if oldest is not None:
                del self.orders[oldest]
        self.orders[key] = order
        if order.transmit:
            for one in self._held_with(order):
                self._release(one)
        return self._collect()

    def cancel(self, client_id: int, order_id: int) -> list[OrderNews]:
        """Cancel one order of a client."""
        order = self.orders.get((client_id, order_id))
        if order is None:
            text = f"OrderId {order_id} that needs to be cancelled is not found."
            return [OrderRefused(client_id, order_id, 10147, text)]
        if order.done:
            text = (
                f"OrderId {order_id} that needs to be cancelled cannot be cancelled, state: {order.status}."
            )
            return [OrderRefused(client_id, order_id, 10148, text)]
        self._cancel(order)
        return self._collect()

    def cancel_all(self) -> list[OrderNews]:
        """Cancel every working order of the account."""
        for order in list(self.orders.values()):
            if not order.done:
                self._cancel(order)
        return self._collect()

    def next_id(self, client_id: int) -> int:
        """Return the lowest order id that a client may use."""
        return self.next_order_id.get(client_id, 1)

    # --- what the market does ---------------------------------------------------------------------

    def match(self, lines: Iterable[Line]) -> list[OrderNews]:
        """Match what rests against the lines' new touches and prints."""
        changed = {line.instrument.con_id for line in lines}
        for con_id in changed:
            self._taken.pop(con_id, None)
        for order in [one for one in self.orders.values() if one.con_id in changed and not one.done]:
            self._work(order, printed=self.replay.lines[order.con_id].step.trade_size > 0)
        return self._collect()

    def prices(self) -> dict[int, float]:
        """Return the last price of every instrument."""
        return {con_id: line.last for con_id, line in self.replay.lines.items()}

    def working(self) -> list[Order]:
        """Return the orders that are at the broker and not done, oldest first."""
        return [order for order in self.orders.values() if not order.done and order.status != HELD]

    # --- acceptance -------------------------------------------------------------------------------

    def _refusal(self, order: Order, known: Order | None) -> tuple[int, str] | None:
        line = self.replay.lines[order.con_id]
        if known is not None and known.done:
            return 104, f"Cannot modify a filled order. Order {order.order_id} is {known.status}."
        if known is not None and (known.con_id, known.action) != (order.con_id, order.action):
            return 105, "Order being modified does not match original order."
        if known is None and order.order_id < self.next_id(order.client_id):
            return 103, f"Duplicate order id: {order.order_id}."
        if not self.connected:
            return 201, "Order rejected - reason:no connectivity between the gateway and IBKR."
        if self.refuse_next > 0:
            self.refuse_next -= 1
            return 201, "Order rejected - reason:refused by the simulator's fault script."
        if line.halted:
            return 201, f"Order rejected - reason:trading in {line.instrument.symbol} is halted."
        return self._bad_terms(order, line) or self._limit_reached(order, known, line)

    def _bad_terms(self, order: Order, line: Line) -> tuple[int, str] | None:
        if order.action not in ("BUY", "SELL"):
            return 201, f"Order rejected - reason:unknown action {order.action!r}."
        if order.order_type not in ORDER_TYPES:
            return 387, f"Unsupported order type for this exchange and security type: {order.order_type}."
        if order.tif not in ("DAY", "GTC", "IOC"):
            return 201, f"Order rejected - reason:invalid time in force {order.tif!r}; use DAY, GTC or IOC."
        if order.quantity <= 0:
            return 201, "Order rejected - reason:the order size must be positive."
        if order.quantity != int(order.quantity):
            return 10243, "Fractional-sized order cannot be placed via API."
        tick = line.instrument.min_tick
        for needed, price in (
            (order.order_type in ("LMT", "STP LMT"), order.limit_price),
            (order.order_type in ("STP", "STP LMT"), order.stop_price),
        ):
            if needed and price <= 0:
                return 201, "Order rejected - reason:the order needs a positive price."
            if needed and abs(price / tick - round(price / tick)) > 1e-6:
                return 110, "The price does not conform to the minimum price variation for this contract."
        if order.parent_id and (order.client_id, order.parent_id) not in self.orders:
            return 135, f"Can't find order with ID = {order.parent_id}."
        if order.parent_id:
            parent = self.orders[order.client_id, order.parent_id]
            if parent.done and not parent.filled:
                return 201, f"Order rejected - reason:parent order {order.parent_id} is {parent.status}."
        return None

    def _limit_reached(self, order: Order, known: Order | None, line: Line) -> tuple[int, str] | None:
        if known is None:
            side = [
                one for one in self.working() if one.con_id == order.con_id and one.action == order.action
            ]
            if len(side) >= MAX_WORKING_PER_CONTRACT:
                return 201, (
                    "Order rejected - reason:at most "
                    f"{MAX_WORKING_PER_CONTRACT} working orders per contract and side."
                )
        if order.parent_id:
            return None
        prices = self.prices()
        price = order.limit_price or (line.step.ask if order.action == "BUY" else line.step.bid)
        holding = self.account.holdings.get(order.con_id)
        held = (holding.quantity if holding else 0.0) * order.sign
        adds = max(0.0, order.quantity + min(0.0, held))
        equity = self.account.net_liquidation(prices)
        if adds * price + self.account.gross_position(prices) > LEVERAGE * equity:
            return 201, (
                "Order rejected - reason:YOUR ORDER IS NOT ACCEPTED. IN ORDER TO OBTAIN THE DESIRED POSITION "
                f"YOUR EQUITY WITH LOAN VALUE [{equity:.2f} USD] MUST EXCEED THE INITIAL MARGIN "
                f"[{(adds * price) / LEVERAGE:.2f} USD]"
            )
        return None

    def _use_id(self, order: Order) -> None:
        self.next_order_id[order.client_id] = max(self.next_id(order.client_id), order.order_id + 1)

    def _held_with(self, order: Order) -> list[Order]:
        """Return the untransmitted orders of a bracket that this leg completes, the parent first."""
        root = order.parent_id or order.order_id
        family = [
            one
            for one in self.orders.values()
            if one.client_id == order.client_id
            and root in (one.order_id, one.parent_id)
            and one.status == HELD
        ]
        return sorted(family, key=lambda one: (one.parent_id != 0, one.order_id))

    def _release(self, order: Order) -> None:
        order.transmit = True
        order.status = "PreSubmitted" if order.is_stop or self._waits(order) else "Submitted"
        self._tell(OrderChanged(replace(order)))
        self._work(order, printed=True)
        if order.tif == "IOC" and not order.done and not self._waits(order):
            self._cancel(order)

    def _modify(self, known: Order, request: Order) -> list[OrderNews]:
        known.quantity = max(request.quantity, known.filled)
        known.order_type = request.order_type
        known.limit_price, known.stop_price = request.limit_price, request.stop_price
        known.tif = request.tif
        known.resting = False
        if known.status == HELD:
            if request.transmit:
                for one in self._held_with(known):
                    self._release(one)
            return self._collect()
        self._tell(OrderChanged(replace(known)))
        if known.remaining <= _EPSILON:
            self._cancel(known)
        else:
            self._work(known, printed=True)
        return self._collect()

    # --- matching ---------------------------------------------------------------------------------

    def _waits(self, order: Order) -> bool:
        """Whether a child still waits for the first share of its parent."""
        return self._executable(order) <= _EPSILON

    def _executable(self, order: Order) -> float:
        if not order.parent_id:
            return order.remaining
        parent = self.orders.get((order.client_id, order.parent_id))
        if parent is None:
            return order.remaining
        covered = parent.filled - sum(one.filled for one in self._partners(order, itself=True))
        return min(order.remaining, covered)

    def _work(self, order: Order, *, printed: bool) -> None:
        """Trigger and fill an order as far as the market of this moment allows."""
        line = self.replay.lines[order.con_id]
        if order.done or order.status == HELD or line.halted or not self.connected or self._waits(order):
            return
        if order.is_stop:
            reached = (line.last - order.stop_price) * order.sign >= -_EPSILON
            if not (printed and reached):
                return
            order.triggered = True
        if order.status != "Submitted":
            order.status = "Submitted"
            self._tell(OrderChanged(replace(order)))
        self._take(order, line)
        if not order.done:
            order.resting = order.order_type in ("LMT", "STP LMT")

    def _take(self, order: Order, line: Line) -> None:
        bids, asks = line.book()
        has_limit = order.order_type in ("LMT", "STP LMT")
        taken = self._taken.setdefault(order.con_id, {})
        for price, size in asks if order.action == "BUY" else bids:
            if has_limit and (price - order.limit_price) * order.sign > _EPSILON:
                return
            left = size - taken.get((order.action, price), 0.0)
            shares = min(left, self._executable(order))
            if shares >= 1 - _EPSILON:
                taken[order.action, price] = taken.get((order.action, price), 0.0) + shares
                self._fill(order, shares, order.limit_price if order.resting else price)
            if order.done or self._executable(order) <= _EPSILON:
                return

    def _fill(self, order: Order, shares: float, price: float) -> None:
        order.filled += shares
        order.filled_value += shares * price
        order.last_price = price
        if order.remaining <= _EPSILON:
            order.status = "Filled"
        total = commission(order.filled, order.filled_value)
        cost, order.commission = round(total - order.commission, 6), total
        realized = self.account.book(order.con_id, order.sign * shares, price, cost)
        execution = Execution(
            exec_id=f"{self.exec_prefix}.{self.next_exec:08x}.01.01",
            client_id=order.client_id,
            order_id=order.order_id,
            perm_id=order.perm_id,
            con_id=order.con_id,
            time_ns=self.replay.now_ns,
            action=order.action,
            shares=shares,
            price=price,
            cumulative=order.filled,
            average_price=order.average_price,
            order_ref=order.order_ref,
            exchange="ISLAND",
            commission=cost,
            realized_pnl=realized,
        )
        self.next_exec += 1
        self.executions.append(execution)
        del self.executions[:-MAX_ORDERS]
        self._tell(OrderFilled(replace(order), execution))
        self._shrink_partners(order, shares)
        for child in self._children(order):
            self._work(child, printed=False)

    # --- groups -----------------------------------------------------------------------------------

    def _children(self, order: Order) -> list[Order]:
        return [
            one
            for one in self.orders.values()
            if one.parent_id == order.order_id and one.client_id == order.client_id and not one.done
        ]

    def _partners(self, order: Order, *, itself: bool = False) -> list[Order]:
        """Return the other orders of its bracket's children and of its OCA group."""
        return [
            one
            for one in self.orders.values()
            if one.client_id == order.client_id
            and (itself or one is not order)
            and (
                (order.parent_id and one.parent_id == order.parent_id)
                or (not itself and order.oca_group and one.oca_group == order.oca_group)
                or one is order
            )
        ]

    def _shrink_partners(self, order: Order, shares: float) -> None:
        for one in self._partners(order):
            if one.done:
                continue
            if order.done or (order.oca_group and order.oca_type == 1) or one.remaining - shares <= _EPSILON:
                self._cancel(one, "the other order of its group was filled")
            else:
                one.quantity -= shares
                self._tell(OrderChanged(replace(one)))

    def _cancel(self, order: Order, reason: str = "") -> None:
        was_held = order.status == HELD
        order.status = "Cancelled"
        self._tell(OrderCancelled(replace(order), reason or ("never transmitted" if was_held else "")))
        for child in self._children(order):
            covered = self._executable(child)
            if covered <= _EPSILON:
                self._cancel(child, "its parent was cancelled")
            elif covered < child.remaining:
                child.quantity = child.filled + covered
                self._tell(OrderChanged(replace(child)))

    def _tell(self, news: OrderNews) -> None:
        self._news.append(news)

    def _collect(self) -> list[OrderNews]:
        news, self._news = self._news, []
        return news
