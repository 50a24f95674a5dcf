"""Windows, targets and the split in time. Pure numpy.

A sample is a window of 60 consecutive bars and the close 6 bars later. It belongs to a split only
when all of its bars, window and outcome, lie inside the split's dates: no bar is in two splits, and
the last window of one split and the first of the next are at least 66 bars apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from model_export.contract import BAND_SIGMAS, HORIZON_BARS, SIGMA_FLOOR, WINDOW_BARS
from model_export.data import DAY_NS, Series

PURGE_BARS = WINDOW_BARS + HORIZON_BARS
# New York is 4 or 5 hours behind UTC: with 5, a regular session never crosses midnight.
_NEW_YORK_NS = 5 * 3600 * 10**9
_NOTHING = (
    np.zeros(0, np.int32),
    np.zeros(0, np.int64),
    np.zeros(0, np.int8),
    np.zeros(0, np.int8),
    np.zeros(0, np.float32),
    np.zeros(0, np.int64),
)


class Split(IntEnum):
    """Parts of the data in time; NONE is what straddles a boundary or lies outside."""

    NONE = -1
    TRAIN = 0
    VALIDATION = 1
    TEST = 2


@dataclass(frozen=True, slots=True)
class SplitDates:
    """Last day (inclusive, ISO, New York) of each split at one bar size."""

    train_to: str
    validation_to: str
    test_to: str

    def edges_ns(self) -> NDArray[np.int64]:
        """Return the first instant after each split, (3,) int64 UTC."""
        return np.asarray(
            [_end_of_day_ns(d) for d in (self.train_to, self.validation_to, self.test_to)], np.int64
        )


# Daily: the sample session that ships with the project replays 2012-2013, which only the test sees.
SPLITS: dict[int, SplitDates] = {
    60: SplitDates("2024-06-30", "2024-07-31", "2024-09-30"),
    300: SplitDates("2024-06-30", "2024-07-31", "2024-09-30"),
    3600: SplitDates("2010-12-31", "2012-12-31", "2015-12-31"),
    86400: SplitDates("2010-12-31", "2011-12-31", "2015-12-31"),
}


def _end_of_day_ns(day: str) -> int:
    after = datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(days=1)
    return int(after.timestamp()) * 10**9 + _NEW_YORK_NS


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples of one bar size; windows are cut out of the series on demand.

    Attributes:
        bar_size_s: Length of a bar.
        series: Where the bars are.
        series_id: (n,) int32, which series.
        last: (n,) int64, position of the window's last bar in its series.
        label: (n,) int8, 0 down, 1 flat, 2 up.
        later_label: (n,) int8, the same when entering one bar later, same exit.
        forward: (n,) float32, log return over the horizon.
        day: (n,) int64, New York day of the window's last bar, days since the epoch.
    """

    bar_size_s: int
    series: Sequence[Series]
    series_id: NDArray[np.int32]
    last: NDArray[np.int64]
    label: NDArray[np.int8]
    later_label: NDArray[np.int8]
    forward: NDArray[np.float32]
    day: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.last)

    def take(self, rows: NDArray[np.int64]) -> Samples:
        """Return some of the samples."""
        return Samples(
            self.bar_size_s,
            self.series,
            self.series_id[rows],
            self.last[rows],
            self.label[rows],
            self.later_label[rows],
            self.forward[rows],
            self.day[rows],
        )

    def windows(self, rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Return raw windows, (n, 60, 5) float32, oldest bar first."""
        chosen = np.arange(len(self)) if rows is None else rows
        out = np.empty((len(chosen), WINDOW_BARS, 5), np.float32)
        for slot, row in enumerate(chosen):
            end = int(self.last[row]) + 1
            out[slot] = self.series[int(self.series_id[row])].bars[end - WINDOW_BARS : end]
        return out

    def event_ns(self) -> NDArray[np.int64]:
        """Return when each window was complete, (n,) int64 UTC."""
        return self._end_ns(0)

    def outcome_ns(self) -> NDArray[np.int64]:
        """Return when each outcome was known, (n,) int64 UTC."""
        return self._end_ns(HORIZON_BARS)

    def _end_ns(self, ahead: int) -> NDArray[np.int64]:
        pairs = zip(self.series_id, self.last, strict=True)
        return np.asarray([self.series[int(s)].end_ns[int(i) + ahead] for s, i in pairs], np.int64)


def window_sigma(closes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the floored standard deviation of one-bar log returns.

    Args:
        closes: (n, 60) closes of n windows.

    Returns:
        (n,) standard deviation, divisor 59 (the number of returns).
    """
    returns = np.diff(np.log(closes), axis=1)
    sigma: NDArray[np.float64] = np.maximum(returns.std(axis=1), SIGMA_FLOOR)
    return sigma


def classify(
    forward: NDArray[np.float64], sigma: NDArray[np.float64], bars: int = HORIZON_BARS
) -> NDArray[np.int8]:
    """Return 0 (down), 1 (flat) or 2 (up) of log returns over some bars against the band."""
    band = BAND_SIGMAS * sigma * np.sqrt(bars)
    return np.asarray(1 + (forward > band).astype(np.int8) - (forward < -band).astype(np.int8), np.int8)


def split_of(
    first_start_ns: NDArray[np.int64], outcome_ns: NDArray[np.int64], dates: SplitDates
) -> NDArray[np.int8]:
    """Return the split of each sample: the one that holds all of its bars, else NONE."""
    edges = dates.edges_ns()
    first = np.searchsorted(edges, first_start_ns, side="right")
    last = np.searchsorted(edges, outcome_ns, side="left")
    same = (first == last) & (last < len(edges))
    return np.where(same, first, int(Split.NONE)).astype(np.int8)


def build_samples(series: Sequence[Series], bar_size_s: int, split: Split, stride: int = 1) -> Samples:
    """Return every sample of a bar size in one split.

    Args:
        series: All series; those of other bar sizes are ignored.
        bar_size_s: Bar size wanted.
        split: Split wanted.
        stride: Keep the window that ends at every `stride`-th bar.
    """
    dates = SPLITS[bar_size_s]
    parts = []
    for number, one in enumerate(series):
        if one.bar_size_s != bar_size_s or len(one) < PURGE_BARS:
            continue
        last = np.arange(WINDOW_BARS - 1, len(one) - HORIZON_BARS, stride)
        kept = split_of(one.start_ns[last - WINDOW_BARS + 1], one.end_ns[last + HORIZON_BARS], dates) == split
        parts.append(_samples(series, number, last[kept]))
    return join(parts) if parts else Samples(bar_size_s, series, *_NOTHING)


def _samples(series: Sequence[Series], number: int, last: NDArray[np.int64]) -> Samples:
    """Return the samples of one series whose windows end at some positions."""
    one = series[number]
    close = one.bars[:, 3].astype(np.float64)
    log_close = np.log(close)
    sigma = window_sigma(np.lib.stride_tricks.sliding_window_view(close, WINDOW_BARS)[last - WINDOW_BARS + 1])
    forward = log_close[last + HORIZON_BARS] - log_close[last]
    later = log_close[last + HORIZON_BARS] - log_close[last + 1]
    return Samples(
        one.bar_size_s,
        series,
        np.full(len(last), number, np.int32),
        last,
        classify(forward, sigma),
        classify(later, sigma, HORIZON_BARS - 1),
        forward.astype(np.float32),
        (one.end_ns[last] - _NEW_YORK_NS) // DAY_NS,
    )


def join(parts: Sequence[Samples]) -> Samples:
    """Return the samples of several parts of one bar size, one after the other."""
    return Samples(
        parts[0].bar_size_s,
        parts[0].series,
        np.concatenate([p.series_id for p in parts]),
        np.concatenate([p.last for p in parts]),
        np.concatenate([p.label for p in parts]),
        np.concatenate([p.later_label for p in parts]),
        np.concatenate([p.forward for p in parts]),
        np.concatenate([p.day for p in parts]),
    )


def thin(samples: Samples, most: int) -> Samples:
    """Return at most `most` samples, evenly spaced in their order."""
    if len(samples) <= most:
        return samples
    return samples.take(np.linspace(0, len(samples) - 1, most).round().astype(np.int64))


def nasty_windows() -> NDArray[np.float32]:
    """Return windows that break careless normalisation, (n, 60, 5) float32; always the same.

    Constant prices, no volume, huge volume, one tick, a tenfold jump, tiny and huge prices, zeros
    (Triton's warm-up), and a plain random walk.
    """
    walk = 100 * np.exp(np.cumsum(np.random.default_rng(20240701).normal(0, 0.001, WINDOW_BARS)))
    plain = np.stack([walk, walk * 1.001, walk * 0.999, walk * 1.0003, 1000 + 10 * np.arange(60.0)], 1)
    constant = np.tile([100.0, 100.0, 100.0, 100.0, 500.0], (WINDOW_BARS, 1))
    no_volume, huge_volume, tick, jump, tiny, huge = (plain.copy() for _ in range(6))
    no_volume[:, 4] = 0
    huge_volume[-1, 4] = 1e13
    tick[:, :4] = 100.0
    tick[-1, 1] = tick[-1, 3] = 100.01
    jump[30:, :4] *= 10
    tiny[:, :4] *= 1e-6
    huge[:, :4] *= 1e6
    flat_empty = constant.copy()
    flat_empty[:, 4] = 0
    zeros = np.zeros_like(constant)
    all_of_them = [plain, constant, no_volume, huge_volume, tick, jump, tiny, huge, flat_empty, zeros]
    return np.stack(all_of_them).astype(np.float32)
