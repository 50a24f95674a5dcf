"""Dates and times along a chart, in a stated time zone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from market.bars import NS_PER_S
from market.chart.columns import BarColumns, Ints

DAY_S = 86_400
_LONG_BAR_S = 6 * 3600
"""Bars of a whole trading session, and longer: their labels are dates."""
_QUARTER_HOUR_S = 900  # clocks change at multiples of it
_SAME_CLOCK_S = 14 * DAY_S  # no clock is changed and changed back within it
_MONDAY = 3  # 1970-01-01 was a Thursday
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 14_400, 21_600, 43_200)
_DAYS, _WEEKS, _MONTH = "days", "weeks", "month"
_MONTHS_APART = (1, 2, 3, 6)
_YEARS_APART = (1, 2, 5, 10, 20, 50)


@dataclass(frozen=True, slots=True)
class TimeLabel:
    """A label of the time axis.

    Attributes:
        bar: Number of the bar that it stands under.
        text: Time of day, day, month or year.
    """

    bar: int
    text: str


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """What a time axis says.

    Attributes:
        labels: Fine ones, from left to right.
        context: The dates that the times lie on, or the years of the dates; the first bar has one.
        breaks: Bars that begin a new local day (of bars shorter than one).
        pauses: Bars before which time is missing within a day.
        bar_size: "5 min", "1 day", …
        period: First and last time shown.
    """

    labels: tuple[TimeLabel, ...]
    context: tuple[TimeLabel, ...]
    breaks: tuple[int, ...]
    pauses: tuple[int, ...]
    bar_size: str
    period: str


def zone_of(name: str) -> ZoneInfo:
    """Return a time zone.

    Raises:
        ValueError: There is none of this name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(
            f"time_zone is {name!r}, which is not known; give for example America/New_York or UTC"
        ) from error


def time_axis(bars: BarColumns, zone: ZoneInfo, most_labels: int) -> TimeAxis:
    """Choose the labels of a time axis.

    Args:
        bars: Drawn on it.
        zone: Of all dates and times.
        most_labels: How many have room side by side.
    """
    local = _local_seconds(bars.start_ns, zone)
    size_s = _bar_size_s(bars)
    days = local // DAY_S
    long = size_s >= _LONG_BAR_S
    new_day = days[1:] != days[:-1]
    new_days = np.flatnonzero(new_day) + 1
    pauses = np.flatnonzero((bars.start_ns[1:] > bars.end_ns[:-1]) & ~new_day) + 1
    labels, dated = _labels(local, days, size_s, most_labels)
    if dated == "year":
        context: list[TimeLabel] = []
    elif dated:
        years = _years(days)
        at = [0, *_changes(years)]
        context = [TimeLabel(bar, str(int(years[bar]))) for bar in at]
    else:
        context = _dates(days, (0, *new_days.tolist()))
    return TimeAxis(
        labels=tuple(labels),
        context=tuple(context),
        breaks=() if long else tuple(new_days.tolist()),
        pauses=() if long else tuple(pauses.tolist()),
        bar_size=_size_text(size_s),
        period=_period(bars, local, zone, long=long),
    )


