"""Where things lie on a chart: from prices and bar numbers to pixels, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SUB_PX = 256
"""Parts of a pixel in which lines are placed."""
_FAR_PX = 1 << 22


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of pixels; right and bottom are the first ones outside.

    Attributes:
        left: First column.
        top: First row; row 0 is the uppermost.
        right: Column after the last one.
        bottom: Row after the last one.
    """

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top


@dataclass(frozen=True, slots=True)
class Geometry:
    """The mapping of one chart between pixels and what they show.

    Bar i of n stands around column `left + (2 i + 1) width // (2 n)` of the price pane. Prices grow
    linearly from the pane's last row to its first; a price lies on the row whose centre is nearest.

    Attributes:
        width_px: Of the picture.
        height_px: Of the picture.
        price: Where bars are drawn; their highs and lows never leave it.
        volume: Where volumes are drawn; None without.
        bar_count: Bars drawn, those before them for averages not counted.
        top_price: At the centre of the price pane's first row.
        bottom_price: At the centre of its last row.
    """

    width_px: int
    height_px: int
    price: Box
    volume: Box | None
    bar_count: int
    top_price: float
    bottom_price: float

    def row_of(self, price: float) -> int:
        """Return the row of a price; outside the price pane where the price is not shown."""
        scaled = (self.top_price - price) * (self.price.height - 1) / (self.top_price - self.bottom_price)
        return self.price.top + round(min(max(scaled, -_FAR_PX), _FAR_PX))

    def rows_of(self, prices: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the rows of prices, as `row_of`."""
        scaled = (self.top_price - prices) * (self.price.height - 1) / (self.top_price - self.bottom_price)
        rows: NDArray[np.int64] = np.rint(np.minimum(np.maximum(scaled, -_FAR_PX), _FAR_PX)).astype(np.int64)
        return rows + self.price.top

    def sub_rows_of(self, prices: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return distances from the picture's upper edge in 1/256 of a pixel."""
        span = (self.price.height - 1) * SUB_PX
        scaled = (self.top_price - prices) * span / (self.top_price - self.bottom_price)
        far = _FAR_PX * SUB_PX
        rows: NDArray[np.int64] = np.rint(np.minimum(np.maximum(scaled, -far), far)).astype(np.int64)
        return rows + (self.price.top * SUB_PX + SUB_PX // 2)

    def price_at(self, row: float) -> float:
        """Return the price at the centre of a row; rows outside the price pane are extrapolated."""
        share = (row - self.price.top) / (self.price.height - 1)
        return self.top_price - share * (self.top_price - self.bottom_price)

    def shows(self, price: float) -> bool:
        """Return whether a price lies on the chart's price axis."""
        return self.bottom_price <= price <= self.top_price

    def column_of(self, bar: int) -> int:
        """Return the middle column of a bar.

        Raises:
            ValueError: There is no such bar.
        """
        self._check_bar(bar)
        return self.price.left + (2 * bar + 1) * self.price.width // (2 * self.bar_count)

    def columns_of_bars(self) -> NDArray[np.int64]:
        """Return the middle columns of all bars: (bar_count,) int64; bars share columns where they must."""
        bars = np.arange(self.bar_count, dtype=np.int64)
        return self.price.left + (2 * bars + 1) * self.price.width // (2 * self.bar_count)

    def bar_at(self, column: int) -> int:
        """Return the bar at a column; beside the price pane the first or the last one."""
        bar = (2 * (column - self.price.left) + 1) * self.bar_count // (2 * self.price.width)
        return min(max(bar, 0), self.bar_count - 1)

    def box_of(self, first_bar: int, last_bar: int, low: float, high: float) -> Box:
        """Return the pixels of a piece of the chart, cut to the price pane.

        Args:
            first_bar: Number of its first bar.
            last_bar: Number of its last bar, included.
            low: Lowest price.
            high: Highest price.

        Raises:
            ValueError: There is no such bar, or first and last, low and high are swapped.
        """
        self._check_bar(first_bar)
        self._check_bar(last_bar)
        if first_bar > last_bar or not low <= high:
            raise ValueError(
                f"a box from bar {first_bar} to {last_bar}, price {low!r} to {high!r}: first and lowest come first"
            )
        pane, count = self.price, self.bar_count
        left = pane.left + first_bar * pane.width // count
        right = pane.left - (-(last_bar + 1) * pane.width // count)
        top = min(max(self.row_of(high), pane.top), pane.bottom - 1)
        bottom = min(max(self.row_of(low), pane.top), pane.bottom - 1)
        return Box(left, top, right, bottom + 1)

    def _check_bar(self, bar: int) -> None:
        if not 0 <= bar < self.bar_count:
            raise ValueError(f"bar {bar} is not on the chart, which has 0 to {self.bar_count - 1}")
