"""What the parts of the IBKR adapter tell each other about one socket session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

import structlog

from strategy.core.values import Commission, Fill, Position

log = structlog.get_logger("ibkr")


def deliver(receiver: Callable[..., None], *args: Any) -> None:
    """Call a receiver; its failure goes to the loop's exception handler, so that one can't break another."""
    try:
        receiver(*args)
    except Exception as e:
        log.exception("receiver failed", receiver=getattr(receiver, "__qualname__", repr(receiver)))
        asyncio.get_running_loop().call_exception_handler(
            {"message": "a receiver of gateway messages failed", "exception": e}
        )


class SessionError(Exception):
    """The session could not be opened or was lost; `code` is the gateway's, 0 when it gave none."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class OrderStatus:
    """An orderStatus message."""

    order_id: int
    status: str
    filled: Decimal
    remaining: Decimal
    average_price: float
    perm_id: int
    client_id: int


class StreamHandler:
    """Receives the messages of one market data request; a subclass takes what it wants."""

    def on_history(self, raw_bar: Any) -> None:
        """One bar of the answer."""

    def on_history_end(self) -> None:
        """The answer is complete."""

    def on_bar_update(self, raw_bar: Any) -> None:
        """The forming bar changed, or the next one began."""

    def on_realtime_bar(self, start_s: int, prices: tuple[float, float, float, float], volume: float) -> None:
        """A 5-second bar ended."""

    def on_price(self, tick_type: int, price: float, size: float) -> None:
        """A price tick, with its size."""

    def on_size(self, tick_type: int, size: float) -> None:
        """A size tick."""

    def on_generic(self, tick_type: int, value: float) -> None:
        """A numeric tick."""

    def on_string(self, tick_type: int, value: str) -> None:
        """A text tick."""

    def on_data_type(self, data_type: int) -> None:
        """Live is 1, frozen 2, delayed 3, delayed and frozen 4."""

    def on_depth(self, position: int, operation: int, side: int, price: float, size: float) -> None:
        """A row of the book changed; side 1 is bid, 0 is ask."""

    def on_error(self, code: int, text: str) -> None:
        """The gateway said something about this request."""

    def flush(self) -> None:
        """The packet is done: deliver what changed."""


class OrderHandler(Protocol):
    """Receives what the gateway says about orders."""

    def on_open_order(self, contract: Any, order: Any, status: str) -> None:
        """An order is open, or changed."""

    def on_order_status(self, status: OrderStatus) -> None:
        """An order's state."""

    def on_execution(self, fill: Fill) -> None:
        """An execution, live or of earlier today."""

    def on_commission(self, commission: Commission) -> None:
        """The cost of an execution."""

    def on_order_error(self, order_id: int, code: int, text: str) -> None:
        """The gateway said something about an order, or about a request that is gone."""

    def on_position(self, position: Position) -> None:
        """A position of the account."""

    def on_account_values(self) -> None:
        """Account values changed."""


@dataclass(slots=True)
class SessionState:
    """What the gateway said in this session, for the reconciliation.

    Attributes:
        accounts: Accounts the user manages.
        account_values: (tag, currency) -> text.
        positions: con_id -> position.
        open_orders: order id -> (contract, order, status), library's objects.
        executions: exec_id -> fill; corrections replace what they correct.
        commissions: exec_id -> commission.
        link_lost: What the gateway said when it lost Interactive Brokers; "" while it has it.
    """

    accounts: Sequence[str] = ()
    account_values: dict[tuple[str, str], str] = field(default_factory=dict)
    positions: dict[int, Position] = field(default_factory=dict)
    open_orders: dict[int, tuple[Any, Any, str]] = field(default_factory=dict)
    executions: dict[str, Fill] = field(default_factory=dict)
    commissions: dict[str, Commission] = field(default_factory=dict)
    link_lost: str = ""


class NoOrders:
    """Drops what the gateway says about orders: a connection that only feeds."""

    def on_open_order(self, contract: Any, order: Any, status: str) -> None:
        """Drop it."""

    def on_order_status(self, status: OrderStatus) -> None:
        """Drop it."""

    def on_execution(self, fill: Fill) -> None:
        """Drop it."""

    def on_commission(self, commission: Commission) -> None:
        """Drop it."""

    def on_order_error(self, order_id: int, code: int, text: str) -> None:
        """Drop it."""

    def on_position(self, position: Position) -> None:
        """Drop it."""

    def on_account_values(self) -> None:
        """Drop it."""