def _local_seconds(times_ns: Ints, zone: ZoneInfo) -> Ints:
    """Return the wall clock as seconds since 1970-01-01 00:00 of the wall clock."""
    seconds = times_ns // NS_PER_S
    first, last = int(seconds[0]), int(seconds[-1])
    offset_s = _offset_s(first, zone)
    if last - first < _SAME_CLOCK_S and _offset_s(last, zone) == offset_s:
        return seconds + offset_s
    quarters, which = np.unique(seconds // _QUARTER_HOUR_S, return_inverse=True)
    offsets = np.array([_offset_s(quarter * _QUARTER_HOUR_S, zone) for quarter in quarters.tolist()])
    local: Ints = seconds + offsets[which]
    return local


def _offset_s(seconds: int, zone: ZoneInfo) -> int:
    offset = datetime.fromtimestamp(seconds, UTC).astimezone(zone).utcoffset()
    return 0 if offset is None else offset.days * DAY_S + offset.seconds


def _bar_size_s(bars: BarColumns) -> int:
    """Return the middle length of the bars; of daily ones and longer, their middle distance."""
    length = int(np.sort(bars.end_ns - bars.start_ns)[len(bars) // 2]) // NS_PER_S
    if length < _LONG_BAR_S:
        return length
    distance = int(np.sort(np.diff(bars.start_ns))[(len(bars) - 1) // 2]) // NS_PER_S
    return max(length, distance)


def _size_text(size_s: int) -> str:
    if size_s < 1:
        return "ticks"
    if size_s < _LONG_BAR_S:
        for unit_s, name in ((3600, "h"), (60, "min")):
            if size_s % unit_s == 0:
                return f"{size_s // unit_s} {name}"
        return f"{size_s} s"
    count = (size_s + DAY_S // 2) // DAY_S
    if count >= 360:
        return "1 year"
    if count >= 28:
        return f"{(count + 15) // 30} month{'s' if count >= 45 else ''}"
    if count >= 5:
        return f"{(count + 3) // 7} week{'s' if count >= 11 else ''}"
    return f"{max(count, 1)} day{'s' if count > 1 else ''}"


def _labels(local: Ints, days: Ints, size_s: int, most: int) -> tuple[list[TimeLabel], str]:
    """Return the finest labels that have room, and what they name: "" times, "day", "year"."""
    bars: list[int] = []
    chosen = _DAYS
    for kind, keys, first_is_round in _levels(local, days, size_s, most):
        at = _changes(keys)
        if first_is_round:
            at.insert(0, 0)
        if at or not bars:
            bars, chosen = at, kind
        if 1 <= len(at) <= most:
            break
    return [TimeLabel(bar, _text(chosen, int(local[bar]))) for bar in bars[:most]], _dated(chosen)


def _levels(local: Ints, days: Ints, size_s: int, most: int) -> Iterator[tuple[str, NDArray[np.int64], bool]]:
    if size_s < _LONG_BAR_S:
        # Smaller steps than this have more labels than there is room for.
        least_s = max(size_s, len(local) * size_s // (2 * most + 2))
        for step_s in _STEPS_S:
            if step_s >= least_s:
                yield "second" if step_s < 60 else "minute", local // step_s, local[0] % step_s == 0
    yield _DAYS, days, size_s >= _LONG_BAR_S
    yield _WEEKS, (days + _MONDAY) // 7, False
    months = days.astype("M8[D]").astype("M8[M]").astype(np.int64)
    for apart in _MONTHS_APART:
        yield _MONTH, months // apart, False
    years = _years(days)
    for apart in _YEARS_APART:
        yield "year", years // apart, False


def _dated(kind: str) -> str:
    return {"second": "", "minute": "", "year": "year"}.get(kind, "day")


def _text(kind: str, local_s: int) -> str:
    day, second = divmod(local_s, DAY_S)
    if kind == "second":
        return f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
    if kind == "minute":
        return f"{second // 3600:02}:{second // 60 % 60:02}"
    year, month, of_month = _date(day)
    if kind == "year":
        return str(year)
    return _MONTHS[month - 1] if kind == _MONTH else f"{_MONTHS[month - 1]} {of_month}"


def _date(day: int) -> tuple[int, int, int]:
    found = datetime.fromtimestamp(day * DAY_S, UTC)
    return found.year, found.month, found.day


def _dates(days: Ints, bars: Sequence[int]) -> list[TimeLabel]:
    """Return dates under bars, the year where it is not that of the date before."""
    labels, known = [], 0
    for bar in bars:
        year, month, of_month = _date(int(days[bar]))
        labels.append(
            TimeLabel(bar, f"{_MONTHS[month - 1]} {of_month}{f', {year}' if year != known else ''}")
        )
        known = year
    return labels


def _years(days: Ints) -> Ints:
    years: Ints = days.astype("M8[D]").astype("M8[Y]").astype(np.int64) + 1970
    return years


def _changes(keys: Ints) -> list[int]:
    """Return the bars whose key is not that of the bar before."""
    changed: list[int] = (np.flatnonzero(keys[1:] != keys[:-1]) + 1).tolist()
    return changed


def _period(bars: BarColumns, local: Ints, zone: ZoneInfo, *, long: bool) -> str:
    first_day, last_day = int(local[0]) // DAY_S, int(local[-1]) // DAY_S
    dates = ["{:04}-{:02}-{:02}".format(*_date(day)) for day in (first_day, last_day)]
    if long:
        return f"{dates[0]} to {dates[1]}"
    end = int(_local_seconds(bars.end_ns[-1:], zone)[0])
    if end % DAY_S:
        last_day = end // DAY_S
        dates[1] = "{:04}-{:02}-{:02}".format(*_date(last_day))
    begins, ends = _text("minute", int(local[0])), _text("minute", end)
    if end // DAY_S > last_day:
        ends = "24:00"
    return (
        f"{dates[0]} {begins} to {ends}"
        if first_day == last_day
        else f"{dates[0]} {begins} to {dates[1]} {ends}"
    )
