"""The outlines of chart patterns: turning points in time and price, both 0 to 1, with room to vary.

An outline is what an analyst would draw over the bars. `chart_patterns` makes bars that follow it.
Source: Edwards and Magee, Technical Analysis of Stock Trends, for what each pattern is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TRIANGLES = ("ascending_triangle", "descending_triangle", "symmetric_triangle")
FLAGS = ("bull_flag", "bear_flag")
WEDGES = ("rising_wedge", "falling_wedge")
REVERSALS = ("head_and_shoulders", "inverse_head_and_shoulders", "double_top", "double_bottom")
GAPS = ("gap_up", "gap_down")
NONE = "none"
OUTLINED = (*REVERSALS, *TRIANGLES, *FLAGS, *WEDGES)
PATTERN_NAMES = (*OUTLINED, *GAPS, NONE)
_LEAST_APART = 0.1
# What a mirror at a price makes of each; the others are outlined themselves.
MIRRORED = {
    "inverse_head_and_shoulders": "head_and_shoulders",
    "double_bottom": "double_top",
    "descending_triangle": "ascending_triangle",
    "bear_flag": "bull_flag",
    "falling_wedge": "rising_wedge",
}


@dataclass(frozen=True, slots=True)
class Variation:
    """How far outlines stray from the textbook.

    Attributes:
        time: Standard deviation of turning points in time, as a share of the pattern.
        unevenness: Largest difference of highs (or lows) that should be equal, in heights of the pattern.
        touches: Fewest and most turning points of triangles and wedges.
        slope: Smallest and largest rise of a line that is not level, in heights.
        channel: Narrowest and widest flag, in heights.
        neck: Lowest and highest neckline below the top of reversals, in heights from their foot.
    """

    time: float
    unevenness: float
    touches: tuple[int, int]
    slope: tuple[float, float]
    channel: tuple[float, float]
    neck: tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """A pattern's turning points.

    Attributes:
        x: (points,) times, growing from 0 to 1.
        y: (points,) prices in heights of the pattern.
        upper: Level that closes the pattern above (top, head, neckline, last touch of a line), in heights.
        lower: Level that closes it below, in heights.
    """

    x: Floats
    y: Floats
    upper: float
    lower: float


def outline(name: str, rng: np.random.Generator, how: Variation) -> Outline:
    """Return a varied outline of a pattern that has one (gaps and "none" have none)."""
    base = MIRRORED.get(name, name)
    drawn = _OUTLINES[base](rng, how)
    if base == name:
        return drawn
    return Outline(drawn.x, 1.0 - drawn.y, 1.0 - drawn.lower, 1.0 - drawn.upper)


def _times(rng: np.random.Generator, times: Floats, how: Variation) -> Floats:
    inner = times[1:-1] + np.clip(rng.normal(0, how.time, len(times) - 2), -2 * how.time, 2 * how.time)
    return np.concatenate((times[:1], np.sort(inner), times[-1:]))


def _head_and_shoulders(rng: np.random.Generator, how: Variation) -> Outline:
    neck = rng.uniform(*how.neck)
    tilt = rng.uniform(-0.5, 0.5) * how.unevenness
    shoulder = neck + (1 - neck) * rng.uniform(0.42, 0.62)
    uneven = rng.uniform(-0.5, 0.5) * how.unevenness
    foot = neck - rng.uniform(0.12, 0.3)
    y = [
        foot,
        shoulder - uneven,
        neck - tilt,
        1.0,
        neck + tilt,
        shoulder + uneven,
        neck - rng.uniform(0.1, 0.22),
    ]
    x = _times(rng, np.array([0.0, 0.18, 0.34, 0.5, 0.66, 0.82, 1.0]), how)
    return Outline(x, np.array(y), 1.0, neck)


def _double_top(rng: np.random.Generator, how: Variation) -> Outline:
    neck = rng.uniform(*how.neck)
    uneven = rng.uniform(-0.5, 0.5) * how.unevenness
    first, second = 1.0 - max(uneven, 0.0), 1.0 + min(uneven, 0.0)
    y = [rng.uniform(0.0, 0.2) * neck, first, neck, second, neck - rng.uniform(0.05, 0.2)]
    x = _times(rng, np.array([0.0, 0.29, 0.51, 0.74, 1.0]), how)
    return Outline(x, np.array(y), 1.0, neck)


def _between_lines(
    rng: np.random.Generator,
    how: Variation,
    upper: tuple[float, float],
    lower: tuple[float, float],
    begins: float,
) -> Outline:
    """Swing between two lines (their prices at the beginning and at the end), from time `begins` on."""
    count = int(rng.integers(how.touches[0], how.touches[1] + 1))
    x = _times(rng, np.linspace(begins, 1.0, count + 1), how)
    share = (x - begins) / (1 - begins)
    high_first = bool(rng.random() < 0.5) or begins > 0
    at_upper = (np.arange(count + 1) % 2 == 0) == high_first
    lines = np.where(
        at_upper, upper[0] + (upper[1] - upper[0]) * share, lower[0] + (lower[1] - lower[0]) * share
    )
    y = lines + rng.uniform(-0.25, 0.25, count + 1) * how.unevenness
    highs, lows = y[at_upper], y[~at_upper]
    high, low = float(highs[-1]), float(lows[-1])
    if high - low < _LEAST_APART:  # a steep line's last touch may lie beyond the other's: take the one before
        high, low = (
            (high, float(lows[-2])) if y[-1] == lows[-1] and upper[1] > upper[0] else (float(highs[-2]), low)
        )
    return Outline(x, y, max(high, low), min(high, low))


def _ascending_triangle(rng: np.random.Generator, how: Variation) -> Outline:
    return _between_lines(rng, how, (1.0, 1.0), (0.0, rng.uniform(0.66, 0.82)), 0.0)


def _symmetric_triangle(rng: np.random.Generator, how: Variation) -> Outline:
    middle, half = rng.uniform(0.42, 0.58), rng.uniform(0.08, 0.15)
    return _between_lines(rng, how, (1.0, middle + half), (0.0, middle - half), 0.0)


def _rising_wedge(rng: np.random.Generator, how: Variation) -> Outline:
    rise = rng.uniform(*how.slope)
    end_width = rng.uniform(0.1, 0.18)
    return _between_lines(rng, how, (1.0 - rise, 1.0), (0.0, 1.0 - end_width), 0.0)


def _bull_flag(rng: np.random.Generator, how: Variation) -> Outline:
    pole = rng.uniform(0.2, 0.34)
    width, sinks = rng.uniform(*how.channel), rng.uniform(0.1, 0.26)
    channel = _between_lines(rng, how, (1.0, 1.0 - sinks), (1.0 - width, 1.0 - width - sinks), pole)
    x, y = np.concatenate(([0.0], channel.x)), np.concatenate(([0.0], channel.y))
    return Outline(x, y, channel.upper, channel.lower)


_OUTLINES: dict[str, Callable[[np.random.Generator, Variation], Outline]] = {
    "head_and_shoulders": _head_and_shoulders,
    "double_top": _double_top,
    "ascending_triangle": _ascending_triangle,
    "symmetric_triangle": _symmetric_triangle,
    "rising_wedge": _rising_wedge,
    "bull_flag": _bull_flag,
}
