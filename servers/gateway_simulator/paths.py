"""Quotes, prints and books inside bars that were recorded without them.

The price goes from the open to the nearer extreme, to the other one and to the close: open, low,
high, close for a rising bar; open, high, low, close for a falling one. Every waypoint is printed,
so that the prints of a bar give exactly its open, high, low, close and volume. The touch lies a
stated spread around the price, on the instrument's price grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gateway_simulator.session import BOOK_LEVELS, NS_PER_S, Floats, Ints, Levels, Step

# Where along the bar the two extremes are printed, as shares of its steps.
_FIRST_EXTREME, _SECOND_EXTREME = 0.3, 0.7
_ROUND_LOT = 100.0
_MAX_TOUCH_SIZE = 5_000.0


@dataclass(frozen=True, slots=True, eq=False)
class QuoteTape:
    """Recorded best bids and asks of one instrument; (quotes,) arrays, times ascending."""

    time_ns: Ints
    bid: Floats
    bid_size: Floats
    ask: Floats
    ask_size: Floats


@dataclass(frozen=True, slots=True, eq=False)
class BookTape:
    """Recorded books of one instrument; times (books,) ascending, the rest (books, levels)."""

    time_ns: Ints
    bid: Floats
    bid_size: Floats
    ask: Floats
    ask_size: Floats


@dataclass(frozen=True, slots=True, eq=False)
class SynthesizedPaths:
    """Paths made from bars, and from recorded quotes and books where there are any.

    Attributes:
        start_ns: (bars,) int64; also end_ns, open, high, low, close, volume.
        step_ns: Between two steps.
        min_tick: Price grid of the quotes.
        spread_bps: Of the synthesized touch, at least one tick.
        quotes: Replaces the synthesized touch from its first quote on.
        books: Replaces the synthesized book from its first snapshot on.
    """

    start_ns: Ints
    end_ns: Ints
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    step_ns: int
    min_tick: float
    spread_bps: float
    quotes: QuoteTape | None = None
    books: BookTape | None = None

    def steps(self, bar: int) -> Sequence[Step]:
        """Return the steps of one bar."""
        start, end = int(self.start_ns[bar]), int(self.end_ns[bar])
        count = max(4, (end - start) // self.step_ns)
        times = [start + (end - start) * k // count for k in range(count)]
        prices = self._prices(bar, count)
        volume = float(self.volume[bar])
        sizes = _spread_volume(volume, count)
        touch_size = min(_MAX_TOUCH_SIZE, max(_ROUND_LOT, volume / count / 2 // _ROUND_LOT * _ROUND_LOT))
        steps = []
        for at_ns, price, size in zip(times, prices, sizes, strict=True):
            bid, ask = self._touch(price)
            step = Step(at_ns, bid, touch_size, ask, touch_size, price, size)
            steps.append(self._recorded(step))
        return steps

    def _prices(self, bar: int, count: int) -> list[float]:
        opened, high, low, close = (
            float(column[bar]) for column in (self.open, self.high, self.low, self.close)
        )
        first, second = (low, high) if close >= opened else (high, low)
        turns = (0, max(1, int(count * _FIRST_EXTREME)), max(2, int(count * _SECOND_EXTREME)), count - 1)
        raw = np.interp(np.arange(count), turns, (opened, first, second, close))
        tick = self.min_tick
        prices = [min(high, max(low, round(round(float(p) / tick) * tick, 8))) for p in raw]
        for turn, price in zip(turns, (opened, first, second, close), strict=True):
            prices[turn] = price
        return prices

    def _touch(self, price: float) -> tuple[float, float]:
        half = max(price * self.spread_bps / 2e4, self.min_tick / 2)
        tick = self.min_tick
        bid = math.floor((price - half) / tick + 1e-6)
        ask = max(math.ceil((price + half) / tick - 1e-6), bid + 1)
        return round(max(bid, 1) * tick, 8), round(max(ask, 2) * tick, 8)

    def _recorded(self, step: Step) -> Step:
        if self.quotes is not None:
            at = int(np.searchsorted(self.quotes.time_ns, step.at_ns, side="right")) - 1
            if at >= 0:
                tape = self.quotes
                step = step._replace(
                    bid=float(tape.bid[at]),
                    bid_size=float(tape.bid_size[at]),
                    ask=float(tape.ask[at]),
                    ask_size=float(tape.ask_size[at]),
                )
        if self.books is not None:
            at = int(np.searchsorted(self.books.time_ns, step.at_ns, side="right")) - 1
            if at >= 0:
                step = _with_book(step, self.books, at)
        return step


def _with_book(step: Step, tape: BookTape, at: int) -> Step:
    bids = _levels(tape.bid[at], tape.bid_size[at])
    asks = _levels(tape.ask[at], tape.ask_size[at])
    if not bids or not asks:
        return step
    return step._replace(
        bid=bids[0][0], bid_size=bids[0][1], ask=asks[0][0], ask_size=asks[0][1], book=(bids, asks)
    )


def _levels(prices: Floats, sizes: Floats) -> Levels:
    return tuple(
        (float(price), float(size))
        for price, size in zip(prices, sizes, strict=True)
        if price > 0 and size > 0
    )


def _spread_volume(volume: float, count: int) -> list[float]:
    # Cumulative rounding: whole units where the volume is whole, and the sum is exact.
    whole = volume == int(volume)
    edges = [volume * (k + 1) / count for k in range(count)]
    if whole:
        edges = [float(math.floor(edge + 1e-9)) for edge in edges]
    edges[-1] = volume
    return [edge - before for edge, before in zip(edges, [0.0, *edges[:-1]], strict=True)]


def book_of(step: Step, min_tick: float) -> tuple[Levels, Levels]:
    """Return (bids, asks), up to ten levels each: recorded, or made from the touch.

    Made levels lie one tick apart; their sizes are a fixed function of price and time (they change
    every twenty seconds), grow with the distance, and level one is the touch itself.
    """
    if step.book is not None:
        return step.book
    era = step.at_ns // (20 * NS_PER_S)
    return (
        _side(step.bid, step.bid_size, -1, min_tick, era),
        _side(step.ask, step.ask_size, 1, min_tick, era),
    )


def _side(touch: float, size: float, direction: int, min_tick: float, era: int) -> Levels:
    ticks = round(touch / min_tick)
    levels = [(touch, size)]
    lot = _ROUND_LOT if size >= _ROUND_LOT else 1.0
    for depth in range(1, BOOK_LEVELS):
        price_ticks = ticks + direction * depth
        if price_ticks <= 0:
            break
        noise = ((price_ticks * 2_654_435_761) ^ (era * 40_503)) & 0xFFFF
        share = 0.5 + noise / 0x10000 + 0.15 * depth
        levels.append((round(price_ticks * min_tick, 8), max(lot, size * share // lot * lot)))
    return tuple(levels)
