"""What a chart shall look like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from market.chart.columns import MAX_BARS
from market.chart.time_axis import zone_of

MIN_SIDE_PX = 64
MAX_SIDE_PX = 4096
MAX_AVERAGES = 4
MAX_MARKS = 16
MAX_TEXT_SCALE = 8
_TEXT_SCALE_SIDE_PX = 1100


class ChartStyle(StrEnum):
    """Whom a chart is for."""

    BARE = "bare"
    """Models: no text, fixed geometry, a meaning per colour channel."""
    READABLE = "readable"
    """People, and models that read text."""


class BarShape(StrEnum):
    """How a bar is drawn."""

    CANDLES = "candles"
    OHLC = "ohlc"


class Theme(StrEnum):
    """Colours of the readable style."""

    LIGHT = "light"
    DARK = "dark"


class MarkKind(StrEnum):
    """What a price on a chart stands for."""

    BUY = "buy"
    SELL = "sell"
    STOP = "stop"
    LIMIT = "limit"


@dataclass(frozen=True, slots=True)
class Mark:
    """A price that is drawn as a line with its name, from a bar to the right edge.

    Attributes:
        kind: A buy or a sell also gets an arrow at its bar.
        price: In the bars' units; at most one height of the chart away from the bars.
        bar: Number of the drawn bar where the line begins; None: from the left edge, without an arrow.
    """

    kind: MarkKind
    price: float
    bar: int | None = None


@dataclass(frozen=True, slots=True)
class ChartOptions:
    """How to draw.

    Attributes:
        width_px: Of the picture, 64 to 4096.
        height_px: Of the picture, 64 to 4096.
        style: Bare or readable.
        shape: Candles or OHLC bars.
        averages: Simple moving averages of the closes: at most four different numbers of bars, > 0. One
            begins with the first bar that has so many bars up to it.
        volume: Whether the lower fifth shows volumes.
        theme: Of the readable style.
        time_zone: Of the readable style's dates and times, IANA name.
        symbol: For the readable style's title; what is not printable ASCII becomes a question mark.
        text_scale: Pixels per dot of the readable style's letters, 1 to 8; None: by size, 1 up to 1099
            pixels of the shorter side. Never more than one per 64 pixels of it.

    Raises:
        ValueError: A value is out of range; the message names it and the range.
    """

    width_px: int = 480
    height_px: int = 480
    style: ChartStyle = ChartStyle.READABLE
    shape: BarShape = BarShape.CANDLES
    averages: tuple[int, ...] = (20, 50)
    volume: bool = True
    theme: Theme = Theme.LIGHT
    time_zone: str = "America/New_York"
    symbol: str = ""
    text_scale: int | None = None

    def __post_init__(self) -> None:
        for name in ("width_px", "height_px"):
            side = getattr(self, name)
            if not isinstance(side, int) or not MIN_SIDE_PX <= side <= MAX_SIDE_PX:
                raise ValueError(
                    f"{name} is {side!r}; a whole number from {MIN_SIDE_PX} to {MAX_SIDE_PX} is needed"
                )
        bars = self.averages
        if len(bars) > MAX_AVERAGES or len(set(bars)) < len(bars):
            raise ValueError(f"averages are {bars!r}; at most {MAX_AVERAGES} different ones can be drawn")
        if not all(isinstance(count, int) and 1 <= count <= MAX_BARS for count in bars):
            raise ValueError(f"averages are {bars!r}; numbers of bars from 1 to {MAX_BARS} are needed")
        if self.text_scale is not None and not 1 <= self.text_scale <= MAX_TEXT_SCALE:
            raise ValueError(f"text_scale is {self.text_scale!r}; None or 1 to {MAX_TEXT_SCALE} is needed")
        zone_of(self.time_zone)

    @property
    def dot_px(self) -> int:
        """Pixels per dot of the letters."""
        side = min(self.width_px, self.height_px)
        return min(self.text_scale or 1 + side // _TEXT_SCALE_SIDE_PX, side // MIN_SIDE_PX)


def check_marks(marks: Sequence[Mark], style: ChartStyle, bar_count: int, low: float, high: float) -> None:
    """Refuse marks that can't be drawn.

    Args:
        marks: To draw.
        style: Of the chart.
        bar_count: Bars drawn.
        low: Lowest price of the bars, widened where they are flat.
        high: Highest price of the bars.

    Raises:
        ValueError: The message names mark, field and fix.
    """
    if marks and style is ChartStyle.BARE:
        raise ValueError("marks: the bare style shows none; leave them out or draw the readable style")
    if len(marks) > MAX_MARKS:
        raise ValueError(f"marks: {len(marks)} given, at most {MAX_MARKS} can be told apart; leave some out")
    lowest, highest = max(low - (high - low), 0.0), high + (high - low)
    for index, mark in enumerate(marks):
        if not (math.isfinite(mark.price) and lowest <= mark.price <= highest):
            raise ValueError(
                f"marks[{index}].price is {mark.price!r}; {lowest:.6g} to {highest:.6g} can be shown beside these "
                "bars: leave the mark out or draw more bars"
            )
        if mark.bar is not None and not 0 <= mark.bar < bar_count:
            raise ValueError(
                f"marks[{index}].bar is {mark.bar}; the drawn bars are 0 to {bar_count - 1}, or None for all"
            )
