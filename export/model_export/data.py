"""Reads the licensed market data; nothing else is ever trained on.

Every set is a folder with a SOURCE.md (repository, commit, licence). A series is one symbol at one
bar size, split into stretches without holes. Bars are the ones that traded: minutes without a trade
are absent, and the next bar follows directly. Nights and weekends do not break a series: the
strategy's rolling window spans them too, and a horizon counts bars.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model_export.contract import HORIZON_BARS, WINDOW_BARS
from model_export.errors import DataError

DAY_NS = 86_400 * 10**9
# A longer hole than this starts a new series: a long weekend fits, a missing week does not.
MAX_GAP_NS = {60: 5 * DAY_NS, 300: 5 * DAY_NS, 3600: 8 * DAY_NS, 86400: 12 * DAY_NS}
# Raw prices show splits as jumps; a bar that opens this far from the last close starts a new series.
MAX_JUMP = 0.25
DAILY_SYMBOLS = 200
NEW_YORK = "America/New_York"
_OPEN_NS = int(9.5 * 3600) * 10**9
_CLOSE_NS = 16 * 3600 * 10**9


@dataclass(frozen=True, slots=True)
class Source:
    """One licensed data set.

    Attributes:
        folder: Folder below the data directory.
        file: Parquet file in it.
        licence: As its SOURCE.md says.
        origin: Where it comes from, for the card and for the error when it is missing.
        bar_sizes_s: What it is used for.
    """

    folder: str
    file: str
    licence: str
    origin: str
    bar_sizes_s: tuple[int, ...]


MINUTE_2024 = Source(
    "bars_1min_us_2024",
    "bars_1min_open.parquet",
    "MIT",
    "github.com/blaizard/market-data, commit 0c6dec77f856eca790bf66b2e636d10d44cbee8a",
    (60, 300),
)
MINUTE_LEAN = Source(
    "lean_sample",
    "equity_minute_trades.parquet",
    "Apache-2.0",
    "github.com/QuantConnect/Lean, commit 24863901deffa9ec7985e21ef8fbdb0258efb9e4 (Data/equity/usa/minute)",
    (60, 300),
)
HOURLY = Source(
    "bars_hour_us_1998_2021",
    "bars_hour_open.parquet",
    "Apache-2.0",
    "github.com/QuantConnect/Lean, commit 24863901deffa9ec7985e21ef8fbdb0258efb9e4 (Data/equity/usa/hour)",
    (3600,),
)
DAILY = Source(
    "daily_us_1999_2017",
    "daily_open.parquet",
    "CC0-1.0 as declared by the author",
    "Huge Stock Market Dataset (B. Marjanovic, 2017), from github.com/guyr18/stock-market-big-data, "
    "commit 30d766fa2b865b8c55bc8e1a246b9f93916b882c",
    (86400,),
)
SOURCES = (MINUTE_2024, MINUTE_LEAN, HOURLY, DAILY)


@dataclass(frozen=True, slots=True)
class Series:
    """Consecutive bars of one symbol.

    Attributes:
        source: Where they come from.
        symbol: As the source spells it.
        bar_size_s: Length of a bar.
        start_ns: (n,) int64, begin of each bar, UTC.
        end_ns: (n,) int64, when each bar is known, UTC; strictly increasing.
        bars: (n, 5) float32, open, high, low, close, volume.
    """

    source: Source
    symbol: str
    bar_size_s: int
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    bars: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.end_ns)


def load_series(data_dir: Path) -> list[Series]:
    """Read every licensed set.

    Args:
        data_dir: Folder that holds the sets' folders.

    Raises:
        DataError: A set is missing; the message names all that are and where they come from.
    """
    missing = [s for s in SOURCES if not (data_dir / s.folder / s.file).is_file()]
    if missing:
        lines = "; ".join(f"{s.folder}/{s.file} ({s.licence}, from {s.origin})" for s in missing)
        raise DataError(f"no training data in {data_dir}: missing {lines}. Put it there or pass --data DIR")
    series = [s for source in SOURCES for s in _read(source, data_dir)]
    return [part for s in series for part in _stretches(s) if len(part) > WINDOW_BARS + HORIZON_BARS]


def _read(source: Source, data_dir: Path) -> Iterator[Series]:
    """Yield one series per symbol and bar size, holes and all, sorted by symbol."""
    path = data_dir / source.folder / source.file
    table = pq.read_table(path)
    if source is DAILY:
        table = table.filter(pc.is_in(table["symbol"], _pick_daily(table["symbol"].unique().to_pylist())))
    needed = {"symbol", "open", "high", "low", "close", "volume"}
    if absent := needed - set(table.column_names):
        raise DataError(f"{path}: column(s) {', '.join(sorted(absent))} are missing; see its SOURCE.md")
    start_ns, end_ns = _times(source, table)
    bars = np.stack(
        [table[c].to_numpy().astype(np.float64) for c in ("open", "high", "low", "close", "volume")], 1
    )
    symbols = np.asarray(table["symbol"].to_pylist())
    for symbol in np.unique(symbols):
        rows = np.flatnonzero(symbols == symbol)
        rows = rows[np.argsort(start_ns[rows], kind="stable")]
        _check_bars(path, str(symbol), bars[rows], end_ns[rows])
        if source in (MINUTE_2024, MINUTE_LEAN):
            rows = rows[_regular_hours(start_ns[rows])]
            yield _series(source, str(symbol), 60, start_ns[rows], end_ns[rows], bars[rows])
            yield _series(source, str(symbol), 300, *_aggregate(start_ns[rows], bars[rows], 300))
        else:
            yield _series(
                source, str(symbol), source.bar_sizes_s[0], start_ns[rows], end_ns[rows], bars[rows]
            )


def _series(
    source: Source,
    symbol: str,
    bar_size_s: int,
    start_ns: NDArray[np.int64],
    end_ns: NDArray[np.int64],
    bars: NDArray[np.float64],
) -> Series:
    return Series(source, symbol, bar_size_s, start_ns, end_ns, bars.astype(np.float32))


def _pick_daily(symbols: list[str]) -> Any:
    """Return a fixed pseudo-random choice of symbols, the same for whichever symbols are offered."""
    ranked = sorted(symbols, key=lambda s: hashlib.sha256(f"daily {s}".encode()).digest())
    return pa.array(sorted(ranked[:DAILY_SYMBOLS]), pa.large_string())


def _times(source: Source, table: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return begin and end of every bar, UTC nanoseconds."""
    if source is DAILY:
        midnight = _utc_ns(pc.assume_timezone(pc.cast(table["date"], "timestamp[us]"), NEW_YORK))
        # On no trading day do clocks change between midnight and the close.
        return midnight + _OPEN_NS, midnight + _CLOSE_NS
    start = _utc_ns(pc.assume_timezone(table["ts"], NEW_YORK) if source is HOURLY else table["ts"])
    return start, start + source.bar_sizes_s[0] * 10**9


