"""Recorded bars, quotes and books as a session. docs/session_format.md describes the files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gateway_simulator import SessionError
from gateway_simulator.paths import SynthesizedPaths
from gateway_simulator.session import (
    BAR_SIZES_S,
    DAY_S,
    NS_PER_S,
    Floats,
    Ints,
    Series,
    Session,
    local_to_ns,
    step_seconds,
    timeline,
    zone_offset_ns,
)
from gateway_simulator.session_choice import NEW_YORK, Choice, symbols_of, times_of, zone_of
from gateway_simulator.session_tapes import book_tapes, quote_tapes
from gateway_simulator.tables import Table, Times, read_table
from market.events import Instrument
from market.instruments import synthetic_con_id

SAMPLE = Path(__file__).parent / "sample" / "daily_us_2012_2013.csv"
SAMPLE_WARMUP_BARS = 120
MAX_DEFAULT_DAILY_BARS = 250
MAX_HISTORY_BARS = 2_000

_DAY_NS = DAY_S * NS_PER_S
_OPEN_S, _CLOSE_S = 34_200, 57_600  # 09:30 and 16:00
_PRICE_TOLERANCE = 1e-6  # float32 columns round high and close apart


@dataclass(frozen=True, slots=True, eq=False)
class _Bars:
    """One symbol's rows in time order; `row` is where they stand in the file."""

    symbol: str
    row: Ints
    start_ns: Ints
    end_ns: Ints
    prices: tuple[Floats, Floats, Floats, Floats]
    volume: Floats
    day: Ints

    def part(self, chosen: slice | NDArray[np.bool_]) -> _Bars:
        opened, high, low, close = (column[chosen] for column in self.prices)
        return _Bars(
            self.symbol,
            self.row[chosen],
            self.start_ns[chosen],
            self.end_ns[chosen],
            (opened, high, low, close),
            self.volume[chosen],
            self.day[chosen],
        )


def read_sample(choice: Choice) -> Session:
    """Return the real session that ships with the package."""
    return read_session(SAMPLE, choice, source="sample")


def read_session(path: Path, choice: Choice, *, source: str = "") -> Session:
    """Read a session from a file of bars, and from its quotes and books where they lie beside it.

    Raises:
        SessionError: Something in it is unusable; the message names file, column, row, value and fix.
    """
    table = read_table(path)
    zone = zone_of(choice)
    symbols = symbols_of(table, choice)
    names, times, is_end = times_of(table, choice)
    size_s = choice.bar_size_s or _bar_size(table, names, symbols, times)
    bars = [
        _read_symbol(table, symbol, names, times, size_s, zone, choice, is_end=is_end) for symbol in symbols
    ]
    first_days = _session_days(path, bars, size_s, choice)
    step_ns = step_seconds(size_s) * NS_PER_S
    quotes, books = quote_tapes(path, choice, zone), book_tapes(path, choice, zone)
    series = []
    for one in bars:
        cut, first = _cut(path, one, first_days, choice)
        tick = _min_tick(choice)
        opened, high, low, close = cut.prices
        paths = SynthesizedPaths(
            cut.start_ns,
            cut.end_ns,
            opened,
            high,
            low,
            close,
            cut.volume,
            step_ns,
            tick,
            choice.spread_bps,
            quotes.get(one.symbol),
            books.get(one.symbol),
        )
        currency = one.symbol[-3:] if choice.security_type == "CASH" else "USD"
        instrument = Instrument(
            synthetic_con_id(one.symbol), one.symbol, currency, tick, choice.security_type
        )
        series.append(
            Series(instrument, cut.start_ns, cut.end_ns, opened, high, low, close, cut.volume, first, paths)
        )
    return Session(
        source=source or f"recorded: {path.name}",
        bar_size_s=size_s,
        zone=zone,
        series=tuple(series),
        fingerprint=_fingerprint(series, choice),
        seed=None,
        slots=timeline(series, size_s, zone),
    )


def _bar_size(table: Table, names: NDArray[np.str_] | None, symbols: Sequence[str], times: Times) -> int:
    if times.dates:
        return DAY_S
    gaps = []
    for symbol in symbols:
        own = times.ns if names is None else times.ns[names == symbol]
        gaps.append(np.diff(np.sort(own)))
    pooled = np.concatenate(gaps)
    pooled = pooled[pooled > 0]
    if not len(pooled):
        raise SessionError(f"{table.path}: one bar is no session; give --bar-size-s and more bars")
    values, counts = np.unique(pooled, return_counts=True)
    usual = int(values[np.argmax(counts)])
    if usual % NS_PER_S or usual // NS_PER_S not in BAR_SIZES_S:
        raise SessionError(
            f"{table.path}: its bars are mostly {usual / NS_PER_S:g} s apart; a session has bars of "
            f"{', '.join(str(size) for size in BAR_SIZES_S)} s; resample it, or say so with --bar-size-s"
        )
    return usual // NS_PER_S


