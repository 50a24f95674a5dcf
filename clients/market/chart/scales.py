"""Round numbers for axes, and numbers as text that is the same on every machine."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from market.chart.columns import Floats

MAX_DECIMALS = 12
# (size, its multiple of a power of ten, the power), growing.
_STEPS = tuple(
    (float(f"{digits}e{power}"), digits, power) for power in range(-MAX_DECIMALS, 19) for digits in (1, 2, 5)
)
_SIZES = tuple(size for size, _, _ in _STEPS)
_UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K"))
_FLOAT32_NOISE = 1e-7
_MOST_NOISE = 0.05


@dataclass(frozen=True, slots=True)
class Tick:
    """A round number on an axis."""

    value: float
    text: str


@dataclass(frozen=True, slots=True)
class Ticks:
    """The round numbers of an axis, growing, and how many decimals they need."""

    ticks: tuple[Tick, ...]
    decimals: int


def round_ticks(low: float, high: float, most: int) -> Ticks:
    """Return the multiples of 1, 2 or 5 times a power of ten from low to high, at most `most` or so.

    Args:
        low: Lower end of the axis; nothing below 0 is returned.
        high: Upper end, above it.
        most: Ticks wanted, >= 1.
    """
    index = min(bisect_left(_SIZES, (high - low) / most), len(_STEPS) - 1)
    size, digits, power = _STEPS[index]
    decimals = max(-power, 0)
    ticks = []
    for count in range(max(math.ceil(low / size), 0), math.floor(high / size) + 1):
        whole = count * digits
        value = whole * 10**power if power >= 0 else whole / 10**-power
        ticks.append(Tick(value, _decimal_text(whole * 10 ** max(power, 0), decimals)))
    return Ticks(tuple(ticks), decimals)


def number_text(value: float, decimals: int) -> str:
    """Return a number with a fixed count of decimals, rounded half to even."""
    return _decimal_text(round(value * 10**decimals), decimals)


def needed_decimals(prices: Floats, axis_decimals: int) -> int:
    """Return how many decimals show nine of ten of these prices as they are: the axis' or up to two more, at least two.

    What float32 adds to a price does not count.
    """
    first = max(axis_decimals, 2)
    for decimals in range(first, min(axis_decimals + 2, MAX_DECIMALS) + 1):
        scaled = prices * float(10**decimals)
        noise = np.minimum(scaled * _FLOAT32_NOISE, _MOST_NOISE)
        exact = int(np.count_nonzero(np.abs(scaled - np.rint(scaled)) <= noise))
        if exact * 10 >= len(prices) * 9:
            return decimals
    return max(first, min(axis_decimals + 2, MAX_DECIMALS))


def short_text(value: float) -> str:
    """Return a volume as people write it, to three digits: 950, 1.25M, 20B."""
    for unit, suffix in _UNITS:
        if value >= unit:
            return _three_digits(value / unit) + suffix
    return _three_digits(value)


def _three_digits(value: float) -> str:
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2
    text = number_text(value, decimals)
    return text.rstrip("0").rstrip(".") if decimals else text


def _decimal_text(whole: int, decimals: int) -> str:
    sign = "-" if whole < 0 else ""
    digits = str(abs(whole)).rjust(decimals + 1, "0")
    return f"{sign}{digits[:-decimals]}.{digits[-decimals:]}" if decimals else f"{sign}{digits}"


def spread(wanted: Sequence[int], height: int, top: int, bottom: int) -> list[int]:
    """Move labels apart so that none covers another, each as near to its place as they allow.

    Args:
        wanted: Upper edges of labels of `height` rows, growing.
        height: Of each.
        top: No label begins above.
        bottom: No label ends below, where there is room for all.
    """

    def first(total: int, count: int) -> int:
        return max(min(total // count, bottom - count * height), top)

    # Labels that touch move as one: (sum of where each wants the first of them, how many).
    groups: list[tuple[int, int]] = []
    for row in wanted:
        groups.append((row, 1))
        while len(groups) > 1 and first(*groups[-2]) + groups[-2][1] * height > first(*groups[-1]):
            (upper, above), (lower, below) = groups[-2:]
            groups[-2:] = [(upper + lower - above * below * height, above + below)]
    return [first(total, count) + index * height for total, count in groups for index in range(count)]
