"""Charts of bars as pixels: a numpy rasteriser, deterministic to the byte.

`draw` turns bars into an RGB picture and the `Geometry` that says which pixel shows which bar and price;
`encode_png` makes a file of it. Two styles: `ChartStyle.BARE` for models (its contract is the docstring of
`market.chart.bare`) and `ChartStyle.READABLE` for people and for models that read text.

Pixels come from whole numbers and from single float64 operations that IEEE 754 defines to the last bit;
no library's letters, lines or sums are involved. Dates follow the time zone rules that are installed.
"""

from market.chart.columns import BarColumns, columns_of, columns_of_window
from market.chart.drawing import Chart, draw
from market.chart.geometry import Box, Geometry
from market.chart.options import BarShape, ChartOptions, ChartStyle, Mark, MarkKind, Theme
from market.chart.patterns import FoundPattern, found_patterns
from market.chart.png import encode_png

__all__ = [
    "BarColumns",
    "BarShape",
    "Box",
    "Chart",
    "ChartOptions",
    "ChartStyle",
    "FoundPattern",
    "Geometry",
    "Mark",
    "MarkKind",
    "Theme",
    "columns_of",
    "columns_of_window",
    "draw",
    "encode_png",
    "found_patterns",
]
