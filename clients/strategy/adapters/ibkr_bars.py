"""Subscriptions to bars: every closed bar is delivered exactly once and in order, over reconnects too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog

from market.bars import BarAggregator
from market.events import Bar, Instrument
from strategy.adapters import ibkr_parsing as parsing
from strategy.adapters.ibkr_streams import FeedTime, Stream
from strategy.ports import FeedListener

log = structlog.get_logger("ibkr")

_REALTIME_BAR_S = 5
_LIVE_AGE_DAILY_S = 4 * parsing.DAY_S
"""A daily bar closes when the next trading day begins: after a weekend or a holiday."""
_REVISIONS_LOGGED_EVERY = 100
_GAP_REQUEST_EVERY_S = 15
"""The gateway refuses identical requests that are closer together."""


class BarStream(Stream):
    """Closed bars, from historical data that is kept up to date.

    The last bar of an answer may still be forming. Bar N is closed when bar N+1's date appears; that
    packet's arrival is its `receive_ns`. A bar whose closing was not seen live (it lies in a gap that
    was filled, or its successor came more than a bar later) is delivered with `receive_ns` 0. When bars
    of trading hours are missing, or while the gateway had no link, what was seen of the forming bar can't
    be trusted either: the stream waits for a fresh answer.

    Args:
        instrument: What it is about.
        listener: Receives closed bars once `holding` is off.
        time: The feed's clocks.
        bar_size_s: Length of a bar.
        history_bars: How many bars of the past to return at most.
    """

    kind = "bars"

    def __init__(
        self,
        instrument: Instrument,
        listener: FeedListener,
        time: FeedTime,
        bar_size_s: int,
        history_bars: int,
    ) -> None:
        super().__init__(instrument, listener, time)
        self.bar_size_s = bar_size_s
        self.history: list[Bar] = []
        self.history_arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.holding = True
        self.waiting = True
        self.suspended = False
        self.on_gap: Callable[[BarStream], None] = lambda _: None
        self.trades_between: Callable[[int, int], bool] = lambda _start_ns, _end_ns: False
        self.revision_count = 0
        self.last_start_ns = -1
        self._history_bars = history_bars
        self._answer: dict[int, Bar] = {}
        self._forming: Bar | None = None
        self._forming_updated_ns = 0
        self._closed: list[Bar] = []
        self._gap_asked_ns = -_GAP_REQUEST_EVERY_S * parsing.NS_PER_S
        age_s = _LIVE_AGE_DAILY_S if bar_size_s >= parsing.DAY_S else bar_size_s
        self._live_age_ns = age_s * parsing.NS_PER_S

    def requested(self, request_id: int, now_ns: int) -> None:
        """Expect a fresh answer."""
        super().requested(request_id, now_ns)
        self._answer.clear()
        self.waiting = True
        self.suspended = False

    def suspend(self) -> None:
        """Distrust everything until the stream was requested again."""
        self.suspended = self.waiting = True

    def on_history(self, raw_bar: Any) -> None:
        """Collect the answer."""
        bar = self._parse(raw_bar)
        if bar is not None:
            self._answer[bar.start_ns] = bar

    def on_history_end(self) -> None:
        """Return the past the first time; afterwards deliver what was missed."""
        self._deliver_closed()
        bars = [self._answer[start] for start in sorted(self._answer)]
        self._answer.clear()
        closed = self._closed_of(bars)
        for bar in closed[-self._history_bars :] if not self.history_arrived.done() else closed:
            if bar.start_ns > self.last_start_ns:
                self._emit(bar)
        self.waiting = False
        if not self.history_arrived.done():
            self.history_arrived.set_result(None)

    def _closed_of(self, bars: list[Bar]) -> list[Bar]:
        if bars and bars[-1].start_ns > self.last_start_ns:
            self._forming, self._forming_updated_ns = bars[-1], 0
            self._time.observe(bars[-1].start_ns)
        return bars[:-1]

    def on_bar_update(self, raw_bar: Any) -> None:
        """Update the forming bar, or close it because its successor began."""
        bar = None if self.waiting else self._parse(raw_bar)
        if bar is None:
            return
        now_ns = self._time.receive_ns()
        forming = self._forming
        if bar.start_ns <= self.last_start_ns or (forming is not None and bar.start_ns < forming.start_ns):
            self.revision_count += 1
            if self.revision_count % _REVISIONS_LOGGED_EVERY == 1:
                log.info("revised bar ignored", stream=self.name, count=self.revision_count)
            return
        if forming is not None and bar.start_ns > forming.start_ns:
            adjacent = bar.start_ns <= forming.end_ns
            if not adjacent and self._must_ask(forming.end_ns, bar.start_ns, now_ns):
                self.waiting = True
                self.on_gap(self)
                return
            recent = self._forming_updated_ns > 0 and now_ns - self._forming_updated_ns <= self._live_age_ns
            self._closed.append(replace(forming, receive_ns=now_ns if adjacent or recent else 0))
            self.last_start_ns = forming.start_ns
        self._time.observe(bar.start_ns)
        self._forming, self._forming_updated_ns = bar, now_ns

    def flush(self) -> None:
        """Deliver what the packet closed; when it caught up on several bars, only the last one is live."""
        if not self.waiting:  # an answer that never comes is silence
            super().flush()
        self._deliver_closed()

    def _deliver_closed(self) -> None:
        closed, self._closed = self._closed, []
        for bar in closed[:-1]:
            self._emit(replace(bar, receive_ns=0))
        for bar in closed[-1:]:
            self._emit(bar)

    def _must_ask(self, from_ns: int, to_ns: int, now_ns: int) -> bool:
        """Whether bars are missing that another request may bring."""
        soon = now_ns - self._gap_asked_ns < _GAP_REQUEST_EVERY_S * parsing.NS_PER_S
        if soon or not self.trades_between(from_ns, to_ns):
            return False
        self._gap_asked_ns = now_ns
        return True

    def _emit(self, bar: Bar) -> None:
        self.last_start_ns = bar.start_ns
        if self.holding:
            self.history.append(bar)
            del self.history[: -self._history_bars]
        else:
            self._listener.on_bar(bar)

    def _parse(self, raw_bar: Any) -> Bar | None:
        try:
            return parsing.parse_bar(self.instrument.con_id, raw_bar, self.bar_size_s)
        except ValueError as e:
            log.warning("bar dropped", stream=self.name, problem=str(e))
            return None


class RealtimeBarStream(BarStream):
    """Closed bars built from 5-second bars; history fills what was before the first whole bar."""

    kind = "5-second bars"

    def __init__(
        self,
        instrument: Instrument,
        listener: FeedListener,
        time: FeedTime,
        bar_size_s: int,
        history_bars: int,
    ) -> None:
        super().__init__(instrument, listener, time, bar_size_s, history_bars)
        self.gap_request_id = 0
        self.on_history_gap: Callable[[RealtimeBarStream], None] = lambda _: None
        self._aggregator = BarAggregator(instrument.con_id, bar_size_s)
        self._interval_ns = 0

    def requested(self, request_id: int, now_ns: int) -> None:
        """Begin to aggregate anew: what was missed makes the open bar incomplete."""
        super().requested(request_id, now_ns)
        self.gap_request_id = 0
        self._aggregator = BarAggregator(self.instrument.con_id, self.bar_size_s)

    def _closed_of(self, bars: list[Bar]) -> list[Bar]:
        # Without a 5-second bar's time, the answer's last bar may be forming.
        return [bar for bar in bars if bar.end_ns <= self._interval_ns] if self._interval_ns else bars[:-1]

    def on_realtime_bar(self, start_s: int, prices: tuple[float, float, float, float], volume: float) -> None:
        """Add a 5-second bar; deliver the bar it closed."""
        if self.suspended:
            return
        start_ns = start_s * parsing.NS_PER_S
        size_ns = self.bar_size_s * parsing.NS_PER_S
        part = Bar(
            self.instrument.con_id,
            start_ns,
            start_ns + _REALTIME_BAR_S * parsing.NS_PER_S,
            *prices,
            max(0.0, volume),
            self._time.receive_ns(),
        )
        self._time.observe(part.end_ns)
        interval_ns = start_ns - start_ns % size_ns
        if interval_ns != self._interval_ns:
            self._interval_ns = interval_ns
            if self.history_arrived.done() and self.last_start_ns < interval_ns - size_ns:
                self.on_history_gap(self)
        for bar in self._aggregator.add_bar(part):
            if bar.start_ns > self.last_start_ns:
                self._closed.append(bar)
                self.last_start_ns = bar.start_ns
