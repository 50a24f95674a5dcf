"""Where moves between bars come from: a volatility process, or real daily returns, in shuffled blocks or in order."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Moves = Callable[[np.random.Generator, int], Floats]
"""Return (n,) moves with a standard deviation of about 1, in order."""

SAMPLE = Path(__file__).resolve().parents[2] / "servers/gateway_simulator/sample/daily_us_2012_2013.csv"
_BLOCK = 12
_MOST_SIGMAS = 5.0


def clustered_moves(rng: np.random.Generator, count: int) -> Floats:
    """Return moves whose volatility wanders and jumps: calm and busy stretches, fat tails."""
    wander = np.cumsum(rng.normal(0, 0.12, count))
    wander -= np.linspace(0, wander[-1], count)  # comes back
    busy = np.exp(np.clip(wander, -0.8, 0.8))
    moves = rng.standard_t(5, count) * np.sqrt(3 / 5) * busy
    bounded: Floats = np.clip(moves / np.sqrt(np.mean(busy**2)), -_MOST_SIGMAS, _MOST_SIGMAS)
    return bounded


def shuffled_real_moves(rng: np.random.Generator, count: int) -> Floats:
    """Return real daily returns in blocks of 12 days, each divided by its symbol's standard deviation.

    Of the sample session that ships with the project: AAPL, GOOG, IBM and MSFT, 2012-01 to 2013-03.
    """
    real = _sample_moves()
    blocks = -(-count // _BLOCK)
    starts = rng.integers(0, len(real) - _BLOCK, blocks)
    signs = rng.choice((-1.0, 1.0), blocks)
    rows = starts[:, None] + np.arange(_BLOCK)
    moves: Floats = (real[rows] * signs[:, None]).reshape(-1)[:count]
    return np.clip(moves, -_MOST_SIGMAS, _MOST_SIGMAS)


def real_moves(rng: np.random.Generator, count: int) -> Floats:
    """Return the same real daily returns in the order in which they happened, from any day on.

    Where a symbol's days end, the next symbol's follow.
    """
    real = _sample_moves()
    days = (int(rng.integers(len(real))) + np.arange(count)) % len(real)
    return np.clip(real[days], -_MOST_SIGMAS, _MOST_SIGMAS)


@cache
def _sample_moves() -> Floats:
    closes: dict[str, list[float]] = {}
    with SAMPLE.open(newline="") as file:
        for row in csv.DictReader(file):
            closes.setdefault(row["symbol"], []).append(float(row["close"]))
    parts = []
    for one in closes.values():
        returns = np.diff(np.log(one))
        parts.append((returns - returns.mean()) / returns.std())
    return np.concatenate(parts)


def pinned(moves: Floats, points: NDArray[np.int64], values: Floats) -> Floats:
    """Return a path that takes `values` at `points` and follows the moves between them.

    Args:
        moves: (steps,) in price units.
        points: (points,) steps, growing from 0 to len(moves).
        values: (points,) prices.

    Returns:
        (steps + 1,) prices.
    """
    free = np.concatenate(([0.0], np.cumsum(moves)))
    steps = np.arange(len(moves) + 1)
    path: Floats = free - np.interp(steps, points, free[points]) + np.interp(steps, points, values)
    return path
