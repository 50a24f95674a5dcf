"""The values that flow from forecasts to orders.

Prices and quantities of orders are Decimal; probabilities and features are float.
Times are int nanoseconds UTC (`*_ns`) unless a field says monotonic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum


class Side(StrEnum):
    """Direction of a decision or an order; HOLD never becomes an order."""

    BUY = "BUY"
    SELL = "SELL"
    HOLD = "HOLD"


class Purpose(StrEnum):
    """Why an order is sent."""

    ENTRY = "entry"
    EXIT = "exit"
    FLATTEN = "flatten"


@dataclass(frozen=True, slots=True)
class Probabilities:
    """P(down), P(flat), P(up) of the close over the model's horizon; they sum to 1."""

    down: float
    flat: float
    up: float


@dataclass(frozen=True, slots=True)
class Neighbor:
    """One past market state that looks like the present one, with what came after it."""

    state_id: int
    con_id: int
    symbol: str
    event_ns: int
    bar_size_s: int
    similarity: float
    forward_return_bps: float


@dataclass(frozen=True, slots=True)
class Consensus:
    """What the voters that answered in time say together.

    Attributes:
        probabilities: Weighted mean of the votes; None below the quorum.
        weights: Effective weight of each voter that counted; they sum to 1 (empty below the quorum).
        missing: Voter -> why it did not count.
    """

    probabilities: Probabilities | None
    weights: Mapping[str, float]
    missing: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Signal:
    """What the policy makes of a consensus.

    Attributes:
        side: BUY, SELL or HOLD.
        strength: 0 to 1; scales the size of an entry.
        purpose: ENTRY, EXIT, or None for HOLD.
        reason: One sentence for the screen and the journal.
    """

    side: Side
    strength: float
    purpose: Purpose | None
    reason: str


@dataclass(frozen=True, slots=True)
class RiskCheck:
    """One limit and what was measured against it."""

    name: str
    value: float
    limit: float
    passed: bool


@dataclass(frozen=True, slots=True)
class OrderIntent:
    """An order (or a bracket) that the strategy is about to send; recorded before it is sent.

    Attributes:
        intent_id: UUIDv7 as hex; the order references are derived from it.
        decision_id: Decision that caused it; "" for a flatten or a kill.
        con_id: Instrument.
        symbol: For people.
        side: BUY or SELL.
        purpose: ENTRY carries a protective stop; EXIT and FLATTEN are single orders.
        quantity: > 0, whole units.
        limit_price: Limit of the parent order; None for a market order.
        stop_price: Stop of the protective child; required for ENTRY.
        take_profit_price: Limit of the profit-taking child; None for none.
        created_ns: Wall clock, UTC.
    """

    intent_id: str
    decision_id: str
    con_id: int
    symbol: str
    side: Side
    purpose: Purpose
    quantity: Decimal
    limit_price: Decimal | None
    stop_price: Decimal | None
    take_profit_price: Decimal | None
    created_ns: int

    @property
    def entry_ref(self) -> str:
        """OrderRef of the parent (or only) order."""
        return f"ts/{self.intent_id}/E"

    @property
    def stop_ref(self) -> str:
        """OrderRef of the protective stop."""
        return f"ts/{self.intent_id}/S"

    @property
    def take_profit_ref(self) -> str:
        """OrderRef of the profit-taking order."""
        return f"ts/{self.intent_id}/T"


def intent_id_of(order_ref: str) -> str | None:
    """Return the intent id inside an orderRef of ours; None when the order is not ours."""
    parts = order_ref.split("/")
    return parts[1] if len(parts) == 3 and parts[0] == "ts" and len(parts[1]) == 32 else None


@dataclass(frozen=True, slots=True)
class OrderEvent:
    """A change of an order's state at the broker."""

    order_ref: str
    perm_id: int
    order_id: int
    con_id: int
    status: str
    filled: Decimal
    remaining: Decimal
    average_price: float
    event_ns: int
    message: str = ""
    error_code: int = 0


@dataclass(frozen=True, slots=True)
class Fill:
    """An execution. Commission and realised PnL come later, under the same exec_id."""

    exec_id: str
    order_ref: str
    perm_id: int
    con_id: int
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    event_ns: int


@dataclass(frozen=True, slots=True)
class Commission:
    """What an execution cost; `realized_pnl` is None when the broker did not say."""

    exec_id: str
    commission: Decimal
    currency: str
    realized_pnl: Decimal | None


@dataclass(frozen=True, slots=True)
class Position:
    """What the account holds of one instrument; quantity is signed."""

    con_id: int
    symbol: str
    quantity: Decimal
    average_price: float


@dataclass(frozen=True, slots=True)
class WorkingOrder:
    """An order that the broker reports as open."""

    order_ref: str
    perm_id: int
    order_id: int
    con_id: int
    side: Side
    order_type: str
    quantity: Decimal
    filled: Decimal
    limit_price: float
    stop_price: float
    status: str


@dataclass(frozen=True, slots=True)
class Account:
    """Account figures in the account's currency; the account number is never kept in full."""

    equity: float
    cash: float
    buying_power: float
    currency: str
