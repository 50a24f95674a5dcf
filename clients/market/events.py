"""What happens on a market, as plain values.

Times are int nanoseconds since the epoch, UTC. `event_ns` is the exchange's time, `receive_ns` is
`time.monotonic_ns()` when the message came off the socket (0 where it never was on one).
Prices and sizes are float64 here; orders use Decimal at their edge.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Instrument:
    """What is traded.

    Attributes:
        con_id: Interactive Brokers contract id; the key everywhere.
        symbol: For people and logs. Example: "AAPL".
        currency: ISO 4217. Prices and PnL are in it.
        min_tick: Smallest price step, > 0.
        security_type: Interactive Brokers' secType, "STK" or "CASH".
    """

    con_id: int
    symbol: str
    currency: str = "USD"
    min_tick: float = 0.01
    security_type: str = "STK"


@dataclass(frozen=True, slots=True)
class Bar:
    """Trades of one interval.

    Attributes:
        con_id: Instrument.
        start_ns: Begin of the interval (inclusive), exchange time.
        end_ns: End of the interval (exclusive); the bar is known from here on.
        open: First price; also high, low, close; 0 < low <= open, close <= high.
        volume: Shares or units, >= 0.
        receive_ns: Monotonic time when the bar was known to be closed; 0 for history.
    """

    con_id: int
    start_ns: int
    end_ns: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    receive_ns: int = 0


@dataclass(frozen=True, slots=True)
class Quote:
    """Best bid and ask. A missing side has price 0 and size 0."""

    con_id: int
    event_ns: int
    bid_price: float
    bid_size: float
    ask_price: float
    ask_size: float
    receive_ns: int = 0

    @property
    def mid_price(self) -> float:
        """Middle of bid and ask; 0 when a side is missing."""
        return (self.bid_price + self.ask_price) / 2 if self.bid_price > 0 and self.ask_price > 0 else 0.0

    @property
    def spread_bps(self) -> float:
        """Ask minus bid relative to the middle, in basis points; infinite when a side is missing."""
        mid = self.mid_price
        return (self.ask_price - self.bid_price) / mid * 1e4 if mid > 0 else float("inf")


@dataclass(frozen=True, slots=True)
class Trade:
    """One print on the tape."""

    con_id: int
    event_ns: int
    price: float
    size: float
    receive_ns: int = 0


@dataclass(frozen=True, slots=True)
class BookLevel:
    """One price level of an order book."""

    price: float
    size: float


@dataclass(frozen=True, slots=True)
class BookSnapshot:
    """An order book at one instant; the best level first on each side."""

    con_id: int
    event_ns: int
    bids: tuple[BookLevel, ...]
    asks: tuple[BookLevel, ...]
    receive_ns: int = 0
