"""Bars: what makes one valid, and building larger ones from 5-second bars or trades."""

from __future__ import annotations

import math
from dataclasses import replace

from market.events import Bar, Trade

MIN_PRICE = 1e-9
MAX_PRICE = 1e9
MAX_VOLUME = 1e18
NS_PER_S = 1_000_000_000


def check_bar(bar: Bar) -> str | None:
    """Return what is wrong with a bar, or None when it can be used.

    Prices must lie in [1e-9, 1e9] and volume in [0, 1e18], so that they stay finite and ordered
    when they become float32.
    """
    if bar.start_ns < 0 or bar.end_ns <= bar.start_ns:
        return f"end_ns {bar.end_ns} must be after start_ns {bar.start_ns}, and both >= 0"
    for name in ("open", "high", "low", "close"):
        price = getattr(bar, name)
        if not math.isfinite(price) or not MIN_PRICE <= price <= MAX_PRICE:
            return f"{name} is {price!r}; a price from {MIN_PRICE:g} to {MAX_PRICE:g} is needed"
    if bar.low > min(bar.open, bar.close) or bar.high < max(bar.open, bar.close):
        return f"open {bar.open!r}, close {bar.close!r} must lie from low {bar.low!r} to high {bar.high!r}"
    if not math.isfinite(bar.volume) or not 0 <= bar.volume <= MAX_VOLUME:
        return f"volume is {bar.volume!r}; a number from 0 to {MAX_VOLUME:g} is needed"
    return None


class BarAggregator:
    """Build bars of `bar_size_s` for one instrument from shorter bars or from trades.

    An interval without any input gives no bar: windows report the gap. The first interval is
    dropped when its begin was missed, because a partial bar has a wrong open and volume.

    Args:
        con_id: Instrument; input of another one is rejected.
        bar_size_s: Length of the bars to build, > 0.
        origin_ns: Where intervals are counted from: 0 aligns to the epoch (UTC); the begin of a
            trading session aligns to it (9:30, 10:30, … for hourly bars in New York) and says
            that all of its data from there on is seen.
    """

    def __init__(self, con_id: int, bar_size_s: int, origin_ns: int = 0) -> None:
        if bar_size_s <= 0:
            raise ValueError(f"bar_size_s is {bar_size_s}; a whole number of seconds > 0 is needed")
        self.con_id = con_id
        self.bar_size_ns = bar_size_s * NS_PER_S
        self.origin_ns = origin_ns
        self.rejected_count = 0
        self.rejection = ""
        self._known_since_ns: int | None = origin_ns if origin_ns > 0 else None
        self._known_until_ns = 0
        self._open: Bar | None = None
        self._partial = False

    def add_bar(self, bar: Bar) -> tuple[Bar, ...]:
        """Take a shorter bar; return the bars that closed with it, oldest first.

        A bar that is invalid, late, or crosses an interval's end is counted in `rejected_count`,
        with the reason in `rejection`.
        """
        problem = check_bar(bar) or self._check_time(bar.con_id, bar.start_ns)
        if problem is None and bar.end_ns > self._interval_start(bar.start_ns) + self.bar_size_ns:
            problem = f"the bar from {bar.start_ns} to {bar.end_ns} crosses the end of its interval"
        if problem is not None:
            return self._reject(problem)
        closed = self._close_before(bar.start_ns, bar.receive_ns)
        self._merge(bar)
        self._known_until_ns = bar.end_ns
        return closed + self._close_before(bar.end_ns, bar.receive_ns)

    def add_trade(self, trade: Trade) -> tuple[Bar, ...]:
        """Take a trade; return the bar that closed because this trade lies after its end, if any."""
        at_ns, price = trade.event_ns, trade.price
        bar = Bar(self.con_id, at_ns, at_ns + 1, price, price, price, price, trade.size, trade.receive_ns)
        problem = check_bar(bar) or self._check_time(trade.con_id, at_ns)
        if problem is not None:
            return self._reject(problem)
        closed = self._close_before(at_ns, trade.receive_ns)
        self._merge(bar)
        self._known_until_ns = max(self._known_until_ns, at_ns)
        return closed

    def advance(self, event_ns: int, receive_ns: int = 0) -> tuple[Bar, ...]:
        """Say that exchange time reached `event_ns`; return the bar that ended by then, if any."""
        closed = self._close_before(event_ns, receive_ns)
        if self._known_since_ns is None:
            self._known_since_ns = event_ns
        self._known_until_ns = max(self._known_until_ns, event_ns)
        return closed

    def start_session(self, origin_ns: int) -> tuple[Bar, ...]:
        """Count intervals from `origin_ns` on; return the last, shorter bar of the session before."""
        if origin_ns < self._known_until_ns:
            raise ValueError(f"origin_ns {origin_ns} lies before data already seen ({self._known_until_ns})")
        open_bar, partial = self._open, self._partial
        self._open, self.origin_ns, self._known_since_ns = None, origin_ns, origin_ns
        return () if open_bar is None or partial else (open_bar,)

    def _interval_start(self, event_ns: int) -> int:
        return event_ns - (event_ns - self.origin_ns) % self.bar_size_ns

    def _check_time(self, con_id: int, start_ns: int) -> str | None:
        if con_id != self.con_id:
            return f"con_id {con_id} is not {self.con_id}, which this aggregator builds"
        if start_ns < self._known_until_ns:
            return f"{start_ns} lies before {self._known_until_ns}, which was already seen"
        return None

    def _reject(self, problem: str) -> tuple[Bar, ...]:
        self.rejected_count += 1
        self.rejection = problem
        return ()

    def _close_before(self, event_ns: int, receive_ns: int) -> tuple[Bar, ...]:
        bar = self._open
        if bar is None or event_ns < bar.end_ns:
            return ()
        self._open = None
        if self._partial:
            return ()
        return (replace(bar, receive_ns=receive_ns),)

    def _merge(self, part: Bar) -> None:
        bar = self._open
        if self._known_since_ns is None:
            self._known_since_ns = part.start_ns
        if bar is None:
            start_ns = self._interval_start(part.start_ns)
            self._partial = self._known_since_ns > start_ns
            end_ns = start_ns + self.bar_size_ns
            self._open = replace(part, start_ns=start_ns, end_ns=end_ns, receive_ns=0)
            return
        self._open = replace(
            bar,
            high=max(bar.high, part.high),
            low=min(bar.low, part.low),
            close=part.close,
            volume=bar.volume + part.volume,
        )
