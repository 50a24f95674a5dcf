"""Series of bars with a pattern planted in them, for training and testing what reads charts.

Three families: TRAINING; HELD_OUT with another series process, its shapes, noise and numbers of bars within
TRAINING's; REAL, which is HELD_OUT with real moves in the order in which they happened. What a series shows is checked
(`pattern_resemblance`): one that follows another pattern's outline more closely than its own, or a pattern's by
accident, is drawn anew.
The same seed gives the same series with the same numpy; another processor changes the last digits. What the check
compares then differs by 4e-13 (840 series, with and without AVX-512) and lay at least 3e-5 from its limits (8,512
series), so that it decides the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from market.chart import BarColumns
from model_export.pattern_resemblance import LEAST_BARS, WIDE, shows
from model_export.pattern_series import (
    Floats,
    Moves,
    clustered_moves,
    pinned,
    real_moves,
    shuffled_real_moves,
)
from model_export.pattern_shapes import FLAGS, GAPS, NONE, PATTERN_NAMES, Outline, Variation, outline

STEPS_PER_BAR = 4
_FIRST_NS = 1_262_304_000_000_000_000  # 2010-01-01
_SECONDS = 1_000_000_000
_SESSION_S, _DAY_S = 23_400, 86_400
_MOST_DRAWS = 200
_BAR_SIZES_S = (60, 300, 900, 3_600, 86_400)


@dataclass(frozen=True, slots=True)
class Family:
    """A way of making series.

    Attributes:
        name: For cards.
        moves: Where the moves come from.
        variation: Of the outlines.
        bars: Fewest and most bars.
        share: Smallest and largest part of the bars that a pattern takes.
        tail_bars: Most bars after a pattern.
        noise: Smallest and largest noise within a pattern: standard deviation in the middle of the widest
            swing, in heights of the pattern.
        gap_ranges: Smallest and largest gap, in average ranges of a bar.
    """

    name: str
    moves: Moves
    variation: Variation
    bars: tuple[int, int]
    share: tuple[float, float]
    tail_bars: int
    noise: tuple[float, float]
    gap_ranges: tuple[float, float]


TRAINING = Family(
    name="training",
    moves=clustered_moves,
    variation=WIDE,
    bars=(44, 100),
    share=(0.5, 0.9),
    tail_bars=3,
    noise=(0.01, 0.075),
    gap_ranges=(2.2, 7.0),
)
HELD_OUT = Family(
    name="held_out",
    moves=shuffled_real_moves,
    variation=Variation(
        time=0.022,
        unevenness=0.05,
        touches=(4, 6),
        slope=(0.4, 0.56),
        channel=(0.2, 0.3),
        neck=(0.34, 0.52),
    ),
    bars=(50, 90),
    share=(0.54, 0.86),
    tail_bars=2,
    noise=(0.015, 0.07),
    gap_ranges=(2.5, 6.5),
)
REAL = replace(HELD_OUT, name="real", moves=real_moves)
"""Only to be examined on."""
FAMILIES = (TRAINING, HELD_OUT, REAL)


@dataclass(frozen=True, slots=True, eq=False)
class PlantedSeries:
    """Bars and what was planted in them.

    Attributes:
        bars: The series.
        bar_s: Length of a bar.
        pattern: One of PATTERN_NAMES.
        first_bar: First bar of the pattern; 0 for "none".
        last_bar: Last bar of the pattern; the series' last for "none".
        low_price: Lowest low of these bars; for a gap, its lower edge.
        high_price: Highest high of these bars; for a gap, its upper edge.
        upper_level: Price that closes the pattern above; the highest high for "none".
        lower_level: Price that closes it below; the lowest low for "none".
        noise: How noisy it is, in the unit of Family.noise; 0 for gaps and "none".
        outline: What the bars follow; None for gaps and "none".
    """

    bars: BarColumns
    bar_s: int
    pattern: str
    first_bar: int
    last_bar: int
    low_price: float
    high_price: float
    upper_level: float
    lower_level: float
    noise: float
    outline: Outline | None


def plant(rng: np.random.Generator, family: Family, pattern: str | None = None) -> PlantedSeries:
    """Make a series that shows its pattern, and no other more closely.

    Args:
        rng: Source of all that varies.
        family: Which kind of series.
        pattern: What to plant; None: any, each equally often.

    Raises:
        RuntimeError: A family never shows a pattern.
    """
    name = PATTERN_NAMES[int(rng.integers(len(PATTERN_NAMES)))] if pattern is None else pattern
    for _ in range(_MOST_DRAWS):
        series = _drawn(rng, family, name)
        if shows(series.bars, name):
            return series
    raise RuntimeError(f"none of {_MOST_DRAWS} series of family {family.name!r} shows {name}")


def _drawn(rng: np.random.Generator, family: Family, name: str) -> PlantedSeries:
    if name == NONE:
        return _without(rng, family)
    if name in GAPS:
        return _gap(rng, family, name)
    return _outlined(rng, family, name)


def _outlined(rng: np.random.Generator, family: Family, name: str) -> PlantedSeries:
    count = int(rng.integers(family.bars[0], family.bars[1] + 1))
    length = max(int(count * rng.uniform(*family.share)), LEAST_BARS)
    last = count - 1 - int(rng.integers(0, family.tail_bars + 1))
    first = max(last - length + 1, 0)
    drawn = outline(name, rng, family.variation)
    noise = float(rng.uniform(*family.noise))
    steps = (last + 1 - first) * STEPS_PER_BAR
    points = np.rint(drawn.x * steps).astype(np.int64)
    # A bridge of n moves has a standard deviation of sqrt(n) / 2 in its middle.
    sigma = noise * 2 / np.sqrt(np.diff(points).max())
    inside = pinned(family.moves(rng, steps) * sigma, points, drawn.y)
    before = _lead(rng, family, first * STEPS_PER_BAR, sigma, name)
    tail = (count - 1 - last) * STEPS_PER_BAR
    after = np.cumsum(family.moves(rng, tail + 1)[1:] * sigma)
    path = np.concatenate((inside[0] + before, inside, inside[-1] + after))
    height = float(rng.uniform(0.02, 0.25))
    bars, scale = _bars(rng, path, height, count)
    return PlantedSeries(
        bars=bars[0],
        bar_s=bars[1],
        pattern=name,
        first_bar=first,
        last_bar=last,
        low_price=float(bars[0].low[first : last + 1].min()),
        high_price=float(bars[0].high[first : last + 1].max()),
        upper_level=scale(drawn.upper),
        lower_level=scale(drawn.lower),
        noise=noise,
        outline=drawn,
    )


def _lead(rng: np.random.Generator, family: Family, steps: int, sigma: float, name: str) -> Floats:
    """Return (steps,) what comes before a pattern, relative to its first price."""
    if steps == 0:
        return np.zeros(0)
    moves = family.moves(rng, steps) * sigma
    # Before a flag the price rests, so that the pole stands out.
    most = 0.1 if name in FLAGS else 0.4
    drift = rng.uniform(-most, most) / steps
    path: Floats = np.cumsum(moves[::-1] + drift)[::-1]
    return -path


def _walk(rng: np.random.Generator, family: Family, count: int) -> Floats:
    """Return a path of (count * STEPS_PER_BAR + 1,) without a planted pattern, its height about 1."""
    steps = count * STEPS_PER_BAR
    moves = family.moves(rng, steps)
    kind = rng.integers(3)
    if kind == 0:  # a trend
        path = np.cumsum(moves + rng.choice((-1, 1)) * rng.uniform(2.5, 6.0) / np.sqrt(steps))
    elif kind == 1:  # a range without lines
        path, pull = np.zeros(steps), rng.uniform(0.08, 0.25)
        for step in range(1, steps):
            path[step] = path[step - 1] * (1 - pull) + moves[step]
    else:  # a trend that turns once
        turn = rng.uniform(0.35, 0.65)
        bend = np.abs(np.linspace(0, 1, steps) - turn) * rng.choice((-1, 1)) * rng.uniform(3.0, 6.0)
        path = np.cumsum(moves) * 0.6 + bend * np.sqrt(steps)
    path = np.concatenate(([0.0], path))
    scaled: Floats = path / (path.max() - path.min())
    return scaled


def _without(rng: np.random.Generator, family: Family) -> PlantedSeries:
    count = int(rng.integers(family.bars[0], family.bars[1] + 1))
    bars, _ = _bars(rng, _walk(rng, family, count), float(rng.uniform(0.02, 0.25)), count)
    low, high = float(bars[0].low.min()), float(bars[0].high.max())
    return PlantedSeries(bars[0], bars[1], NONE, 0, count - 1, low, high, high, low, 0.0, None)


def _gap(rng: np.random.Generator, family: Family, name: str) -> PlantedSeries:
    count = int(rng.integers(family.bars[0], family.bars[1] + 1))
    path = _walk(rng, family, count)
    at = int(count * rng.uniform(0.45, 0.93))
    ranges = path[:-1].reshape(count, STEPS_PER_BAR)
    size = float(np.mean(ranges.max(1) - ranges.min(1)))
    size = max(size * 1.6, 0.02) * rng.uniform(*family.gap_ranges)
    sign = 1.0 if name == "gap_up" else -1.0
    bars, _ = _bars(rng, path, float(rng.uniform(0.02, 0.2)), count, gap=(at, sign * size))
    one = bars[0]
    lower, upper = (one.high[at - 1], one.low[at]) if sign > 0 else (one.high[at], one.low[at - 1])
    return PlantedSeries(
        bars=one,
        bar_s=bars[1],
        pattern=name,
        first_bar=at - 1,
        last_bar=at,
        low_price=float(lower),
        high_price=float(upper),
        upper_level=float(upper),
        lower_level=float(lower),
        noise=0.0,
        outline=None,
    )


def _bars(
    rng: np.random.Generator, path: Floats, height: float, count: int, gap: tuple[int, float] = (0, 0.0)
) -> tuple[tuple[BarColumns, int], Callable[[float], float]]:
    """Make bars of a path.

    Args:
        rng: Source of price, times, volumes and wicks.
        path: (count * STEPS_PER_BAR + 1,) in heights.
        height: Log price of a height of 1.
        count: Number of bars.
        gap: Before which bar, and how far its range lies above the one before (below: negative), in heights.

    Returns:
        Bars and their length in seconds; what turns heights into prices.
    """
    first_price = float(np.exp(rng.uniform(np.log(4.0), np.log(3000.0))))

    def price_of(level: float) -> float:
        return float(first_price * np.exp(height * level))

    steps = np.arange(count)[:, None] * STEPS_PER_BAR + np.arange(STEPS_PER_BAR + 1)
    points = path[steps]
    reach = points.max(1) - points.min(1)
    wicks = np.abs(rng.normal(0, 0.15, (2, count))) * (reach + 0.3 * reach.mean())
    high, low = points.max(1) + wicks[0], points.min(1) - wicks[1]
    at, size = gap
    if size:
        overlap = high[at - 1] - low[at] if size > 0 else high[at] - low[at - 1]
        shift = np.where(np.arange(count) >= at, size + np.sign(size) * overlap, 0.0)
        points, high, low = points + shift[:, None], high + shift, low + shift
    prices = first_price * np.exp(height * np.stack((points[:, 0], high, low, points[:, -1])))
    busy = reach / reach.mean()
    volume = np.rint(10 ** rng.uniform(3, 6) * rng.lognormal(0, 0.4, count) * (0.4 + 0.6 * busy))
    bar_s = int(_BAR_SIZES_S[int(rng.integers(len(_BAR_SIZES_S)))])
    start_ns = _starts(int(rng.integers(0, 3900)), count, bar_s)
    bars = BarColumns(
        start_ns, start_ns + bar_s * _SECONDS, prices[0], prices[1], prices[2], prices[3], volume
    )
    return (bars, bar_s), price_of


def _starts(first_day: int, count: int, bar_s: int) -> NDArray[np.int64]:
    """Return when bars begin: weekdays, and within the day from 14:30 UTC on for six hours and a half."""
    per_day = max(_SESSION_S // bar_s, 1)
    day, within = np.divmod(np.arange(count), per_day)
    weekday = first_day + day
    calendar_day = weekday // 5 * 7 + weekday % 5 + 3  # 2010-01-04 was a Monday
    opening_s = 5 * 3600 if bar_s == _DAY_S else 52_200
    starts: NDArray[np.int64] = _FIRST_NS + (calendar_day * _DAY_S + opening_s + within * bar_s) * _SECONDS
    return starts
