"""One market data subscription each: quotes and prints, the order book; bars are in `ibkr_bars`.

A stream outlives sessions: after a reconnect it is requested again and goes on where it was, so that every
closed bar is delivered exactly once and in order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import time_ns

import structlog

from market.book import BookSide, DepthOperation, DepthUpdate, OrderBook
from market.events import Instrument, Quote, Trade
from strategy.adapters import ibkr_parsing as parsing
from strategy.adapters.ibkr_codes import CodeKind, describe, meaning_of
from strategy.adapters.ibkr_messages import StreamHandler
from strategy.ports import FeedListener

log = structlog.get_logger("ibkr")

LIVE_CLOCK_TOLERANCE_S = 10
"""A gateway whose clock differs by more replays the past."""


@dataclass(slots=True)
class ExchangeClock:
    """Exchange time for messages that carry none.

    A live gateway's time is ours; one that replays the past is at the last time it showed.
    """

    wall_ns: Callable[[], int] = time_ns
    replaying: bool = False
    last_ns: int = 0

    def set_gateway_time(self, seconds: int) -> None:
        """Take the gateway's own clock."""
        self.replaying = abs(seconds - self.wall_ns() / parsing.NS_PER_S) > LIVE_CLOCK_TOLERANCE_S
        self.last_ns = max(self.last_ns, seconds * parsing.NS_PER_S) if self.replaying else self.last_ns

    def observe(self, event_ns: int) -> None:
        """Take an exchange time that came with data."""
        self.last_ns = max(self.last_ns, event_ns)

    def now_ns(self) -> int:
        """Return the exchange's time, as well as it is known."""
        return self.last_ns if self.replaying else self.wall_ns()


@dataclass(frozen=True, slots=True)
class FeedTime:
    """The clocks of a feed.

    Attributes:
        receive_ns: Monotonic time of the packet that is being handled.
        event_ns: Exchange time, for messages that carry none.
        observe: Takes exchange times that were seen.
    """

    receive_ns: Callable[[], int]
    event_ns: Callable[[], int]
    observe: Callable[[int], None]


class Stream(StreamHandler):
    """What the feed keeps of any subscription.

    Attributes:
        instrument: What it is about.
        request_id: Of the current request; 0 for none.
        alive: Whether a message ever came.
        last_message_ns: Monotonic time of the last message, or of the last request.
        due_ns: Monotonic time from which it should be requested again; 0 for not at all.
        attempts: Requests since the last message.
        problem: What the gateway said last about it.
        refused: The gateway refused it for good.
    """

    kind = ""

    def __init__(self, instrument: Instrument, listener: FeedListener, time: FeedTime) -> None:
        self.instrument = instrument
        self.request_id = 0
        self.alive = False
        self.last_message_ns = 0
        self.due_ns = 1
        self.attempts = 0
        self.problem = ""
        self.refused = False
        self.on_problem: Callable[[Stream], None] = lambda _: None
        self._listener = listener
        self._time = time

    @property
    def name(self) -> str:
        """For messages. Example: "AAPL bars"."""
        return f"{self.instrument.symbol} {self.kind}"

    def requested(self, request_id: int, now_ns: int) -> None:
        """Begin anew with a request."""
        self.request_id = request_id
        self.due_ns = 0
        self.attempts += 1
        self.last_message_ns = now_ns

    def on_error(self, code: int, text: str) -> None:
        """Note what is wrong; the feed asks again if that can help."""
        kind = meaning_of(code).kind
        if kind is CodeKind.INFO and not 200 <= code < 400:
            log.info("gateway", stream=self.name, message=describe(code, text))
            return
        self.problem = describe(code, text)
        self.refused = kind is CodeKind.DATA_REFUSED
        self.on_problem(self)

    def flush(self) -> None:
        """A packet with messages of this stream is done."""
        self.last_message_ns = self._time.receive_ns()
        self.alive = True
        self.attempts = 0


