"""The bare style: what a model is trained on, so that nothing here may change without a new model.

- The picture is black. No text, no axes, no margins: the first and the last column and row are used.
- Rows. With volume the lowest `height // 5` rows are the volumes', the row above them stays black, and the
  rest are prices; without it all rows are. The highest high lies on row 0, the lowest low on the last
  row of the prices, linear between; a price that never moves lies in the middle of +-0.5 %.
- Columns. Bar i of n stands around column `(2 i + 1) width // (2 n)`. With `slot = width // n` a body is
  `slot - 1` columns wide (`3 slot // 4` where the slot is wider than 8), at least 1, at most
  `max(width // 24, 9)`, and rounded down to an odd number where that is above 2; of a body of two columns
  the left one is that of the wick. A width that is a multiple of n gives evenly spaced bars. Where
  n exceeds the width, bars of one column are merged: first open, highest high, lowest low, last close,
  summed volume. Time that is missing takes no room.
- Channels. Green: bars that closed at or above their open. Red: those that closed below. Blue: moving
  averages, joined by lines, in front of nothing and behind nothing, 255 for the first, 192, 128 and 64 for
  the further ones, the brighter one where they cross; outside the price rows they are cut off.
- Levels of red and green: 255 in bodies, 128 in wicks, 255 in volumes (the most traded bar fills its
  rows; any volume above 0 has at least one). OHLC bars are 255 throughout: a stem of one column, a tick
  to the left at the open and to the right at the close.
"""

from __future__ import annotations

from market.chart.canvas import Canvas, Colour
from market.chart.columns import BarColumns
from market.chart.geometry import Box, Geometry
from market.chart.options import ChartOptions
from market.chart.series import averages_of, draw_bars, draw_volumes, price_range, slots_of

_BLACK: Colour = (0, 0, 0)
_BODIES: tuple[Colour, Colour] = ((0, 255, 0), (255, 0, 0))
_WICKS: tuple[Colour, Colour] = ((0, 128, 0), (128, 0, 0))
_BLUE = 2
_LEVELS = (255, 192, 128, 64)
_VOLUME_SHARE = 5


def draw_bare(bars: BarColumns, warm_up_bars: int, options: ChartOptions) -> tuple[Canvas, Geometry]:
    """Draw the bars after the first `warm_up_bars`."""
    drawn = bars.after(warm_up_bars)
    width, height = options.width_px, options.height_px
    volume = Box(0, height - height // _VOLUME_SHARE, width, height) if options.volume else None
    low, high = price_range(drawn)
    pane = Box(0, 0, width, height if volume is None else volume.top - 1)
    geometry = Geometry(width, height, pane, volume, len(drawn), high, low)
    canvas = Canvas(width, height, _BLACK)
    slots = slots_of(drawn, geometry)
    draw_bars(canvas, slots, options.shape, 1, _BODIES, _WICKS)
    if volume is not None:
        draw_volumes(canvas, slots, volume, _BODIES)
    for period, level in zip(options.averages, _LEVELS, strict=False):
        first, rows = averages_of(bars.close, period, warm_up_bars, geometry)
        kept = slots.last_bar >= first
        if kept.any():
            at = slots.last_bar[kept] - first
            canvas.channel_line(slots.column[kept], rows[at], _BLUE, level, pane)
    return canvas, geometry
