"""What the readable style writes and draws around the bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from market.chart.canvas import Canvas, Colour
from market.chart.columns import BarColumns
from market.chart.font import CAPITAL_PX, HEIGHT_PX, text_width
from market.chart.geometry import Box
from market.chart.layout import TAG_PX, Layout
from market.chart.options import ChartOptions, Mark, MarkKind
from market.chart.palettes import Palette
from market.chart.scales import number_text, spread
from market.chart.time_axis import TimeAxis, TimeLabel

_LABEL_GAP = 6
_ARROW = 9
_SWATCH = 12
_MAX_SYMBOL = 24
_BREAK_APART = 48
_BARS_PER_DAY = 4
_ENTRIES = (MarkKind.BUY, MarkKind.SELL)


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """An average's name, its last value, its colour."""

    name: str
    value: float
    colour: Colour


@dataclass(frozen=True, slots=True)
class _Tag:
    """A price with its colour on the price axis; `name` stands left of it."""

    row: int
    text: str
    colour: Colour
    name: str


def draw_grid(canvas: Canvas, layout: Layout, times: TimeAxis, palette: Palette) -> None:
    """Draw lines at round numbers, at labelled times, where days begin, and where time is missing."""
    dot, geometry, plot, volume = layout.dot, layout.geometry, layout.plot, layout.volume_plot
    panes = (plot,) if volume is None else (plot, volume)
    for label in times.labels:
        for pane in panes:
            _upright(canvas, geometry.column_of(label.bar), pane, palette.grid)
    for tick in layout.price_ticks.ticks:
        row = geometry.row_of(tick.value)
        if plot.top <= row < plot.bottom:
            canvas.fill(Box(plot.left, row, plot.right, row + 1), palette.grid)
    if volume is not None:
        for tick in layout.volume_ticks:
            row = _volume_row(layout, volume, tick.value)
            canvas.fill(Box(volume.left, row, volume.right, row + 1), palette.grid)
    # Many days side by side are told apart without shouting; days of a few bars not at all.
    crowded = len(times.breaks) * _BREAK_APART * dot > plot.width
    if len(times.breaks) * _BARS_PER_DAY <= geometry.bar_count:
        for bar in times.breaks:
            for pane in panes:
                _upright(canvas, _before(layout, bar), pane, palette.grid if crowded else palette.breaks)
    if len(times.pauses) * _BREAK_APART * dot <= plot.width:
        for bar in times.pauses:
            for pane in panes:
                column = _before(layout, bar)
                canvas.upright_dashes(column, pane.top, pane.bottom, palette.breaks, dot, 2 * dot)


def draw_frames(canvas: Canvas, layout: Layout, palette: Palette) -> None:
    """Draw the panes' edges, the numbers beside them, and the volume pane's name."""
    dot, plot, volume = layout.dot, layout.plot, layout.volume_plot
    for pane in (plot,) if volume is None else (plot, volume):
        canvas.fill(Box(pane.left, pane.bottom, pane.right, pane.bottom + 1), palette.frame)
        canvas.fill(Box(pane.right, pane.top, pane.right + 1, pane.bottom + 1), palette.frame)
    if volume is not None and layout.captions:
        top = volume.top - (HEIGHT_PX + 1) * dot
        canvas.text(plot.left + 2 * dot, top, "Volume", palette.text, dot)
    if layout.axis_right and volume is not None:
        for tick in layout.volume_ticks:
            _axis_text(canvas, layout, _volume_row(layout, volume, tick.value), tick.text, palette)