class QuoteStream(Stream):
    """Best bid and ask, prints, halts, and whether data are live."""

    kind = "quotes"

    def __init__(self, instrument: Instrument, listener: FeedListener, time: FeedTime) -> None:
        super().__init__(instrument, listener, time)
        self._bid = (0.0, 0.0)
        self._ask = (0.0, 0.0)
        self._quote_changed = False
        self._last = (0.0, 0.0)
        self._last_seen = False
        self._last_changed = False
        self._prints = False
        self._halted: bool | None = None
        self._live: bool | None = None

    def requested(self, request_id: int, now_ns: int) -> None:
        """Forget the prices: the answer begins with the present ones."""
        super().requested(request_id, now_ns)
        self._bid = self._ask = (0.0, 0.0)
        self._last_seen = False

    def on_price(self, tick_type: int, price: float, size: float) -> None:
        """Take a price with its size; -1 and 0 stand for none."""
        known = (price, size) if price > 0 else (0.0, 0.0)
        if tick_type in parsing.BID_TICKS:
            self._quote_changed = self._quote_changed or known != self._bid
            self._bid = known
        elif tick_type in parsing.ASK_TICKS:
            self._quote_changed = self._quote_changed or known != self._ask
            self._ask = known
        elif tick_type in parsing.LAST_TICKS and price > 0 and size > 0:
            # The first one after a request is of the past.
            self._last_changed = self._last_seen
            self._last, self._last_seen = known, True

    def on_size(self, tick_type: int, size: float) -> None:
        """Take a size that changed without its price."""
        if tick_type in parsing.BID_SIZE_TICKS and self._bid[0] > 0 and size != self._bid[1]:
            self._bid, self._quote_changed = (self._bid[0], size), True
        elif tick_type in parsing.ASK_SIZE_TICKS and self._ask[0] > 0 and size != self._ask[1]:
            self._ask, self._quote_changed = (self._ask[0], size), True

    def on_string(self, tick_type: int, value: str) -> None:
        """Take a print, or the time of the last one."""
        if tick_type == parsing.RT_VOLUME_TICK:
            self._prints = True
            found = parsing.parse_rt_volume(value)
            if found is not None:
                self._time.observe(found.event_ns)
                self._trade(found.event_ns, found.price, found.size)
        elif tick_type == parsing.LAST_TIMESTAMP_TICK and value.isdigit():
            self._time.observe(int(value) * parsing.NS_PER_S)

    def on_generic(self, tick_type: int, value: float) -> None:
        """Take whether trading is halted."""
        if tick_type == parsing.HALTED_TICK:
            halted = parsing.parse_halted(value)
            if halted is not None and halted is not self._halted:
                self._halted = halted
                self._listener.on_halt(self.instrument.con_id, halted)

    def on_data_type(self, data_type: int) -> None:
        """Take whether data are live."""
        live = data_type == parsing.LIVE_DATA_TYPE
        if live is not self._live:
            self._live = live
            self._listener.on_data_type(self.instrument.con_id, live)

    def flush(self) -> None:
        """Deliver the quote as it is after the packet, and a print that only came as last price."""
        super().flush()
        if self._last_changed:
            self._last_changed = False
            if not self._prints:
                self._trade(self._time.event_ns(), *self._last)
        if self._quote_changed:
            self._quote_changed = False
            con_id, now_ns = self.instrument.con_id, self._time.receive_ns()
            self._listener.on_quote(Quote(con_id, self._time.event_ns(), *self._bid, *self._ask, now_ns))

    def _trade(self, event_ns: int, price: float, size: float) -> None:
        self._listener.on_trade(Trade(self.instrument.con_id, event_ns, price, size, self._time.receive_ns()))


class DepthStream(Stream):
    """The order book, built from row operations with list semantics and checked bounds."""

    kind = "depth"

    def __init__(
        self, instrument: Instrument, listener: FeedListener, time: FeedTime, depth_rows: int
    ) -> None:
        super().__init__(instrument, listener, time)
        self.depth_rows = depth_rows
        self._book = OrderBook(instrument.con_id, depth_rows)
        self._changed = False
        self._broken = False

    def requested(self, request_id: int, now_ns: int) -> None:
        """Begin with an empty book."""
        super().requested(request_id, now_ns)
        self._book.reset()
        self._broken = False

    def on_depth(self, position: int, operation: int, side: int, price: float, size: float) -> None:
        """Apply one operation; one that can't be right means that the rows are no longer the exchange's."""
        if self._broken:
            return
        try:
            update = DepthUpdate(
                event_ns=self._time.event_ns(),
                side=BookSide.BID if side == 1 else BookSide.ASK,
                operation=DepthOperation(operation),
                position=position,
                price=price,
                size=size,
                receive_ns=self._time.receive_ns(),
            )
            problem = self._book.apply(update)
        except ValueError as e:
            problem = str(e)
        if problem is None:
            self._changed = True
            return
        self._broken = True
        self.problem = f"the book can't be kept up: {problem}"
        self.on_problem(self)

    def on_error(self, code: int, text: str) -> None:
        """Empty the book when the gateway resets it."""
        if meaning_of(code).kind is CodeKind.BOOK_RESET:
            self._book.reset()
        else:
            super().on_error(code, text)

    def flush(self) -> None:
        """Deliver the book unless the packet ended in the middle of a change."""
        super().flush()
        if self._changed and not self._broken and self._book.problem() is None:
            self._changed = False
            self._listener.on_book(self._book.snapshot())
