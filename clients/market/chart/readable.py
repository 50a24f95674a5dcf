"""The readable style: axes, dates, marks and a legend around the bars."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from market.chart import lettering
from market.chart.canvas import Canvas, blend
from market.chart.columns import BarColumns
from market.chart.geometry import Geometry
from market.chart.layout import Layout, lay_out
from market.chart.options import ChartOptions, Mark
from market.chart.palettes import PALETTES, Palette
from market.chart.series import Slots, averages_of, draw_bars, draw_volumes, price_range, slots_of
from market.chart.time_axis import time_axis, zone_of

_PADDING_SHARE = 0.04
_VOLUME_PERCENT = 50
_NARROW_WICK_PERCENT = 55
_AVERAGE_SUB_PX = 384
_THICK_FROM = 3


def draw_readable(
    bars: BarColumns, warm_up_bars: int, options: ChartOptions, marks: Sequence[Mark]
) -> tuple[Canvas, Geometry]:
    """Draw the bars after the first `warm_up_bars`."""
    drawn = bars.after(warm_up_bars)
    palette = PALETTES[options.theme]
    low, high = price_range(drawn)
    low, high = min([low, *(mark.price for mark in marks)]), max([high, *(mark.price for mark in marks)])
    padding = (high - low) * _PADDING_SHARE
    layout = lay_out(drawn, options, marks, low - padding, high + padding)
    times = time_axis(drawn, zone_of(options.time_zone), layout.most_time_labels)
    canvas = Canvas(options.width_px, options.height_px, palette.background)
    lettering.draw_grid(canvas, layout, times, palette)
    slots = slots_of(drawn, layout.geometry)
    if layout.geometry.volume is not None:
        paler = [blend(one, palette.background, _VOLUME_PERCENT) for one in (palette.rising, palette.falling)]
        draw_volumes(canvas, slots, layout.geometry.volume, paler)
    _draw_bars(canvas, slots, options, palette)
    known = _draw_averages(canvas, bars, warm_up_bars, slots, options, layout, palette)
    lettering.draw_frames(canvas, layout, palette)
    lettering.draw_marks(canvas, layout, drawn, marks, palette)
    lettering.draw_times(canvas, layout, times, palette)
    lettering.draw_title(canvas, layout, options, times, drawn, known, palette)
    return canvas, layout.geometry


def _draw_bars(canvas: Canvas, slots: Slots, options: ChartOptions, palette: Palette) -> None:
    bodies = (palette.rising, palette.falling)
    # Where a body is hardly wider than its wick, a paler wick keeps the two apart.
    narrow = slots.body_px <= 2
    wicks = [blend(one, palette.background, _NARROW_WICK_PERCENT) for one in bodies] if narrow else bodies
    line_px = 3 if options.dot_px >= _THICK_FROM else 1
    draw_bars(canvas, slots, options.shape, line_px, bodies, wicks)


def _draw_averages(
    canvas: Canvas,
    bars: BarColumns,
    warm_up_bars: int,
    slots: Slots,
    options: ChartOptions,
    layout: Layout,
    palette: Palette,
) -> list[lettering.LegendEntry]:
    """Draw the averages that have enough bars; return the legend's entries."""
    entries = []
    for period, colour in zip(options.averages, palette.averages, strict=False):
        first, rows = averages_of(bars.close, period, warm_up_bars, layout.geometry)
        kept = slots.last_bar >= first
        if not np.any(kept):
            continue
        at = slots.last_bar[kept] - first
        width = _AVERAGE_SUB_PX * options.dot_px
        canvas.soft_line(slots.column[kept], rows[at], width, colour, layout.plot)
        last = math.fsum(bars.close[-period:].tolist()) / period
        entries.append(lettering.LegendEntry(f"SMA {period}", last, colour))
    return entries
