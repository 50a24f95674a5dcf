"""An RGB picture and what is drawn on it. Pixels are computed with whole numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from market.chart.columns import Ints
from market.chart.font import text_mask
from market.chart.geometry import SUB_PX, Box

Colour: TypeAlias = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""
_CHANNELS = 3
_SUB_BITS = SUB_PX.bit_length() - 1
Pixels: TypeAlias = NDArray[np.uint8]


def blend(upper: Colour, lower: Colour, percent: int) -> Colour:
    """Return `percent` of one colour over another."""
    red, green, blue = (
        (above * percent + below * (100 - percent)) // 100 for above, below in zip(upper, lower, strict=True)
    )
    return red, green, blue


class Canvas:
    """A picture of one colour to draw on.

    Args:
        width_px: Columns.
        height_px: Rows.
        background: Its colour.
    """

    def __init__(self, width_px: int, height_px: int, background: Colour) -> None:
        self.pixels: Pixels = np.empty((height_px, width_px, _CHANNELS), dtype=np.uint8)
        self._rows = self.pixels.reshape(height_px, width_px * _CHANNELS)
        self._paints: dict[Colour, Pixels] = {}
        self._rows[:] = self._paint(background)

    def fill(self, box: Box, colour: Colour) -> None:
        """Fill a rectangle that lies on the picture."""
        left, right = box.left * _CHANNELS, box.right * _CHANNELS
        self._rows[box.top : box.bottom, left:right] = self._paint(colour)[: right - left]

    def fill_spans(
        self, left: Ints, width_px: int, top: Ints, bottom: Ints, colours: Sequence[Colour], which: Ints
    ) -> None:
        """Fill many equally wide rectangles on the picture; `which` says which of the colours each has."""
        rows, width = self._rows, width_px * _CHANNELS
        paints = [self._paint(colour)[:width] for colour in colours]
        begin = left * _CHANNELS
        for at, first_row, last_row, paint in zip(
            begin.tolist(), top.tolist(), bottom.tolist(), which.tolist(), strict=True
        ):
            rows[first_row:last_row, at : at + width] = paints[paint]

    def dashes(self, row: int, left: int, right: int, colour: Colour, on: int, off: int) -> None:
        """Draw a dashed line along a row; the dashes begin at multiples of their period."""
        columns = np.arange(left, right)
        self.pixels[row, columns[columns % (on + off) < on]] = colour

    def upright_dashes(self, column: int, top: int, bottom: int, colour: Colour, on: int, off: int) -> None:
        """Draw a dashed line along a column."""
        rows = np.arange(top, bottom)
        self.pixels[rows[rows % (on + off) < on], column] = colour

    def text(self, left: int, top: int, text: str, colour: Colour, scale: int, *, bold: bool = False) -> None:
        """Write one line, its upper left corner at a pixel; what lies outside the picture is cut off."""
        mask = text_mask(text, scale, bold=bold, channels=_CHANNELS)
        left *= _CHANNELS
        height, width = self._rows.shape
        if top < 0 or left < 0 or top + mask.shape[0] > height or left + mask.shape[1] > width:
            mask = mask[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
            top, left = max(top, 0), max(left, 0)
        below = self._rows[top : top + mask.shape[0], left : left + mask.shape[1]]
        np.copyto(below, self._paint(colour)[: mask.shape[1]], where=mask)

    def arrow(self, column: int, row: int, size: int, colour: Colour, pane: Box, *, up: bool) -> None:
        """Draw a filled triangle with its tip at a pixel, cut to a pane."""
        for step in range(size):
            at = row + step if up else row - step
            if pane.top <= at < pane.bottom:
                left, right = max(column - step // 2, pane.left), min(column + step // 2 + 1, pane.right)
                self.pixels[at, left:right] = colour

    def soft_line(self, columns: Ints, sub_rows: Ints, width_sub_px: int, colour: Colour, pane: Box) -> None:
        """Draw a line through points with soft edges.

        Args:
            columns: Of the points, growing.
            sub_rows: Of the points, in 1/256 pixel from the upper edge.
            width_sub_px: Of the line, in 1/256 pixel.
            colour: Of the line.
            pane: What lies outside is cut off.
        """
        at, low, high = _outline(columns, sub_rows)
        half = width_sub_px // 2
        begins = np.maximum(low - half, pane.top * SUB_PX)
        ends = np.minimum(high + width_sub_px - half, pane.bottom * SUB_PX)
        rows, which = _ragged(begins // SUB_PX, (ends - 1) // SUB_PX + 1)
        cover = np.minimum(ends[which], (rows + 1) * SUB_PX) - np.maximum(begins[which], rows * SUB_PX)
        flat = self.pixels.reshape(-1, 3)
        where = rows * self.pixels.shape[1] + at[which]
        before = flat.take(where, axis=0).astype(np.int32)
        paint = np.array(colour, dtype=np.int32)
        flat[where] = before + (((paint - before) * cover.astype(np.int32)[:, np.newaxis]) >> _SUB_BITS)

    def channel_line(self, columns: Ints, sub_rows: Ints, channel: int, level: int, pane: Box) -> None:
        """Draw a line through points into one channel, without soft edges; brighter pixels stay."""
        at, low, high = _outline(columns, sub_rows)
        begins, ends = low // SUB_PX, high // SUB_PX + 1
        rows, which = _ragged(np.maximum(begins, pane.top), np.minimum(ends, pane.bottom))
        plane = self.pixels[:, :, channel]
        plane[rows, at[which]] = np.maximum(plane[rows, at[which]], level)

    def _paint(self, colour: Colour) -> Pixels:
        """Return one row of a colour."""
        paint = self._paints.get(colour)
        if paint is None:
            columns = np.empty((self.pixels.shape[1], _CHANNELS), dtype=np.uint8)
            columns[:] = colour
            paint = self._paints[colour] = columns.reshape(-1)
        return paint


def _outline(columns: Ints, sub_rows: Ints) -> tuple[Ints, Ints, Ints]:
    """Return every column that a line crosses, and the highest and lowest place of the line in it."""
    if len(columns) == 1:
        return columns, sub_rows, sub_rows
    doubled = 2 * columns
    halves = np.arange(doubled[0] - 1, doubled[-1] + 2)
    halves[0], halves[-1] = doubled[0], doubled[-1]
    run, rise = doubled[1:] - doubled[:-1], sub_rows[1:] - sub_rows[:-1]
    segment = np.repeat(np.arange(len(run)), run)
    segment = np.concatenate((segment[:1], segment, segment[-1:], segment[-1:]))
    line = sub_rows[segment] + rise[segment] * (halves - doubled[segment]) // run[segment]
    left, middle, right = line[:-2:2], line[1:-1:2], line[2::2]
    crossed = np.arange(columns[0], columns[-1] + 1)
    return crossed, np.minimum(np.minimum(left, middle), right), np.maximum(np.maximum(left, middle), right)


def _ragged(begins: Ints, ends: Ints) -> tuple[Ints, Ints]:
    """Return all whole numbers from each begin to before its end, and which of the pairs each is of."""
    lengths = np.maximum(ends - begins, 0)
    which = np.repeat(np.arange(len(lengths)), lengths)
    first = np.cumsum(lengths) - lengths
    return np.arange(len(which)) - first[which] + begins[which], which
