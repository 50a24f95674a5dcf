"""Orders, executions, and what the exchange tells about them."""

from __future__ import annotations

from dataclasses import dataclass

DONE = frozenset({"Filled", "Cancelled", "Inactive"})
HELD = "Untransmitted"
"""Our word for an order that waits for its bracket's last leg; it never leaves the simulator."""


@dataclass(slots=True)
class Order:
    """An order at the simulated broker.

    Attributes:
        client_id: API client that placed it; with order_id its key.
        perm_id: Unique over all clients and restarts.
        action: "BUY" or "SELL".
        quantity: Whole units; shrinks when a partner of its group fills.
        order_type: "MKT", "LMT", "STP" or "STP LMT".
        limit_price: 0 when it has none; also stop_price.
        oca_type: 1 cancels the partners at the first fill, 2 and 3 shrink them.
        parent_id: Order id of the bracket's entry; 0 for none.
        filled_value: Sum of price times shares over its executions.
        triggered: The stop price was traded.
        resting: It was matched once and stands in the book at its limit.
    """

    client_id: int
    order_id: int
    perm_id: int
    con_id: int
    action: str
    quantity: float
    order_type: str
    limit_price: float
    stop_price: float
    tif: str
    oca_group: str
    oca_type: int
    order_ref: str
    transmit: bool
    parent_id: int
    outside_rth: bool
    exchange: str
    status: str = HELD
    filled: float = 0.0
    filled_value: float = 0.0
    last_price: float = 0.0
    commission: float = 0.0
    triggered: bool = False
    resting: bool = False
    what_if: bool = False

    @property
    def key(self) -> tuple[int, int]:
        """What the placing client calls it."""
        return self.client_id, self.order_id

    @property
    def sign(self) -> int:
        """+1 for a buy, -1 for a sell."""
        return 1 if self.action == "BUY" else -1

    @property
    def remaining(self) -> float:
        """Units not filled yet."""
        return self.quantity - self.filled

    @property
    def average_price(self) -> float:
        """Mean price of its executions; 0 before the first."""
        return round(self.filled_value / self.filled, 8) if self.filled else 0.0

    @property
    def done(self) -> bool:
        """Whether nothing can happen to it any more."""
        return self.status in DONE

    @property
    def is_stop(self) -> bool:
        """Whether it waits for a price to be traded."""
        return self.order_type in ("STP", "STP LMT") and not self.triggered


@dataclass(frozen=True, slots=True)
class Execution:
    """A fill. `realized_pnl` is None for one that only opens a position."""

    exec_id: str
    client_id: int
    order_id: int
    perm_id: int
    con_id: int
    time_ns: int
    action: str
    shares: float
    price: float
    cumulative: float
    average_price: float
    order_ref: str
    exchange: str
    commission: float
    realized_pnl: float | None


@dataclass(frozen=True, slots=True)
class OrderChanged:
    """An order's state changed; `order` is a copy. Sent as openOrder and orderStatus."""

    order: Order


@dataclass(frozen=True, slots=True)
class OrderFilled:
    """An execution, with a copy of its order after it."""

    order: Order
    execution: Execution


@dataclass(frozen=True, slots=True)
class OrderCancelled:
    """An order was cancelled; `order` is a copy."""

    order: Order
    reason: str = ""


@dataclass(frozen=True, slots=True)
class OrderRefused:
    """A request about an order was refused with an error code of IB's."""

    client_id: int
    order_id: int
    code: int
    message: str


OrderNews = OrderChanged | OrderFilled | OrderCancelled | OrderRefused


def commission(shares: float, value: float) -> float:
    """Return what `shares` of one order worth `value` cost: 0.005 a share, at least 1, at most 1 %.

    Source: IBKR Pro fixed pricing for US stocks.
    """
    return round(min(max(1.0, 0.005 * shares), 0.01 * value), 6)
