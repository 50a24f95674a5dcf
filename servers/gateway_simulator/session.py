"""What is replayed: bars per instrument, the paths inside them, and the timeline over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, Protocol
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from market.events import Instrument

NS_PER_S = 1_000_000_000
DAY_S = 86_400
BAR_SIZES_S = (60, 300, 3600, DAY_S)
TAIL_BARS = 10
"""Bars' time that the clock goes on after the session, so that a strategy can flatten."""

BOOK_LEVELS = 10

Levels = tuple[tuple[float, float], ...]
"""(price, size) pairs of one side of a book, the best first."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Step(NamedTuple):
    """The market at one instant inside a bar.

    Attributes:
        at_ns: Exchange time.
        bid: Best bid; the touch quoted from here until the next step.
        bid_size: Displayed at the best bid.
        ask: Best ask.
        ask_size: Displayed at the best ask.
        trade_price: Last price printed in this step.
        trade_size: Printed in this step; 0 when nothing traded.
        book: Recorded (bids, asks); None where the book is made from the touch.
    """

    at_ns: int
    bid: float
    bid_size: float
    ask: float
    ask_size: float
    trade_price: float
    trade_size: float
    book: tuple[Levels, Levels] | None = None


class PathSource(Protocol):
    """Tells how the market moved inside a bar."""

    def steps(self, bar: int) -> Sequence[Step]:
        """Return the steps of the bar with this index, oldest first; the first is at its start."""


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One instrument's bars, history first.

    Attributes:
        instrument: Whose bars they are.
        start_ns: (bars,) int64, ascending; also end_ns.
        open: (bars,) float64; also high, low, close.
        volume: (bars,) float64.
        first: Index of the first bar of the session; the ones before are history.
        paths: How the market moved inside each bar from `first` on.
    """

    instrument: Instrument
    start_ns: Ints
    end_ns: Ints
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    first: int
    paths: PathSource


@dataclass(frozen=True, slots=True)
class Slot:
    """A bar interval of the timeline: when it is, and after how much replayed time it begins."""

    start_ns: int
    end_ns: int
    elapsed_ns: int


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """Everything the simulator replays.

    Attributes:
        source: "generated", "sample" or "recorded: NAME".
        bar_size_s: Seconds of a bar; 86400 is a trading day.
        zone: Exchange time zone, an IANA name.
        series: One per instrument.
        fingerprint: Hex digest of everything that decides the replay.
        seed: Of a generated session.
        slots: Union of the series' session bars, in order.
    """

    source: str
    bar_size_s: int
    zone: str
    series: tuple[Series, ...]
    fingerprint: str
    seed: int | None
    slots: tuple[Slot, ...]

    @property
    def step_s(self) -> int:
        """Seconds between two steps of a path."""
        return step_seconds(self.bar_size_s)

    @property
    def slot_length_ns(self) -> int:
        """Typical replayed time of one bar: 6.5 hours for a daily one."""
        return max(slot.end_ns - slot.start_ns for slot in self.slots)

    @property
    def start_ns(self) -> int:
        """Begin of the first bar."""
        return self.slots[0].start_ns

    @property
    def end_ns(self) -> int:
        """End of the last bar."""
        return self.slots[-1].end_ns

    @property
    def warmup_bars(self) -> int:
        """Bars of history that every instrument has."""
        return min(series.first for series in self.series)

    def daily_hours(self) -> list[tuple[datetime, datetime]]:
        """Return first start and last end of each exchange day of the session, local time."""
        zone = ZoneInfo(self.zone)
        days: dict[object, tuple[datetime, datetime]] = {}
        for slot in self.slots:
            start = datetime.fromtimestamp(slot.start_ns / NS_PER_S, UTC).astimezone(zone)
            end = datetime.fromtimestamp(slot.end_ns / NS_PER_S, UTC).astimezone(zone)
            known = days.get(start.date())
            days[start.date()] = (known[0], end) if known else (start, end)
        return list(days.values())


def step_seconds(bar_size_s: int) -> int:
    """Return seconds between two steps: 5, or 300 inside a day."""
    return 5 if bar_size_s < DAY_S else 300


def timeline(series: Sequence[Series], bar_size_s: int, zone: str) -> tuple[Slot, ...]:
    """Lay the session's bars on a clock without dead time.

    Gaps of up to two bars are replayed; longer ones within a day take one bar's time; nights,
    weekends and holidays take none.
    """
    starts = np.unique(np.concatenate([one.start_ns[one.first :] for one in series]))
    ends = {
        int(start): int(end)
        for one in series
        for start, end in zip(one.start_ns[one.first :], one.end_ns[one.first :], strict=True)
    }
    exchange = ZoneInfo(zone)
    slots: list[Slot] = []
    elapsed = 0
    for value in starts:
        start = int(value)
        if slots:
            gap = start - slots[-1].end_ns
            same_day = _date(start, exchange) == _date(slots[-1].start_ns, exchange)
            elapsed += slots[-1].end_ns - slots[-1].start_ns
            bar_ns = bar_size_s * NS_PER_S
            if same_day:
                elapsed += gap if gap <= 2 * bar_ns else bar_ns
        slots.append(Slot(start, ends[start], elapsed))
    return tuple(slots)


def _date(time_ns: int, zone: ZoneInfo) -> object:
    return datetime.fromtimestamp(time_ns / NS_PER_S, UTC).astimezone(zone).date()


def local_to_ns(naive: Ints, zone: str) -> Ints:
    """Turn wall-clock nanoseconds of a zone into nanoseconds UTC; (n,) int64 to (n,) int64.

    The offset is looked up once per distinct hour. Of the hour that a clock change repeats, the
    first is meant.
    """
    hours, inverse = np.unique(naive // (3600 * NS_PER_S), return_inverse=True)
    info = ZoneInfo(zone)
    offsets = np.empty(len(hours), np.int64)
    for index, hour in enumerate(hours):
        local = datetime.fromtimestamp(int(hour) * 3600, UTC).replace(tzinfo=info)
        offset = local.utcoffset()
        offsets[index] = int(offset.total_seconds()) * NS_PER_S if offset else 0
    return naive - offsets[inverse]


def zone_offset_ns(times_ns: Ints, zone: str) -> Ints:
    """Return the zone's offset from UTC at each time; (n,) int64 nanoseconds."""
    hours, inverse = np.unique(times_ns // (3600 * NS_PER_S), return_inverse=True)
    info = ZoneInfo(zone)
    offsets = np.empty(len(hours), np.int64)
    for index, hour in enumerate(hours):
        offset = datetime.fromtimestamp(int(hour) * 3600, UTC).astimezone(info).utcoffset()
        offsets[index] = int(offset.total_seconds()) * NS_PER_S if offset else 0
    return offsets[inverse]
