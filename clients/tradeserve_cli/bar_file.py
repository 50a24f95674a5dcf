"""Bars from a CSV file in the format of sessions (docs/session_format.md)."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

from market.bars import NS_PER_S, check_bar
from market.events import Bar
from market.instruments import synthetic_con_id
from tradeserve_cli.arguments import UsageError

MAX_FILE_BYTES = 256 * 1024 * 1024

_SYMBOL_NAMES = ("symbol", "ticker")
_TIME_NAMES = ("time", "ts", "ts_et", "ts_et_end", "date", "timestamp", "datetime")
_PRICES = ("open", "high", "low", "close")
_DAY_S = 86_400
_OPENS, _SESSION = timedelta(hours=9, minutes=30), timedelta(hours=6, minutes=30)
# Numbers since 1970 below the first are seconds, below the second milliseconds, and so on.
_MAGNITUDES = ((1e11, NS_PER_S), (1e14, 1_000_000), (1e17, 1_000), (math.inf, 1))


def read_bars(path: Path, symbol: str, zone: ZoneInfo) -> tuple[str, list[Bar]]:
    """Read one instrument's bars, oldest first.

    Args:
        path: CSV with a header; columns symbol (or ticker), time (or ts, date, …), open, high, low, close, volume.
        symbol: Which; "" where the file holds one.
        zone: Of times without one, and of the days of daily bars.

    Returns:
        The symbol ("" where neither the file nor the caller names it) and its bars.

    Raises:
        UsageError: The file can't be read, or a row is wrong; the message names file, row and column.
    """
    rows = _rows(path)
    time_name = next((name for name in _TIME_NAMES if name in rows[0][1]), "")
    missing = [name for name in _PRICES if name not in rows[0][1]]
    if missing or not time_name:
        raise UsageError(f"{path}: column {missing[0] if missing else 'time'!r} is missing")
    symbol_name = next((name for name in _SYMBOL_NAMES if name in rows[0][1]), "")
    if symbol_name:
        there = list(dict.fromkeys(row[symbol_name] for _, row in rows))
        if not symbol and len(there) > 1:
            raise UsageError(f"{path}: holds {', '.join(there[:20])}: choose one with --symbol")
        symbol = symbol or there[0]
        rows = [(number, row) for number, row in rows if row[symbol_name] == symbol]
        if not rows:
            raise UsageError(f"{path}: --symbol {symbol}: not in the file, which has {', '.join(there[:20])}")
    timed = sorted(
        ((_start_ns(f"{path}: row {number}: column {time_name!r}", row[time_name], zone), number, row)
         for number, row in rows),
        key=lambda item: item[0],
    )  # fmt: skip
    size_ns = _size_ns([start_ns for start_ns, _, _ in timed])
    shift_ns = size_ns if time_name.endswith("_end") else 0
    con_id = synthetic_con_id(symbol or path.stem)
    bars: list[Bar] = []
    for start_ns, number, row in timed:
        begin_ns, end_ns = start_ns - shift_ns, start_ns - shift_ns + size_ns
        if size_ns == _DAY_S * NS_PER_S:
            begin_ns, end_ns = _session(start_ns, zone)
        bar = Bar(con_id, begin_ns, end_ns, *_values(path, number, row))
        problem = check_bar(bar)
        if problem is None and bars and bar.start_ns < bars[-1].end_ns:
            problem = f"{row[time_name]} begins before the bar before it ends"
        if problem is not None:
            raise UsageError(f"{path}: row {number}: {problem}")
        bars.append(bar)
    return symbol, bars


def _rows(path: Path) -> Sequence[tuple[int, Mapping[str, str]]]:
    if path.suffix.lower() != ".csv":
        raise UsageError(f"{path}: is not a .csv file")
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(f"{path}: is larger than {MAX_FILE_BYTES // 2**20} MiB")
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restval="")
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: is no CSV file in UTF-8: {error}") from error
    if not rows:
        raise UsageError(f"{path}: holds no row of bars")
    return rows


def _start_ns(where: str, text: str, zone: ZoneInfo) -> int:
    try:
        number = int(text) if text.isdecimal() else float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise UsageError(f"{where}: {text!r} is no ISO-8601 time and no number since 1970") from error
        moment = moment if moment.tzinfo else moment.replace(tzinfo=zone)
        return int(moment.timestamp()) * NS_PER_S + moment.microsecond * 1000
    if not 0 <= number < 2**63:
        raise UsageError(f"{where}: {text!r} is no time since 1970")
    return int(number * next(factor for limit, factor in _MAGNITUDES if number < limit))


def _size_ns(starts_ns: Sequence[int]) -> int:
    """Return the most frequent distance; a day for what lies a day or more apart."""
    distances = Counter(later - earlier for earlier, later in pairwise(starts_ns) if later > earlier)
    if not distances:
        return _DAY_S * NS_PER_S
    return min(distances.most_common(1)[0][0], _DAY_S * NS_PER_S)


def _session(start_ns: int, zone: ZoneInfo) -> tuple[int, int]:
    """Return the trading session of a day: 09:30 to 16:00."""
    day = datetime.fromtimestamp(start_ns // NS_PER_S, UTC).astimezone(zone)
    opens = day.replace(hour=0, minute=0, second=0, microsecond=0) + _OPENS
    return int(opens.timestamp()) * NS_PER_S, int((opens + _SESSION).timestamp()) * NS_PER_S


def _values(path: Path, number: int, row: Mapping[str, str]) -> tuple[float, float, float, float, float]:
    values = []
    for name in (*_PRICES, "volume"):
        text = row.get(name, "0" if name == "volume" else "")
        try:
            values.append(float(text))
        except ValueError as error:
            raise UsageError(f"{path}: row {number}: column {name!r}: {text!r} is no number") from error
    opened, high, low, close, volume = values
    return opened, high, low, close, volume