def _utc_ns(column: Any) -> NDArray[np.int64]:
    return np.asarray(pc.cast(column, "int64").to_numpy(), np.int64) * 1000


def _regular_hours(start_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which minutes begin within 09:30-16:00 in New York."""
    stamps = (
        pa.array(start_ns // 1000, pa.int64())
        .cast(pa.timestamp("us", "UTC"))
        .cast(pa.timestamp("us", NEW_YORK))
    )
    minute = np.asarray(pc.hour(stamps)) * 60 + np.asarray(pc.minute(stamps))
    regular: NDArray[np.bool_] = (minute >= 570) & (minute < 960)
    return regular


def _check_bars(path: Path, symbol: str, bars: NDArray[np.float64], end_ns: NDArray[np.int64]) -> None:
    if not np.isfinite(bars).all():
        raise DataError(f"{path}: {symbol} has a value that is not finite; remove the row")
    prices = bars[:, :4]
    if (prices <= 0).any() or (bars[:, 4] < 0).any():
        raise DataError(f"{path}: {symbol} has a price <= 0 or a volume < 0; remove the row")
    if (np.diff(end_ns) <= 0).any():
        raise DataError(f"{path}: {symbol} has two rows for one time; keep one")


def _aggregate(
    start_ns: NDArray[np.int64], bars: NDArray[np.float64], bar_size_s: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Join minutes into longer bars that begin at multiples of the bar size; absent bars stay absent."""
    size_ns = bar_size_s * 10**9
    bins = start_ns // size_ns
    first = np.flatnonzero(np.r_[True, np.diff(bins) != 0]) if len(bins) else np.zeros(0, np.int64)
    last = np.r_[first[1:], len(bins)] - 1
    out = np.empty((len(first), 5))
    if len(first):
        out[:, 0] = bars[first, 0]
        out[:, 1] = np.maximum.reduceat(bars[:, 1], first)
        out[:, 2] = np.minimum.reduceat(bars[:, 2], first)
        out[:, 3] = bars[last, 3]
        out[:, 4] = np.add.reduceat(bars[:, 4], first)
    begin = bins[first] * size_ns
    return begin, begin + size_ns, out


def _stretches(series: Series) -> Iterator[Series]:
    """Cut a series where bars are missing for days and, in raw prices, where a split shows."""
    cut = np.diff(series.end_ns) > MAX_GAP_NS[series.bar_size_s]
    if series.source is not DAILY:  # daily prices are adjusted: a jump there is real
        jump = series.bars[1:, 0] / series.bars[:-1, 3] - 1
        cut |= np.abs(jump) > MAX_JUMP
    edges = np.r_[0, np.flatnonzero(cut) + 1, len(series)]
    for begin, end in pairwise(edges):
        part = slice(int(begin), int(end))
        yield Series(
            series.source,
            series.symbol,
            series.bar_size_s,
            series.start_ns[part],
            series.end_ns[part],
            series.bars[part],
        )
