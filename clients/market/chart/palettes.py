"""Colours of the readable style."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from market.chart.canvas import Colour
from market.chart.options import MarkKind, Theme


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of one theme.

    Attributes:
        background: Of the picture.
        grid: Lines at round numbers.
        breaks: Lines where a day begins; dotted where time is missing.
        frame: Of the panes.
        text: Of axes.
        title: Of the symbol.
        rising: Bars that closed at or above their open.
        falling: Bars that closed below it.
        averages: In the order of the options.
        marks: Lines and tags.
        on_tag: Text on the colour of a mark or of the last price.
    """

    background: Colour
    grid: Colour
    breaks: Colour
    frame: Colour
    text: Colour
    title: Colour
    rising: Colour
    falling: Colour
    averages: tuple[Colour, ...]
    marks: Mapping[MarkKind, Colour]
    on_tag: Colour


PALETTES: Mapping[Theme, Palette] = {
    Theme.LIGHT: Palette(
        background=(255, 255, 255),
        grid=(234, 237, 242),
        breaks=(190, 198, 208),
        frame=(160, 168, 180),
        text=(72, 80, 92),
        title=(16, 20, 28),
        rising=(20, 150, 104),
        falling=(214, 58, 62),
        averages=((32, 98, 216), (226, 130, 8), (140, 66, 186), (92, 104, 120)),
        marks={
            MarkKind.BUY: (0, 106, 78),
            MarkKind.SELL: (170, 24, 60),
            MarkKind.STOP: (206, 20, 84),
            MarkKind.LIMIT: (24, 96, 180),
        },
        on_tag=(255, 255, 255),
    ),
    Theme.DARK: Palette(
        background=(18, 22, 30),
        grid=(36, 42, 54),
        breaks=(72, 82, 98),
        frame=(88, 98, 114),
        text=(164, 174, 188),
        title=(236, 240, 246),
        rising=(44, 186, 132),
        falling=(244, 84, 96),
        averages=((92, 156, 255), (248, 176, 64), (192, 134, 240), (150, 162, 180)),
        marks={
            MarkKind.BUY: (20, 126, 90),
            MarkKind.SELL: (190, 44, 74),
            MarkKind.STOP: (214, 40, 104),
            MarkKind.LIMIT: (44, 112, 196),
        },
        on_tag=(255, 255, 255),
    ),
}
