"""How closely bars follow the outline of each pattern: an objective check of what was planted.

A random walk now and then forms a wedge by accident, and a noisy head and shoulders may lie closer to a triangle than
to itself. Both would be wrong answers to learn from and to be examined on, so `chart_patterns` draws such series anew.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from market.chart import BarColumns
from model_export.pattern_shapes import OUTLINED, Floats, Variation, outline

MOST_MISFIT = 0.9
"""Of a planted pattern to its own outlines."""
LEAST_MISFIT = 1.15
"""Of a series without an outline to any."""
WIDE = Variation(
    time=0.024,
    unevenness=0.06,
    touches=(4, 7),
    slope=(0.36, 0.58),
    channel=(0.18, 0.32),
    neck=(0.3, 0.56),
)
"""As far as outlines stray."""
LEAST_BARS = 26
"""That a pattern with an outline takes."""
_SEED, _EACH = 0, 160
_POINTS = 48
_TAILS = (0, 1, 2, 3)
_SHARES = (0.5, 0.57, 0.64, 0.71, 0.78, 0.85, 0.9)
# One minus a correlation that counts as a misfit of 1: of the prices, and of what is left of them without their
# straight line. The second is what tells a wedge, which rises, from any other rise.
_UNIT, _UNIT_WITHOUT_LINE = 0.05, 0.2
_TINY = 1e-9


def misfits(bars: BarColumns) -> dict[str, float]:
    """Return for each pattern with an outline how far its closest outline is from the bars, 0 for not at all.

    Outlines may lie over any of the last bars that a pattern may take.
    """
    plain, bent = _bank()
    windows = _windows(bars)
    misfit = 1 - plain @ windows.T
    misfit_without_line = 1 - bent @ _without_line(windows).T
    worse = np.maximum(misfit / _UNIT, misfit_without_line / _UNIT_WITHOUT_LINE).min(1)
    best = worse.reshape(len(OUTLINED), _EACH).min(1)
    return {name: float(value) for name, value in zip(OUTLINED, best, strict=True)}


def shows(bars: BarColumns, name: str) -> bool:
    """Return whether bars show what was planted in them, and nothing else more closely."""
    found = misfits(bars)
    closest = min(found, key=lambda one: found[one])
    if name in OUTLINED:
        return closest == name and found[name] <= MOST_MISFIT
    return found[closest] >= LEAST_MISFIT


@cache
def _bank() -> tuple[Floats, Floats]:
    """Return (patterns * _EACH, _POINTS) outlines, each with a mean of 0 and a length of 1, and without their line."""
    rng = np.random.default_rng(_SEED)
    grid = np.linspace(0, 1, _POINTS)
    rows = []
    for name in OUTLINED:
        for _ in range(_EACH):
            drawn = outline(name, rng, WIDE)
            rows.append(np.interp(grid, drawn.x, drawn.y))
    plain = _normal(np.stack(rows))
    return plain, _without_line(plain)


def _windows(bars: BarColumns) -> Floats:
    """Return (windows, _POINTS) log prices of the last bars, each with a mean of 0 and a length of 1."""
    closes, count = np.log(bars.close), len(bars)
    grid = np.linspace(0, 1, _POINTS)
    rows = []
    for tail in _TAILS:
        last = count - 1 - tail
        for share in _SHARES:
            first = max(last + 1 - max(int(count * share), LEAST_BARS), 0)
            prices = np.concatenate(([np.log(bars.open[first])], closes[first : last + 1]))
            rows.append(np.interp(grid, np.linspace(0, 1, len(prices)), prices))
    return _normal(np.stack(rows))


def _normal(rows: Floats) -> Floats:
    centred = rows - rows.mean(1, keepdims=True)
    result: Floats = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), _TINY)
    return result


def _without_line(rows: Floats) -> Floats:
    line = np.linspace(-1, 1, _POINTS)
    line /= np.linalg.norm(line)
    return _normal(rows - (rows @ line)[:, None] * line)