def _read_symbol(
    table: Table,
    symbol: str,
    names: NDArray[np.str_] | None,
    times: Times,
    size_s: int,
    zone: str,
    choice: Choice,
    *,
    is_end: bool,
) -> _Bars:
    rows = np.arange(len(times.ns)) if names is None else np.flatnonzero(names == symbol)
    rows = rows[np.argsort(times.ns[rows], kind="stable")]
    at = times.ns[rows]
    same = np.flatnonzero(np.diff(at) == 0)
    if len(same):
        first, second = int(rows[same[0]]), int(rows[same[0] + 1])
        raise SessionError(
            f"{table.path}: rows {first + table.first_row} and {second + table.first_row}: "
            f"the same time twice for {symbol}; keep one"
        )
    start, end, day = _intervals(at, times, size_s, zone, is_end=is_end)
    overlap = np.flatnonzero(start[1:] < end[:-1])
    if len(overlap):
        row = int(rows[overlap[0] + 1]) + table.first_row
        raise SessionError(
            f"{table.path}: row {row}: its bar begins before the one before it ends ({size_s} s bars)"
        )
    opened, high, low, close, volume = _checked_values(table, rows)
    bars = _Bars(symbol, rows, start, end, (opened, high, low, close), volume, day)
    regular = choice.regular_hours if choice.regular_hours is not None else zone == NEW_YORK
    if regular and size_s < DAY_S:
        offset = zone_offset_ns(start, zone)
        begin_s = (start + offset) % _DAY_NS // NS_PER_S
        bars = bars.part((begin_s + size_s > _OPEN_S) & (begin_s < _CLOSE_S))
        if not len(bars.start_ns):
            raise SessionError(f"{table.path}: {symbol} has no bar in regular hours; use --hours all")
    return bars


def _intervals(at: Ints, times: Times, size_s: int, zone: str, *, is_end: bool) -> tuple[Ints, Ints, Ints]:
    """Return starts, ends and local days (days since 1970) of bars."""
    if size_s == DAY_S:
        # A day's bar is the regular session of that day; midnight UTC means the day it is in UTC.
        local = at if times.dates or not (at % _DAY_NS).any() else at + zone_offset_ns(at, zone)
        day = local // _DAY_NS
        start = local_to_ns(day * _DAY_NS + _OPEN_S * NS_PER_S, zone)
        return start, local_to_ns(day * _DAY_NS + _CLOSE_S * NS_PER_S, zone), day
    start = at - size_s * NS_PER_S if is_end else at
    return start, start + size_s * NS_PER_S, (start + zone_offset_ns(start, zone)) // _DAY_NS


def _checked_values(table: Table, rows: Ints) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    names = ("open", "high", "low", "close")
    opened, high, low, close = (table.numbers(table.require((name,)))[rows] for name in names)
    for name, column in zip(names, (opened, high, low, close), strict=True):
        bad = np.flatnonzero(column <= 0)
        if len(bad):
            raise table.problem(
                name, int(rows[bad[0]]), float(column[bad[0]]), "is no price; prices are above 0"
            )
    slack = 1 + _PRICE_TOLERANCE
    for wrong, text in (
        (high < low, "is below the low"),
        (high * slack < np.maximum(opened, close), "is below the open or the close"),
    ):
        if wrong.any():
            index = int(np.flatnonzero(wrong)[0])
            raise table.problem("high", int(rows[index]), float(high[index]), text)
    too_high = low > np.minimum(opened, close) * slack
    if too_high.any():
        index = int(np.flatnonzero(too_high)[0])
        raise table.problem("low", int(rows[index]), float(low[index]), "is above the open or the close")
    volume_name = table.find(("volume",))
    volume = table.numbers(volume_name)[rows] if volume_name else np.zeros(len(rows))
    if volume_name and (volume < 0).any():
        index = int(np.flatnonzero(volume < 0)[0])
        raise table.problem(volume_name, int(rows[index]), float(volume[index]), "is negative")
    return (
        opened,
        np.maximum.reduce([opened, high, close]),
        np.minimum.reduce([opened, low, close]),
        close,
        volume,
    )


def _session_days(path: Path, bars: Sequence[_Bars], size_s: int, choice: Choice) -> tuple[int, int]:
    """Return first and last day of the session, as days since 1970."""
    epoch = date(1970, 1, 1).toordinal()
    common = set.intersection(*({int(day) for day in one.day} for one in bars))
    if not common:
        raise SessionError(f"{path}: the symbols have no day in common; choose others with --symbols")
    last = max(common) if choice.last_day is None else choice.last_day.toordinal() - epoch
    days = sorted(day for day in common if day <= last)
    if choice.first_day is not None:
        first = choice.first_day.toordinal() - epoch
        days = [day for day in days if day >= first]
    elif size_s == DAY_S and choice.days is None:
        days = days[max(choice.warmup_bars, len(days) - MAX_DEFAULT_DAILY_BARS) :]
    else:
        days = days[-(choice.days or 1) :]
    if not days:
        have = f"{date.fromordinal(min(common) + epoch)} to {date.fromordinal(max(common) + epoch)}"
        raise SessionError(
            f"{path}: no day to replay: it has {len(common)} ({have}), and {choice.warmup_bars} bars of history "
            "are kept back; choose with --from, --to, --days or --warmup-bars"
        )
    return days[0], days[-1]


def _cut(path: Path, bars: _Bars, days: tuple[int, int], choice: Choice) -> tuple[_Bars, int]:
    """Return the bars of the session with their history, and the index where the session begins."""
    first = int(np.searchsorted(bars.day, days[0]))
    end = int(np.searchsorted(bars.day, days[1], side="right"))
    if first < max(1, choice.warmup_bars):
        raise SessionError(
            f"{path}: {bars.symbol} has {first} bars before the session, and {max(1, choice.warmup_bars)} are "
            "needed as history; begin later with --from, lower --warmup-bars, or choose other --symbols"
        )
    begin = max(0, first - MAX_HISTORY_BARS)
    return bars.part(slice(begin, end)), first - begin


def _min_tick(choice: Choice) -> float:
    return 0.00005 if choice.security_type == "CASH" else 0.01


def _fingerprint(series: Sequence[Series], choice: Choice) -> str:
    digest = hashlib.sha256(f"{choice.spread_bps}/{choice.security_type}".encode())
    for one in series:
        digest.update(f"{one.instrument.symbol}/{one.first}".encode())
        for column in (one.start_ns, one.open, one.high, one.low, one.close, one.volume):
            digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()
