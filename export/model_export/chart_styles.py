"""How charts are drawn for training and for testing: two sets of styles that share none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from market.chart import BarShape, Chart, ChartOptions, Mark, MarkKind, Theme, draw
from model_export.chart_patterns import HELD_OUT, REAL, TRAINING, Family, PlantedSeries

SIDE_PX = 480
_LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


@dataclass(frozen=True, slots=True)
class Styles:
    """What a family's charts may look like; each is drawn with one of each."""

    themes: tuple[tuple[Theme, BarShape], ...]
    averages: tuple[tuple[int, ...], ...]
    volume: tuple[bool, ...]
    time_zones: tuple[str, ...]
    marks: int


STYLES: dict[str, Styles] = {
    TRAINING.name: Styles(
        themes=(
            (Theme.LIGHT, BarShape.CANDLES),
            (Theme.DARK, BarShape.CANDLES),
            (Theme.LIGHT, BarShape.OHLC),
        ),
        averages=((), (20, 50), (10,), (10, 20), (5,), (12, 26), (40,)),
        volume=(True, True, False),
        time_zones=("America/New_York", "UTC"),
        marks=1,
    ),
    HELD_OUT.name: Styles(
        themes=((Theme.LIGHT, BarShape.CANDLES), (Theme.DARK, BarShape.CANDLES), (Theme.DARK, BarShape.OHLC)),
        averages=((9,), (8, 34), (30,)),
        volume=(True, False),
        time_zones=("Europe/London", "Asia/Tokyo"),
        marks=2,
    ),
}
STYLES[REAL.name] = STYLES[HELD_OUT.name]


def random_symbol(rng: np.random.Generator) -> str:
    """Return one to five letters."""
    return "".join(rng.choice(_LETTERS, int(rng.integers(1, 6))))


def random_options(rng: np.random.Generator, family: Family, symbol: str) -> ChartOptions:
    """Return a way to draw charts of a family."""
    styles = STYLES[family.name]
    theme, shape = styles.themes[int(rng.integers(len(styles.themes)))]
    return ChartOptions(
        SIDE_PX,
        SIDE_PX,
        shape=shape,
        theme=theme,
        averages=styles.averages[int(rng.integers(len(styles.averages)))],
        volume=styles.volume[int(rng.integers(len(styles.volume)))],
        time_zone=styles.time_zones[int(rng.integers(len(styles.time_zones)))],
        symbol=symbol,
    )


def draw_planted(rng: np.random.Generator, family: Family, series: PlantedSeries, symbol: str) -> Chart:
    """Draw a series in a style of its family, now and then with an entry and a stop on it."""
    options = random_options(rng, family, symbol)
    marks: list[Mark] = []
    if rng.random() < 0.15:
        low, high = float(series.bars.low.min()), float(series.bars.high.max())
        kinds = (MarkKind.STOP, MarkKind.BUY) if rng.random() < 0.5 else (MarkKind.LIMIT, MarkKind.SELL)
        marks = [
            Mark(kind, float(rng.uniform(low, high)), int(rng.integers(len(series.bars))))
            for kind in kinds[: STYLES[family.name].marks]
        ]
    return draw(series.bars, options, marks=marks)
