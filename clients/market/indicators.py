"""Figures computed from bars. Arrays are float64 inside, whatever comes in.

A window is (bars, 5): open, high, low, close, volume, oldest first (`market.windows.COLUMNS`).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32] | NDArray[np.float64]

_HIGH, _LOW, _CLOSE = 1, 2, 3


def _prices(prices: Array) -> NDArray[np.float64]:
    values = np.asarray(prices, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"prices have shape {values.shape}; (bars,) is needed")
    if not np.all(np.isfinite(values) & (values > 0)):
        raise ValueError("prices must be finite and > 0")
    return values


def _window(window: Array) -> NDArray[np.float64]:
    values = np.asarray(window, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != 5:
        raise ValueError(f"the window has shape {values.shape}; (bars, 5) is needed")
    return values


def simple_returns(prices: Array) -> NDArray[np.float64]:
    """Return p[t] / p[t-1] - 1: (bars - 1,)."""
    values = _prices(prices)
    return values[1:] / values[:-1] - 1.0


def log_returns(prices: Array) -> NDArray[np.float64]:
    """Return ln(p[t] / p[t-1]): (bars - 1,)."""
    return np.diff(np.log(_prices(prices)))


def realized_volatility(prices: Array) -> float:
    """Return the root mean square of the log returns, per bar; 0 with fewer than two prices.

    The mean is not subtracted: over short bars it is noise far below the volatility.
    """
    returns = log_returns(prices)
    return math.sqrt(math.fsum((returns * returns).tolist()) / len(returns)) if len(returns) else 0.0


def true_ranges(window: Array) -> NDArray[np.float64]:
    """Return the largest of high-low, |high - previous close|, |low - previous close|: (bars - 1,).

    Source: J. Welles Wilder, New Concepts in Technical Trading Systems, 1978.
    """
    values = _window(window)
    high, low, before = values[1:, _HIGH], values[1:, _LOW], values[:-1, _CLOSE]
    result: NDArray[np.float64] = np.maximum(high, before) - np.minimum(low, before)
    return result


def average_true_range(window: Array, period_bars: int) -> float:
    """Return the plain mean of the last `period_bars` true ranges, in price units.

    A plain mean instead of Wilder's smoothing, so that the figure depends on the recorded window
    alone and can be computed again from it; 0 with fewer than two bars.
    """
    if period_bars <= 0:
        raise ValueError(f"period_bars is {period_bars}; a number > 0 is needed")
    ranges = true_ranges(window)[-period_bars:]
    return math.fsum(ranges.tolist()) / len(ranges) if len(ranges) else 0.0


def relative_strength_index(prices: Array, period_bars: int) -> float:
    """Return the gains' share of all moves over the last `period_bars` changes, 0 to 100; 50 without a move.

    Plain sums instead of Wilder's smoothing, for the same reason as in `average_true_range`.

    Source: J. Welles Wilder, New Concepts in Technical Trading Systems, 1978; with sums it is also known as
    Cutler's index.
    """
    if period_bars <= 0:
        raise ValueError(f"period_bars is {period_bars}; a number > 0 is needed")
    changes = np.diff(_prices(prices))[-period_bars:].tolist()
    gains = math.fsum(change for change in changes if change > 0)
    moves = math.fsum(abs(change) for change in changes)
    return 100.0 * gains / moves if moves else 50.0


def move_band_bps(window: Array, horizon_bars: int, band_sigmas: float = 0.5) -> float:
    """Return the half width of "flat" over the horizon, in basis points, as the models define it.

    `band_sigmas` x (volatility per bar, from the window's closes) x sqrt(horizon_bars).
    """
    if horizon_bars <= 0:
        raise ValueError(f"horizon_bars is {horizon_bars}; a number > 0 is needed")
    sigma = realized_volatility(_window(window)[:, _CLOSE])
    return band_sigmas * sigma * math.sqrt(horizon_bars) * 1e4
