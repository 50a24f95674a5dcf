"""The readable style's division of the picture: title, panes, axes. What has no room is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from market.chart.columns import BarColumns
from market.chart.font import HEIGHT_PX, text_width
from market.chart.geometry import Box, Geometry
from market.chart.options import ChartOptions, Mark
from market.chart.scales import Tick, Ticks, needed_decimals, number_text, round_ticks, short_text
from market.chart.series import volume_top

TAG_PX = 11
"""Rows of a tag with a price, at scale 1."""
_MARGIN = 6
_TITLE_LINES = ((220, 2), (120, 1))  # from this height on, in dots
_TIME_LINES = ((200, 2), (110, 1))
_LINE = HEIGHT_PX + 3
_CAPTION_FROM = 200
_CAPTION_GAP, _GAP = 13, 4
_PRICE_TICK_APART, _VOLUME_TICK_APART = 28, 18
_TIME_LABEL_APART = 46
_LABEL_PADDING = 12
_AXIS_SHARE = 3
_MARK_SHARE = 5
_VOLUME_SHARE = 5


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where everything goes. Lengths are pixels.

    Attributes:
        dot: Pixels per dot of the letters.
        geometry: Of the bars.
        plot: The price pane with its inner margins, where grid and marks are drawn.
        volume_plot: The volume pane with its inner margins; None without.
        axis_right: Where the texts of the price axis end; 0 without a price axis.
        title_lines: 0 to 2.
        time_lines: 0 to 2.
        captions: Whether the volume pane has its name above it.
        names: Whether marks have room for their names.
        price_ticks: Of the price axis.
        volume_ticks: Of the volume axis.
        volume_top: Volume at the upper edge of its pane.
        decimals: Of prices other than the ticks.
        most_time_labels: That have room side by side.
    """

    dot: int
    geometry: Geometry
    plot: Box
    volume_plot: Box | None
    axis_right: int
    title_lines: int
    time_lines: int
    captions: bool
    names: bool
    price_ticks: Ticks
    volume_ticks: tuple[Tick, ...]
    volume_top: float
    decimals: int
    most_time_labels: int


def lay_out(
    bars: BarColumns, options: ChartOptions, marks: Sequence[Mark], bottom_price: float, top_price: float
) -> Layout:
    """Divide the picture for these bars and this price axis."""
    dot, width, height = options.dot_px, options.width_px, options.height_px
    title_lines, time_lines = _lines(height // dot, _TITLE_LINES), _lines(height // dot, _TIME_LINES)
    top = (_LINE * title_lines + (5 if title_lines else 2)) * dot
    bottom = height - ((HEIGHT_PX + 2) * time_lines + (5 if time_lines else 2)) * dot
    captions = options.volume and height // dot >= _CAPTION_FROM
    volume_px = (bottom - top) // _VOLUME_SHARE if options.volume else 0
    price_bottom = bottom - volume_px - ((_CAPTION_GAP if captions else _GAP) * dot if options.volume else 0)
    ticks = round_ticks(
        max(bottom_price, 0.0), top_price, max((price_bottom - top) // (_PRICE_TICK_APART * dot), 1)
    )
    decimals = needed_decimals(bars.close, ticks.decimals)
    shown = [tick.text for tick in ticks.ticks]
    shown += [
        number_text(price, decimals) for price in (float(bars.close[-1]), *(mark.price for mark in marks))
    ]
    axis = max(text_width(text, dot) for text in shown) + _LABEL_PADDING * dot
    axis = axis if axis * _AXIS_SHARE <= width else 0
    left, right = (_MARGIN if axis else 2) * dot, width - (axis or 2 * dot)
    names_px = max((text_width(mark.kind.value.upper(), dot) + 6 * dot for mark in marks), default=0)
    names = bool(axis and names_px and names_px * _MARK_SHARE <= right - left)
    inner = (2 * dot, 4 * dot + (names_px if names else 0)) if axis else (dot, dot)
    columns = (left + inner[0], right - inner[1])
    geometry = Geometry(
        width,
        height,
        Box(columns[0], top, columns[1], price_bottom),
        Box(columns[0], bottom - volume_px, columns[1], bottom) if options.volume else None,
        len(bars),
        top_price,
        bottom_price,
    )
    most_volume = volume_top(bars, geometry)
    return Layout(
        dot=dot,
        geometry=geometry,
        plot=Box(left, top, right, price_bottom),
        volume_plot=Box(left, bottom - volume_px, right, bottom) if options.volume else None,
        axis_right=width if axis else 0,
        title_lines=title_lines,
        time_lines=time_lines,
        captions=captions,
        names=names,
        price_ticks=ticks,
        volume_ticks=_volume_ticks(most_volume, volume_px // (_VOLUME_TICK_APART * dot)),
        volume_top=most_volume,
        decimals=decimals,
        most_time_labels=max((right - left) // (_TIME_LABEL_APART * dot), 1),
    )


def _lines(height_dots: int, steps: Sequence[tuple[int, int]]) -> int:
    return next((lines for least, lines in steps if height_dots >= least), 0)


def _volume_ticks(most: float, count: int) -> tuple[Tick, ...]:
    if most <= 0 or count < 1:
        return ()
    ticks = round_ticks(0.0, most, count).ticks
    return tuple(Tick(tick.value, short_text(tick.value)) for tick in ticks if tick.value > 0)
