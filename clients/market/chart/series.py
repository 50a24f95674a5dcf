"""Bars, volumes and averages as rows and columns of pixels; shared by both styles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from market.chart.canvas import Canvas, Colour
from market.chart.columns import BarColumns, Floats, Ints
from market.chart.geometry import Box, Geometry
from market.chart.options import BarShape

_VOLUME_PARTS = 1 << 30
_FLAT = 1e-9
_FLAT_HALF = 0.005
_NARROW_SLOT_PX = 8
_WIDEST_SHARE = 24
_WIDEST_LEAST_PX = 9


@dataclass(frozen=True, slots=True, eq=False)
class Slots:
    """What stands in each column of a chart: one bar, or several merged where pixels are scarce.

    All arrays are (slots,) int64.

    Attributes:
        column: Middle column, growing.
        last_bar: The newest bar of each.
        open: Row of the first open; also high, low, close (the last one).
        falling: 1 where the last close lies below the first open, else 0.
        volume_px: Height of the volume, at least 1 where anything was traded.
        body_px: Width of candles and volumes; its middle, or the left of two, is the middle column.
        reach_px: Columns from the middle to the end of an OHLC bar's ticks.
    """

    column: Ints
    last_bar: Ints
    open: Ints
    high: Ints
    low: Ints
    close: Ints
    falling: Ints
    volume_px: Ints
    body_px: int
    reach_px: int


def price_range(bars: BarColumns) -> tuple[float, float]:
    """Return the lowest and the highest price; half a percent to either side of a price that never moves."""
    low, high = float(bars.low.min()), float(bars.high.max())
    if high - low > high * _FLAT:
        return low, high
    return low * (1 - _FLAT_HALF), high * (1 + _FLAT_HALF)


def body_px(slot_px: int, pane_px: int) -> int:
    """Return the width of candles: odd or 2, a gap between them, no giants where bars are few.

    Args:
        slot_px: Columns per bar, rounded down.
        pane_px: Columns of the pane.
    """
    most = slot_px - 1 if slot_px <= _NARROW_SLOT_PX else slot_px * 3 // 4
    width = min(most, max(pane_px // _WIDEST_SHARE, _WIDEST_LEAST_PX))
    return max(width, 1) if width <= 2 or width % 2 else width - 1


def slots_of(bars: BarColumns, geometry: Geometry) -> Slots:
    """Return what is drawn of the bars."""
    middle = geometry.columns_of_bars()
    slot_px = geometry.price.width // len(bars)
    body = body_px(slot_px, geometry.price.width)
    if slot_px:
        begins = last = np.arange(len(bars), dtype=np.int64)
        highs, lows = bars.high, bars.low
    else:
        begins = np.flatnonzero(np.concatenate(([True], middle[1:] > middle[:-1])))
        last = np.concatenate((begins[1:], [len(bars)])) - 1
        highs, lows = np.maximum.reduceat(bars.high, begins), np.minimum.reduceat(bars.low, begins)
    opened, closed = bars.open[begins], bars.close[last]
    rows = geometry.rows_of(np.stack((opened, highs, lows, closed)))
    return Slots(
        column=middle[begins],
        last_bar=last,
        open=rows[0],
        high=rows[1],
        low=rows[2],
        close=rows[3],
        falling=(closed < opened).astype(np.int64),
        volume_px=_volume_px(bars.volume, begins, geometry.volume),
        body_px=body,
        reach_px=max(min((slot_px - 1) // 2, body // 2 + 1), 0),
    )


def volume_top(bars: BarColumns, geometry: Geometry) -> float:
    """Return the volume that reaches the top of its pane; merged bars count together."""
    if geometry.price.width >= len(bars):
        return float(bars.volume.max())
    begins = np.flatnonzero(np.concatenate(([True], np.diff(geometry.columns_of_bars()) > 0)))
    parts, most = _volume_parts(bars.volume, begins)
    return float(int(parts.max()) / _VOLUME_PARTS * most)


def averages_of(closes: Floats, period_bars: int, warm_up_bars: int, geometry: Geometry) -> tuple[int, Ints]:
    """Return the first drawn bar that has an average, and the averages from there on.

    Computed on whole numbers of 1/256 pixel, so that no order of summing matters.

    Args:
        closes: Of all bars, those for warming up first.
        period_bars: Bars of the average.
        warm_up_bars: Bars that are not drawn.
        geometry: Of the chart.

    Returns:
        Its number, and distances from the picture's upper edge in 1/256 of a pixel, (bars - first,).
    """
    totals = np.concatenate(([0], np.cumsum(geometry.sub_rows_of(closes))))
    means = (totals[period_bars:] - totals[:-period_bars]) // period_bars
    before = warm_up_bars - (period_bars - 1)  # averages of bars that are not drawn
    return max(-before, 0), means[max(before, 0) :]


def draw_bars(
    canvas: Canvas,
    slots: Slots,
    shape: BarShape,
    line_px: int,
    bodies: Sequence[Colour],
    wicks: Sequence[Colour],
) -> None:
    """Draw the bars.

    Args:
        canvas: To draw on.
        slots: The bars.
        shape: Candles or OHLC bars.
        line_px: Width of wicks and of OHLC bars, odd.
        bodies: Colours of rising and falling candles or OHLC bars.
        wicks: Colours of rising and falling candles' wicks.
    """
    half = line_px // 2 if slots.body_px > line_px else 0
    stem, stem_px = slots.column - half, 2 * half + 1
    if shape is BarShape.CANDLES:
        canvas.fill_spans(stem, stem_px, slots.high, slots.low + 1, wicks, slots.falling)
        top, bottom = np.minimum(slots.open, slots.close), np.maximum(slots.open, slots.close) + 1
        canvas.fill_spans(_body_left(slots), slots.body_px, top, bottom, bodies, slots.falling)
        return
    canvas.fill_spans(stem, stem_px, slots.high, slots.low + 1, bodies, slots.falling)
    reach = slots.reach_px
    if reach:
        thick = np.minimum(stem_px, slots.low + 1 - np.maximum(slots.open, slots.close))
        left, right = slots.column - reach, slots.column + 1
        canvas.fill_spans(left, reach, slots.open, slots.open + thick, bodies, slots.falling)
        canvas.fill_spans(right, reach, slots.close, slots.close + thick, bodies, slots.falling)


def draw_volumes(canvas: Canvas, slots: Slots, pane: Box, colours: Sequence[Colour]) -> None:
    """Draw the volumes, standing on the last row of their pane."""
    bottom = np.full(len(slots.column), pane.bottom)
    canvas.fill_spans(
        _body_left(slots), slots.body_px, bottom - slots.volume_px, bottom, colours, slots.falling
    )


def _body_left(slots: Slots) -> Ints:
    return slots.column - (slots.body_px - 1) // 2


def _volume_parts(volume: Floats, begins: Ints) -> tuple[Ints, float]:
    most = float(volume.max())
    share = volume / most if most > 0 else volume
    whole = np.rint(share * _VOLUME_PARTS).astype(np.int64)
    parts: Ints = np.maximum(whole, volume > 0)
    return parts if len(begins) == len(volume) else np.add.reduceat(parts, begins), most


def _volume_px(volume: Floats, begins: Ints, pane: Box | None) -> Ints:
    if pane is None:
        return np.zeros(len(begins), dtype=np.int64)
    parts, _ = _volume_parts(volume, begins)
    highest = max(int(parts.max()), 1)
    height: Ints = (parts * pane.height + highest // 2) // highest
    return np.where(parts > 0, np.maximum(height, 1), 0)