def draw_marks(
    canvas: Canvas, layout: Layout, bars: BarColumns, marks: Sequence[Mark], palette: Palette
) -> None:
    """Draw the marks, the last price, and the round prices that they leave room for."""
    dot, geometry, plot = layout.dot, layout.geometry, layout.plot
    last = float(bars.close[-1])
    colour = palette.falling if bars.close[-1] < bars.open[-1] else palette.rising
    tags = [_Tag(geometry.row_of(last), number_text(last, layout.decimals), colour, "")]
    canvas.dashes(tags[0].row, plot.left, plot.right, colour, dot, 2 * dot)
    for mark in marks:
        row, paint = geometry.row_of(mark.price), palette.marks[mark.kind]
        begin = plot.left if mark.bar is None else geometry.column_of(mark.bar)
        on, off = (8, 2) if mark.kind in _ENTRIES else (4, 3)
        canvas.dashes(row, begin, plot.right, paint, on * dot, off * dot)
        tags.append(_Tag(row, number_text(mark.price, layout.decimals), paint, mark.kind.value.upper()))
        if mark.kind in _ENTRIES and mark.bar is not None:
            up = mark.kind is MarkKind.BUY
            tip = float(bars.low[mark.bar] if up else bars.high[mark.bar])
            at = geometry.row_of(tip) + (3 * dot if up else -3 * dot)
            canvas.arrow(begin, at, _ARROW * dot, paint, plot, up=up)
    if not layout.axis_right:
        return
    tags.sort(key=lambda tag: tag.row)
    height, above = TAG_PX * dot, TAG_PX * dot // 2
    rows = spread(
        [tag.row - above for tag in tags], height + dot, plot.top - above, plot.bottom + above + dot
    )
    for tick in layout.price_ticks.ticks:
        row = geometry.row_of(tick.value)
        free = all(abs(row - above - taken) >= height for taken in rows)
        if plot.top <= row < plot.bottom and free:
            _axis_text(canvas, layout, row, tick.text, palette)
    for tag, row in zip(tags, rows, strict=True):
        _draw_tag(canvas, layout, tag, row, palette)


