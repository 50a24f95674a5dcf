"""Charts with the boxes of what is planted on them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from market.chart import BarColumns, Chart, ChartStyle, Geometry, draw
from model_export.chart_patterns import TRAINING, Family, PlantedSeries, plant
from model_export.chart_styles import draw_planted, random_options, random_symbol
from model_export.detector.layout import CLASSES
from model_export.pattern_shapes import NONE

Pixels = NDArray[np.uint8]
_DAY_NS = 86_400_000_000_000
_SMALLEST_PX, _LARGEST_PX = 280, 720
_JOINED = 0.25
_OWN_SIZE = 0.35
_BARE = 0.12


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A picture and the patterns on it.

    Attributes:
        pixels: (height, width, 3) uint8.
        boxes: (n, 4) float32 left, top, right, bottom in pixels; right and bottom lie outside.
        labels: (n,) int64 positions in CLASSES.
    """

    pixels: Pixels
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Planted:
    """Which bars a pattern takes."""

    pattern: str
    first_bar: int
    last_bar: int


def scene_of(bars: BarColumns, planted: list[Planted], chart: Chart) -> Scene:
    """Return the boxes of patterns: all of their bars, from their lowest low to their highest high.

    A gap's are its two bars, as people draw it: what lies between them alone would often be a line.
    """
    found = [(_box(bars, one, chart.geometry), CLASSES.index(one.pattern)) for one in planted]
    boxes = np.array([box for box, _ in found], np.float32).reshape(-1, 4)
    return Scene(chart.pixels, boxes, np.array([label for _, label in found], np.int64))


def plain_scene(rng: np.random.Generator, family: Family, pattern: str | None = None) -> Scene:
    """Return a chart as the family draws it: one pattern or none, 480 x 480 pixels, the readable style."""
    series = plant(rng, family, pattern)
    chart = draw_planted(rng, family, series, random_symbol(rng))
    return scene_of(series.bars, _planted(series), chart)


def varied_scene(rng: np.random.Generator, family: Family) -> Scene:
    """Return a chart of one series or of two in a row, now and then of another size or in the bare style."""
    series = plant(rng, family)
    bars, planted = series.bars, _planted(series)
    if rng.random() < _JOINED:
        bars, planted = join(rng, series, plant(rng, family))
        return scene_of(bars, planted, _draw(rng, family, bars))
    if rng.random() < _OWN_SIZE:
        return scene_of(bars, planted, _draw(rng, family, bars))
    return scene_of(bars, planted, draw_planted(rng, family, series, random_symbol(rng)))


def empty_scene(rng: np.random.Generator) -> Scene:
    """Return a picture on which there is nothing to find: one colour, noise, or a chart whose bars were taken away."""
    kind = int(rng.integers(3))
    if kind == 2:
        series = plant(rng, TRAINING)
        chart = draw_planted(rng, TRAINING, series, random_symbol(rng))
        pixels, pane = chart.pixels.copy(), chart.geometry.price
        pixels[pane.top : pane.bottom, pane.left : pane.right] = pixels[0, 0]
        return _nothing(pixels)
    height, width = (int(side) for side in rng.integers(_SMALLEST_PX, _LARGEST_PX + 1, 2))
    colour = rng.integers(0, 256, 3) if rng.random() < 0.5 else np.full(3, rng.choice((0, 255)))
    levels = np.broadcast_to(colour, (height, width, 3)).astype(np.float64)
    if kind == 1:
        levels = levels + rng.normal(0, rng.uniform(2, 60), levels.shape)
    return _nothing(np.clip(np.rint(levels), 0, 255).astype(np.uint8))


def _nothing(pixels: Pixels) -> Scene:
    return Scene(pixels, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))


def join(
    rng: np.random.Generator, first: PlantedSeries, second: PlantedSeries
) -> tuple[BarColumns, list[Planted]]:
    """Return two series one after the other, the second at the first's last close, higher or flatter than it was."""
    stretch = float(rng.uniform(0.5, 1.5)) * _height(first.bars) / _height(second.bars)

    def moved(prices: NDArray[np.float64]) -> NDArray[np.float64]:
        result: NDArray[np.float64] = first.bars.close[-1] * np.exp(
            stretch * np.log(prices / second.bars.open[0])
        )
        return result

    a, b = first.bars, second.bars
    later = a.start_ns[-1] + 7 * _DAY_NS - b.start_ns[0]
    joined = BarColumns(
        np.concatenate((a.start_ns, b.start_ns + later)),
        np.concatenate((a.end_ns, b.end_ns + later)),
        np.concatenate((a.open, moved(b.open))),
        np.concatenate((a.high, moved(b.high))),
        np.concatenate((a.low, moved(b.low))),
        np.concatenate((a.close, moved(b.close))),
        np.concatenate((a.volume, b.volume * (a.volume.mean() / max(float(b.volume.mean()), 1.0)))),
    )
    shifted = [Planted(p.pattern, p.first_bar + len(a), p.last_bar + len(a)) for p in _planted(second)]
    return joined, _planted(first) + shifted


def _height(bars: BarColumns) -> float:
    return float(np.log(bars.high.max() / bars.low.min()))


def _planted(series: PlantedSeries) -> list[Planted]:
    if series.pattern == NONE:
        return []
    return [Planted(series.pattern, series.first_bar, series.last_bar)]


def _draw(rng: np.random.Generator, family: Family, bars: BarColumns) -> Chart:
    """Draw in a style of the family, at a size of its own."""
    options = random_options(rng, family, random_symbol(rng))
    width, height = (int(side) for side in rng.integers(_SMALLEST_PX, _LARGEST_PX + 1, 2))
    options = replace(options, width_px=width, height_px=height)
    if rng.random() < _BARE / _OWN_SIZE:
        options = replace(options, style=ChartStyle.BARE)
    return draw(bars, options)


def _box(bars: BarColumns, one: Planted, geometry: Geometry) -> tuple[int, int, int, int]:
    inside = slice(one.first_bar, one.last_bar + 1)
    low, high = float(bars.low[inside].min()), float(bars.high[inside].max())
    box = geometry.box_of(one.first_bar, one.last_bar, low, high)
    return box.left, box.top, box.right, box.bottom
