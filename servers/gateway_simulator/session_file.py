"""Recorded bars, quotes and books as a session. docs/session_format.md describes the files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from gateway_simulator import SessionError
from gateway_simulator.paths import BookTape, QuoteTape, SynthesizedPaths
from gateway_simulator.session import (
    BAR_SIZES_S,
    BOOK_LEVELS,
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
from gateway_simulator.tables import Table, Times, read_table
from market.events import Instrument
from market.instruments import synthetic_con_id

SAMPLE = Path(__file__).parent / "sample" / "daily_us_2012_2013.csv"
SAMPLE_WARMUP_BARS = 120
NEW_YORK = "America/New_York"
SYMBOL_NAMES = ("symbol", "ticker")
TIME_NAMES = ("time", "ts", "ts_et", "ts_et_end", "date", "timestamp", "datetime")
MAX_DEFAULT_SYMBOLS = 4
MAX_DEFAULT_DAILY_BARS = 250
MAX_HISTORY_BARS = 2_000

_DAY_NS = DAY_S * NS_PER_S
_OPEN_S, _CLOSE_S = 34_200, 57_600  # 09:30 and 16:00
_PRICE_TOLERANCE = 1e-6  # float32 columns round high and close apart


@dataclass(frozen=True, slots=True)
class Choice:
    """What of a file is replayed, and how to read it.

    Attributes:
        symbols: To replay; empty: the most traded ones of the file.
        first_day: First local day of the session; None: chosen.
        last_day: Last local day of the session; None: the last of the file.
        days: Days of an intraday session when first_day is None.
        warmup_bars: History every instrument must have.
        bar_size_s: None: found out.
        time_column: None: the first known name.
        time_zone: Of naive times, and of the exchange; "" for the default.
        time_is_end: Times are ends of bars; None: as the column's name says, else starts.
        regular_hours: Keep 09:30 to 16:00 only; None: of New York, yes.
        spread_bps: Of synthesized quotes.
        security_type: "STK" or "CASH".
    """

    symbols: tuple[str, ...] = ()
    first_day: date | None = None
    last_day: date | None = None
    days: int | None = None
    warmup_bars: int = 60
    bar_size_s: int | None = None
    time_column: str | None = None
    time_zone: str = ""
    time_is_end: bool | None = None
    regular_hours: bool | None = None
    spread_bps: float = 2.0
    security_type: str = "STK"


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
    zone = _zone(choice)
    symbols = _symbols(table, choice)
    names, times, is_end = _times(table, choice)
    size_s = choice.bar_size_s or _bar_size(table, names, symbols, times)
    bars = [
        _read_symbol(table, symbol, names, times, size_s, zone, choice, is_end=is_end) for symbol in symbols
    ]
    first_days = _session_days(path, bars, size_s, choice)
    step_ns = step_seconds(size_s) * NS_PER_S
    quotes, books = _quote_tapes(path, choice, zone), _book_tapes(path, choice, zone)
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


def _zone(choice: Choice) -> str:
    name = choice.time_zone or NEW_YORK
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise SessionError(
            f"--time-zone {name}: no such time zone; write for example {NEW_YORK} or UTC"
        ) from error
    return name


def _symbols(table: Table, choice: Choice) -> tuple[str, ...]:
    column = table.find(SYMBOL_NAMES)
    if column is None:
        if len(choice.symbols) != 1:
            raise SessionError(
                f"{table.path}: column 'symbol' is missing; name the one instrument in it with --symbols NAME"
            )
        return choice.symbols
    there = table.texts(column)
    names, which = np.unique(there, return_inverse=True)
    known = {str(name) for name in names}
    for symbol in choice.symbols:
        if symbol not in known:
            listed = ", ".join(sorted(known)[:50])
            raise SessionError(f"{table.path}: --symbols {symbol}: not in the file, which has {listed}")
    if choice.symbols:
        return choice.symbols
    if len(names) <= MAX_DEFAULT_SYMBOLS:
        return tuple(sorted(known))
    turnover = table.numbers(table.require(("close",))) * table.numbers(table.require(("volume",)))
    most = np.argsort(-np.bincount(which, weights=turnover))[:MAX_DEFAULT_SYMBOLS]
    return tuple(sorted(str(names[index]) for index in most))


def _times(table: Table, choice: Choice) -> tuple[NDArray[np.str_] | None, Times, bool]:
    wanted = (choice.time_column,) if choice.time_column else TIME_NAMES
    column = table.require(wanted, "Name it with --time-column")
    symbol_column = table.find(SYMBOL_NAMES)
    times = table.times(column)
    if not times.zoned and not times.dates:
        implied = NEW_YORK if column.startswith("ts_et") else ""
        zone = choice.time_zone or implied
        if not zone:
            raise SessionError(
                f"{table.path}: column {column!r} has times without a zone; say which with --time-zone, "
                f"for example --time-zone {NEW_YORK}"
            )
        times = Times(local_to_ns(times.ns, zone), zoned=True, dates=False)
    is_end = choice.time_is_end if choice.time_is_end is not None else column.endswith("_end")
    return (table.texts(symbol_column) if symbol_column else None), times, is_end


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


def _beside(path: Path, kind: str) -> Path | None:
    found = (path.with_name(f"{path.stem}.{kind}{suffix}") for suffix in (".parquet", ".csv"))
    return next((one for one in found if one.is_file()), None)


def _quote_tapes(path: Path, choice: Choice, zone: str) -> dict[str, QuoteTape]:
    beside = _beside(path, "quotes")
    if beside is None:
        return {}
    table = read_table(beside)
    values = [_positive(table, name) for name in ("bid_price", "bid_size", "ask_price", "ask_size")]
    _refuse_crossed(table, "ask_price", values[0], values[2])
    tapes = {}
    for symbol, rows, ns in _rows_by_symbol(table, choice, zone):
        bid, bid_size, ask, ask_size = (column[rows] for column in values)
        tapes[symbol] = QuoteTape(ns, bid, bid_size, ask, ask_size)
    return tapes


def _book_tapes(path: Path, choice: Choice, zone: str) -> dict[str, BookTape]:
    beside = _beside(path, "book")
    if beside is None:
        return {}
    table = read_table(beside)
    table.require(("bid_price_1",), "Levels are bid_price_1, bid_size_1, ask_price_1, ask_size_1, …")
    depth = sum(f"bid_price_{level}" in table.columns for level in range(1, BOOK_LEVELS + 1))
    sides = [
        np.column_stack([_positive(table, f"{name}_{level}") for level in range(1, depth + 1)])
        for name in ("bid_price", "bid_size", "ask_price", "ask_size")
    ]
    _refuse_crossed(table, "ask_price_1", sides[0][:, 0], sides[2][:, 0])
    tapes = {}
    for symbol, rows, ns in _rows_by_symbol(table, choice, zone):
        bid, bid_size, ask, ask_size = (side[rows] for side in sides)
        tapes[symbol] = BookTape(ns, bid, bid_size, ask, ask_size)
    return tapes


def _positive(table: Table, name: str) -> Floats:
    values = table.numbers(table.require((name,)))
    bad = np.flatnonzero(values < 0)
    if len(bad):
        raise table.problem(name, int(bad[0]), float(values[bad[0]]), "is negative")
    return values


def _refuse_crossed(table: Table, column: str, bid: Floats, ask: Floats) -> None:
    crossed = np.flatnonzero((ask <= bid) & (ask > 0) & (bid > 0))
    if len(crossed):
        raise table.problem(column, int(crossed[0]), float(ask[crossed[0]]), "is not above the bid")


def _rows_by_symbol(table: Table, choice: Choice, zone: str) -> list[tuple[str, Ints, Ints]]:
    names, times, _ = _times(table, Choice(symbols=choice.symbols, time_zone=choice.time_zone or zone))
    symbols = choice.symbols if names is None else [str(name) for name in np.unique(names)]
    out = []
    for symbol in symbols:
        rows = np.arange(len(times.ns)) if names is None else np.flatnonzero(names == symbol)
        rows = rows[np.argsort(times.ns[rows], kind="stable")]
        out.append((symbol, rows, times.ns[rows]))
    return out