def draw_times(canvas: Canvas, layout: Layout, times: TimeAxis, palette: Palette) -> None:
    """Write times under the panes, and the dates or years that they belong to below them."""
    if not layout.time_lines:
        return
    dot, geometry = layout.dot, layout.geometry
    bottom = (layout.volume_plot or layout.plot).bottom
    first = {label.bar for label in times.context}
    taken: list[tuple[int, int]] = []
    for label in sorted(times.labels, key=lambda label: (label.bar not in first, label.bar)):
        width = text_width(label.text, dot)
        column = geometry.column_of(label.bar)
        left = min(max(column - width // 2, 0), geometry.width_px - width)
        if _free(taken, left, left + width, _LABEL_GAP * dot):
            taken.append((left, left + width))
            canvas.fill(Box(column, bottom, column + 1, bottom + 3 * dot), palette.frame)
            canvas.text(left, bottom + 4 * dot, label.text, palette.text, dot)
    if layout.time_lines > 1:
        _draw_context(canvas, layout, times.context, bottom + (4 + HEIGHT_PX + 1) * dot, palette)


def draw_title(
    canvas: Canvas,
    layout: Layout,
    options: ChartOptions,
    times: TimeAxis,
    bars: BarColumns,
    legend: Sequence[LegendEntry],
    palette: Palette,
) -> None:
    """Write symbol, bar size, period and time zone; below them the averages and the last bar."""
    dot = layout.dot
    right = options.width_px - 4 * dot
    if not layout.title_lines:
        return
    top, at = 4 * dot, layout.plot.left
    symbol = options.symbol
    symbol = symbol if len(symbol) <= _MAX_SYMBOL else f"{symbol[: _MAX_SYMBOL - 2]}.."
    if symbol:
        canvas.text(at, top, symbol, palette.title, dot, bold=True)
        at += text_width(symbol, dot, bold=True) + 8 * dot
    if at + text_width(times.bar_size, dot) <= right:
        canvas.text(at, top, times.bar_size, palette.title, dot)
        at += text_width(times.bar_size, dot) + 12 * dot
    for text in (f"{times.period} {options.time_zone}", options.time_zone):
        if at + text_width(text, dot) <= right:
            canvas.text(right - text_width(text, dot), top, text, palette.text, dot)
            break
    if layout.title_lines > 1:
        _draw_legend(canvas, layout, bars, legend, right, palette)


def _draw_legend(
    canvas: Canvas,
    layout: Layout,
    bars: BarColumns,
    legend: Sequence[LegendEntry],
    right: int,
    palette: Palette,
) -> None:
    dot, at = layout.dot, layout.plot.left
    top = (4 + HEIGHT_PX + 3) * dot
    middle = top + CAPITAL_PX * dot // 2
    for entry in legend:
        text = f"{entry.name} {number_text(entry.value, layout.decimals)}"
        width = text_width(text, dot)
        if at + (_SWATCH + 4) * dot + width > right:
            return
        canvas.fill(Box(at, middle - dot // 2, at + _SWATCH * dot, middle - dot // 2 + 2 * dot), entry.colour)
        canvas.text(at + (_SWATCH + 4) * dot, top, text, palette.text, dot)
        at += (_SWATCH + 4 + 12) * dot + width
    values = zip("OHLC", (bars.open, bars.high, bars.low, bars.close), strict=True)
    last = "  ".join(f"{name} {number_text(float(column[-1]), layout.decimals)}" for name, column in values)
    if at + text_width(last, dot) <= right:
        canvas.text(right - text_width(last, dot), top, last, palette.text, dot)


def _draw_context(
    canvas: Canvas, layout: Layout, context: Sequence[TimeLabel], top: int, palette: Palette
) -> None:
    dot, taken = layout.dot, -layout.geometry.width_px
    for label in context:
        left = layout.plot.left if label.bar == 0 else layout.geometry.column_of(label.bar)
        width = text_width(label.text, dot)
        if left >= taken + _LABEL_GAP * dot and left + width <= layout.geometry.width_px:
            canvas.text(left, top, label.text, palette.title, dot)
            taken = left + width


def _draw_tag(canvas: Canvas, layout: Layout, tag: _Tag, row: int, palette: Palette) -> None:
    dot, left = layout.dot, layout.plot.right + 1
    row = min(max(row, 0), layout.geometry.height_px - TAG_PX * dot)
    if tag.name and layout.names:
        name_left = left - text_width(tag.name, dot) - 6 * dot
        canvas.fill(Box(name_left, row, left, row + TAG_PX * dot), tag.colour)
        canvas.text(name_left + 3 * dot, row + 2 * dot, tag.name, palette.on_tag, dot)
    canvas.fill(Box(left, row, layout.axis_right - dot, row + TAG_PX * dot), tag.colour)
    canvas.text(left + 5 * dot, row + 2 * dot, tag.text, palette.on_tag, dot)


def _axis_text(canvas: Canvas, layout: Layout, row: int, text: str, palette: Palette) -> None:
    dot, left = layout.dot, layout.plot.right + 1
    canvas.fill(Box(left, row, left + 3 * dot, row + 1), palette.frame)
    top = min(max(row - CAPITAL_PX * dot // 2, 0), layout.geometry.height_px - HEIGHT_PX * dot)
    canvas.text(left + 5 * dot, top, text, palette.text, dot)


def _volume_row(layout: Layout, pane: Box, value: float) -> int:
    return max(pane.bottom - round(value * pane.height / layout.volume_top), pane.top)


def _before(layout: Layout, bar: int) -> int:
    return (layout.geometry.column_of(bar - 1) + layout.geometry.column_of(bar)) // 2


def _upright(canvas: Canvas, column: int, pane: Box, colour: Colour) -> None:
    canvas.fill(Box(column, pane.top, column + 1, pane.bottom), colour)


def _free(taken: Sequence[tuple[int, int]], left: int, right: int, gap: int) -> bool:
    return all(right + gap <= begin or end + gap <= left for begin, end in taken)
