"""Drawing a chart: checks what comes in, then hands it to the style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from market.chart.bare import draw_bare
from market.chart.canvas import Pixels
from market.chart.columns import MIN_BARS, BarColumns, columns_of
from market.chart.geometry import Geometry
from market.chart.options import ChartOptions, ChartStyle, Mark, check_marks
from market.chart.readable import draw_readable
from market.chart.series import price_range
from market.events import Bar


@dataclass(frozen=True, slots=True, eq=False)
class Chart:
    """A drawn chart.

    Attributes:
        pixels: (height, width, 3) uint8, red, green, blue; row 0 is the uppermost.
        geometry: Which pixel shows which bar and price.
    """

    pixels: Pixels
    geometry: Geometry


def draw(
    bars: Sequence[Bar] | BarColumns,
    options: ChartOptions | None = None,
    *,
    marks: Sequence[Mark] = (),
    warm_up_bars: int = 0,
) -> Chart:
    """Draw bars of one instrument; the same input gives the same pixels on every machine.

    Args:
        bars: Oldest first, 2 to 4096.
        options: How; None: the readable style's defaults.
        marks: Prices to draw with their names; the readable style's only. They widen the price axis.
        warm_up_bars: How many of the first bars only feed the averages and are not drawn.

    Raises:
        ValueError: Something can't be drawn; the message names the field and the fix.
    """
    options = ChartOptions() if options is None else options
    columns = bars if isinstance(bars, BarColumns) else columns_of(bars)
    if not 0 <= warm_up_bars <= len(columns) - MIN_BARS:
        raise ValueError(
            f"warm_up_bars is {warm_up_bars}; of {len(columns)} bars {MIN_BARS} must be left to draw: "
            f"0 to {len(columns) - MIN_BARS} is needed"
        )
    low, high = price_range(columns.after(warm_up_bars))
    check_marks(marks, options.style, len(columns) - warm_up_bars, low, high)
    if options.style is ChartStyle.BARE:
        canvas, geometry = draw_bare(columns, warm_up_bars, options)
    else:
        canvas, geometry = draw_readable(columns, warm_up_bars, options, marks)
    return Chart(canvas.pixels, geometry)
