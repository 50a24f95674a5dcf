"""Counters that risk checks read: the account's losses and the rate of orders. Times are passed in."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from strategy.core.risk import loss_pct

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class EquityMarks:
    """Equity figures that losses are measured from; nan until the first account report.

    Attributes:
        equity: Now.
        day_start_equity: First of the trading day.
        peak_equity: Highest so far.
    """

    equity: float = math.nan
    day_start_equity: float = math.nan
    peak_equity: float = math.nan


class DrawdownTracker:
    """Follow the account's equity.

    Args:
        marks: What an earlier run left, so that a restart does not forget a drawdown.
    """

    def __init__(self, marks: EquityMarks | None = None) -> None:
        self.marks = marks or EquityMarks()

    def update(self, equity: float) -> EquityMarks:
        """Take an account report; one that is not a finite number is ignored."""
        if math.isfinite(equity):
            before = self.marks
            day_start = equity if math.isnan(before.day_start_equity) else before.day_start_equity
            peak = equity if math.isnan(before.peak_equity) else max(before.peak_equity, equity)
            self.marks = EquityMarks(equity, day_start, peak)
        return self.marks

    def start_day(self) -> EquityMarks:
        """Begin a trading day: its loss counts from the present equity; the peak stays."""
        self.marks = EquityMarks(self.marks.equity, self.marks.equity, self.marks.peak_equity)
        return self.marks

    @property
    def drawdown_pct(self) -> float:
        """Loss since the peak; nan until the first report."""
        return loss_pct(self.marks.equity, self.marks.peak_equity)

    @property
    def daily_loss_pct(self) -> float:
        """Loss since the day's start, negative for a gain; nan until the first report."""
        return loss_pct(self.marks.equity, self.marks.day_start_equity)


class OrderRateTracker:
    """Count orders in a sliding window of time.

    Args:
        window_s: Length of the window.
        max_events: Orders remembered; the count saturates there, so it must be at least the limit
            that is checked.
    """

    def __init__(self, window_s: float = 60.0, max_events: int = 10_000) -> None:
        if not window_s > 0 or max_events <= 0:
            raise ValueError(f"window_s {window_s} and max_events {max_events} must be > 0")
        self._window_ns = int(window_s * NS_PER_S)
        self._events: deque[int] = deque(maxlen=max_events)
        self._now_ns = 0

    def record(self, now_ns: int, order_count: int = 1) -> None:
        """Count orders handed to the broker at a time; an earlier time than the last is raised to it."""
        self._now_ns = max(self._now_ns, now_ns)
        self._events.extend([self._now_ns] * min(order_count, self._events.maxlen or order_count))

    def count(self, now_ns: int) -> int:
        """Return the orders of the window that ends now: later than now - window."""
        self._now_ns = max(self._now_ns, now_ns)
        while self._events and self._events[0] <= self._now_ns - self._window_ns:
            self._events.popleft()
        return len(self._events)
