"""What of a file is replayed, and what its columns of symbols and times say."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from gateway_simulator import SessionError
from gateway_simulator.session import local_to_ns
from gateway_simulator.tables import Table, Times

NEW_YORK = "America/New_York"
SYMBOL_NAMES = ("symbol", "ticker")
TIME_NAMES = ("time", "ts", "ts_et", "ts_et_end", "date", "timestamp", "datetime")
MAX_DEFAULT_SYMBOLS = 4


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


def zone_of(choice: Choice) -> str:
    """Return the time zone of naive times and of the exchange.

    Raises:
        SessionError: There is none of that name.
    """
    name = choice.time_zone or NEW_YORK
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise SessionError(
            f"--time-zone {name}: no such time zone; write for example {NEW_YORK} or UTC"
        ) from error
    return name


def symbols_of(table: Table, choice: Choice) -> tuple[str, ...]:
    """Return the symbols to replay: those chosen, or the most traded ones.

    Raises:
        SessionError: A symbol is not there, or nobody says which one it is.
    """
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


def times_of(table: Table, choice: Choice) -> tuple[NDArray[np.str_] | None, Times, bool]:
    """Return the symbol of every row (None: a file of one), its time, and whether times are ends of bars.

    Raises:
        SessionError: There is no column of times, or none says in which zone they are.
    """
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
