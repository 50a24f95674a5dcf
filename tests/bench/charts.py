"""Drawing a chart with market.chart against mplfinance, turn by turn in one process."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.context import Bench, UnavailableError
from bench.figures import Figure, median, of_rounds, summary
from bench.in_process import InProcess
from market.chart import ChartOptions, ChartStyle, Mark, MarkKind, draw, encode_png
from market.events import Bar

_BARS = 120
_SIDE_PX = 480
_AVERAGES = (20, 50)
_BAR_S = 300
_NS_PER_S = 1_000_000_000
_START_S = 1_741_786_200  # 2025-03-12 09:30 in New York
_DPI = 100
_PER_TURN = 10
_WARM_UP = 3


async def measure(bench: Bench, local: InProcess) -> list[Figure]:
    """Time both on the same bars: pixels only; files and the other style in the details."""
    del local
    # Another window every time, as a strategy draws them: no text and no scale stays the same for long.
    turns = _WARM_UP + bench.size.charts
    series = _bars(_BARS + turns * _PER_TURN)
    windows = [series[index : index + _BARS] for index in range(turns * _PER_TURN)]
    options = ChartOptions(_SIDE_PX, _SIDE_PX, averages=_AVERAGES, symbol="CHRL")
    bare = ChartOptions(_SIDE_PX, _SIDE_PX, averages=_AVERAGES, style=ChartStyle.BARE)
    pixels = draw(windows[0], options).pixels
    ways: dict[str, Callable[[Sequence[Bar]], object]] = {
        "readable": lambda bars: draw(bars, options),
        "readable_with_marks": lambda bars: draw(bars, options, marks=_marks(bars)),
        "bare": lambda bars: draw(bars, bare),
        "png": lambda _: encode_png(pixels),
    }
    why_not, other = "", None
    try:
        other = _mplfinance(windows[0], bench.folder)
    except UnavailableError as reason:
        why_not = str(reason)
    times: dict[str, list[float]] = {name: [] for name in (*ways, "mplfinance")}
    for turn in range(turns):
        kept = turn >= _WARM_UP
        for name, way in ways.items():
            taken = [_timed(way, windows[turn * _PER_TURN + again]) for again in range(_PER_TURN)]
            times[name] += taken if kept else []
        if other is not None:
            taken = [_timed(other, windows[turn * _PER_TURN])]
            times["mplfinance"] += taken if kept else []
    ours = median(times["readable"])
    figures = [
        Figure(
            "chart_480_ms",
            ours,
            "ms",
            f"drawing {_BARS} bars, two averages and volumes with axes and dates at {_SIDE_PX}x{_SIDE_PX}, no PNG",
            {
                "machine": bench.machine,
                **{name: summary(found) for name, found in times.items()},
                "rounds": of_rounds(times["readable"], bench.size.rounds),
                "png_bytes": len(encode_png(pixels)),
            },
        )
    ]
    if other is None:
        bench.say(f"charts: chart_vs_mplfinance not measured: {why_not}")
        return figures
    theirs = median(times["mplfinance"])
    figures.append(
        Figure(
            "chart_vs_mplfinance",
            ours / theirs,
            "ratio",
            "the same chart drawn by us / by mplfinance, pixels in memory",
            {
                "machine": bench.machine,
                "ours_ms": ours,
                "mplfinance_ms": theirs,
                "mplfinance": metadata.version("mplfinance"),
                "matplotlib": metadata.version("matplotlib"),
            },
        )
    )
    return figures


def _marks(bars: Sequence[Bar]) -> list[Mark]:
    entry = bars[-20].close
    away = {MarkKind.BUY: 0.0, MarkKind.STOP: -0.4, MarkKind.LIMIT: 0.4}
    return [Mark(kind, entry + distance, _BARS - 20) for kind, distance in away.items()]


def _bars(count: int) -> list[Bar]:
    dice = np.random.default_rng(7)
    closes = 183 * np.exp(np.cumsum(dice.normal(0, 1e-3, count)))
    opens = np.concatenate(([183.0], closes[:-1]))
    highs = np.maximum(opens, closes) + np.abs(dice.normal(0, 0.08, count))
    lows = np.minimum(opens, closes) - np.abs(dice.normal(0, 0.08, count))
    columns: Sequence[NDArray[np.float64]] = (opens, highs, lows, closes, dice.uniform(4e3, 6e4, count))
    return [
        Bar(1, (start := (_START_S + index * _BAR_S) * _NS_PER_S), start + _BAR_S * _NS_PER_S, *values)
        for index, values in enumerate(
            zip(*(np.round(column, 2).tolist() for column in columns), strict=True)
        )
    ]


def _mplfinance(example: Sequence[Bar], folder: Path) -> Callable[[Sequence[Bar]], object]:
    """Return what draws bars with mplfinance: candles, averages and volumes, to pixels in memory."""
    os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))  # else it writes to the home folder
    try:
        import matplotlib as mpl
        import mplfinance
        import pandas as pd
    except ImportError as error:
        raise UnavailableError(f"mplfinance can't be loaded: {error}; it comes with the extra dev") from error
    mpl.use("Agg")
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # a weight that its font lacks
    from matplotlib import pyplot

    side = _SIDE_PX / _DPI

    def draw_it(bars: Sequence[Bar]) -> Any:
        frame = pd.DataFrame(
            {
                name: [getattr(bar, name.lower()) for bar in bars]
                for name in ("Open", "High", "Low", "Close", "Volume")
            },
            index=pd.DatetimeIndex([datetime.fromtimestamp(bar.start_ns // _NS_PER_S, UTC) for bar in bars]),
        )
        figure, _ = mplfinance.plot(
            frame,
            type="candle",
            mav=_AVERAGES,
            volume=True,
            style="yahoo",
            title="CHRL",
            figsize=(side, side),
            returnfig=True,
        )
        figure.set_dpi(_DPI)
        figure.canvas.draw()
        pixels = np.asarray(figure.canvas.buffer_rgba())[:, :, :3].copy()
        pyplot.close(figure)
        return pixels

    shape = draw_it(example).shape
    if shape != (_SIDE_PX, _SIDE_PX, 3):
        raise UnavailableError(f"mplfinance drew {shape} instead of {_SIDE_PX}x{_SIDE_PX} pixels")
    return draw_it


def _timed(way: Callable[[Sequence[Bar]], object], bars: Sequence[Bar]) -> float:
    began = time.perf_counter_ns()
    way(bars)
    return (time.perf_counter_ns() - began) / 1e6
