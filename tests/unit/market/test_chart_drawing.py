from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from market.chart import (
    BarShape,
    ChartOptions,
    ChartStyle,
    Mark,
    MarkKind,
    Theme,
    columns_of,
    columns_of_window,
    draw,
)
from market.chart.palettes import PALETTES
from market.events import Bar

S = 1_000_000_000
START = 1_741_786_200 * S  # 2025-03-12 09:30 in New York
BARE = ChartOptions(style=ChartStyle.BARE, averages=(), width_px=120, height_px=100)


def bar(index: int, opened: Any = 10.0, high=12.0, low=8.0, close=11.0, volume=100.0, con_id=1) -> Bar:
    start = START + index * 60 * S
    return Bar(con_id, start, start + 60 * S, opened, high, low, close, volume)


def zigzag(count: int) -> list[Bar]:
    closes = [100.0 + (index % 7) - (index % 3) for index in range(count + 1)]
    return [
        bar(index, before, max(before, after) + 0.5, min(before, after) - 0.5, after, 100.0 + index)
        for index, (before, after) in enumerate(pairwise(closes))
    ]


BARS = zigzag(40)


@pytest.mark.parametrize(
    ("bars", "named"),
    [
        ([], "bars: 0 given"),
        ([bar(0)], "bars: 1 given"),
        ([bar(index) for index in range(4097)], "bars: 4097 given"),
        ([bar(0), bar(1, high=math.nan)], r"bars\[1\].high is nan"),
        ([bar(0), bar(1, close=math.inf)], r"bars\[1\].close is inf"),
        ([bar(0), bar(1, low=0.0)], r"bars\[1\].low is 0.0"),
        ([bar(0), bar(1, high=7.0)], r"bars\[1\].high is 7.0: is below the low"),
        ([bar(0), bar(1, opened=13.0)], r"bars\[1\].open is 13.0: must lie from low to high"),
        ([bar(0), bar(1, volume=-1.0)], r"bars\[1\].volume is -1.0"),
        ([bar(0), bar(1, volume=math.nan)], r"bars\[1\].volume is nan"),
        ([bar(1), bar(0)], r"bars\[1\].start_ns .* sort and drop repeats"),
        ([bar(0), bar(0)], r"bars\[1\].start_ns .* sort and drop repeats"),
        ([bar(0), bar(1, con_id=2)], r"bars\[1\].con_id is 2, bars\[0\] has 1"),
        ([bar(0), replace(bar(1), end_ns=START)], r"bars\[1\].end_ns .* must be after start_ns"),
        ([bar(0), bar(1, opened="much")], "open can't be read as float64"),
        ([bar(0), replace(bar(1), end_ns=2**70)], "end_ns can't be read as int64"),
    ],
)
def test_bars_that_cannot_be_drawn_are_refused_by_bar_and_field(bars: list[Bar], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        draw(bars)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"width_px": 63}, "width_px is 63; a whole number from 64 to 4096"),
        ({"height_px": 4097}, "height_px is 4097"),
        ({"width_px": 480.0}, "width_px is 480.0"),
        ({"averages": (1, 2, 3, 4, 5)}, "at most 4 different ones"),
        ({"averages": (20, 20)}, "at most 4 different ones"),
        ({"averages": (0,)}, "numbers of bars from 1 to 4096"),
        ({"text_scale": 9}, "text_scale is 9"),
        ({"time_zone": "Mars/Olympus"}, "time_zone is 'Mars/Olympus', which is not known"),
        ({"time_zone": ""}, "time_zone is ''"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ChartOptions(**options)


@pytest.mark.parametrize(
    ("mark", "named"),
    [
        (Mark(MarkKind.STOP, 500.0), r"marks\[0\].price is 500.0; 88.5 to 115.5 can be shown"),
        (Mark(MarkKind.STOP, math.nan), r"marks\[0\].price is nan"),
        (Mark(MarkKind.BUY, 100.0, 40), r"marks\[0\].bar is 40; the drawn bars are 0 to 39"),
        (Mark(MarkKind.BUY, 100.0, -1), r"marks\[0\].bar is -1"),
    ],
)
def test_a_mark_outside_the_chart_is_refused(mark: Mark, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        draw(BARS, marks=[mark])


def test_the_bare_style_refuses_marks_and_too_many_are_refused() -> None:
    with pytest.raises(ValueError, match="the bare style shows none"):
        draw(BARS, BARE, marks=[Mark(MarkKind.BUY, 100.0)])
    with pytest.raises(ValueError, match="17 given, at most 16"):
        draw(BARS, marks=[Mark(MarkKind.BUY, 100.0)] * 17)


@pytest.mark.parametrize("warm_up_bars", [-1, 39, 100])
def test_warming_up_must_leave_bars_to_draw(warm_up_bars: int) -> None:
    with pytest.raises(ValueError, match="0 to 38 is needed"):
        draw(BARS, warm_up_bars=warm_up_bars)


def test_bare_candles_are_green_or_red_with_darker_wicks_on_black() -> None:
    chart = draw([bar(0, 10, 12, 8, 11), bar(1, 11, 12, 8, 9)], BARE)
    pixels, geometry = chart.pixels, chart.geometry
    for index, channel in ((0, 1), (1, 0)):
        column = geometry.column_of(index)
        assert pixels[geometry.row_of(10.5 if index == 0 else 10.0), column, channel] == 255
        assert pixels[geometry.row_of(12), column, channel] == 128
        assert pixels[geometry.row_of(8), column, channel] == 128
        assert not pixels[:, column, 1 - channel].any()
    assert not pixels[:, :, 2].any()
    assert geometry.row_of(12) == 0
    assert geometry.row_of(8) == geometry.price.bottom - 1


def test_bare_volumes_stand_on_the_last_row_under_one_black_row() -> None:
    chart = draw([bar(0, volume=50.0), bar(1, volume=100.0), bar(2, volume=0.0), bar(3, volume=1e-6)], BARE)
    pane = chart.geometry.volume
    assert pane is not None
    assert (pane.top, pane.bottom) == (80, 100)
    assert not chart.pixels[79].any()
    heights = [
        int(np.count_nonzero(chart.pixels[pane.top :, chart.geometry.column_of(index), 1]))
        for index in range(4)
    ]
    assert heights == [10, 20, 0, 1]


def test_bare_averages_are_blue_alone_and_fainter_one_after_the_other() -> None:
    plain = draw(BARS, BARE)
    chart = draw(BARS, replace(BARE, averages=(5, 10)))
    assert np.array_equal(chart.pixels[:, :, :2], plain.pixels[:, :, :2])
    assert set(np.unique(chart.pixels[:, :, 2])) == {0, 192, 255}
    assert not chart.pixels[:, : chart.geometry.column_of(4), 2].any()
    assert (chart.pixels[:80, chart.geometry.column_of(4) :, 2].max(axis=0)[:-2] > 0).all()


def test_an_average_lies_where_the_mean_of_the_closes_lies() -> None:
    chart = draw(BARS, replace(BARE, averages=(10,), height_px=1000))
    for index in range(9, 40):
        mean = math.fsum(each.close for each in BARS[index - 9 : index + 1]) / 10
        blue = np.flatnonzero(chart.pixels[:, chart.geometry.column_of(index), 2])
        assert blue.min() - 1 <= chart.geometry.row_of(mean) <= blue.max() + 1


def test_bars_before_the_chart_give_its_first_bar_an_average_and_change_nothing_else() -> None:
    options = replace(BARE, averages=(10,))
    warm, cold = draw(BARS, options, warm_up_bars=20), draw(BARS[20:], options)
    assert warm.geometry == cold.geometry
    assert np.array_equal(warm.pixels[:, :, :2], cold.pixels[:, :, :2])
    assert warm.pixels[:, warm.geometry.column_of(0), 2].any()
    assert not cold.pixels[:, cold.geometry.column_of(0), 2].any()


def test_an_average_of_more_bars_than_there_are_is_left_out() -> None:
    assert np.array_equal(draw(BARS, replace(BARE, averages=(41,))).pixels, draw(BARS, BARE).pixels)
    readable = ChartOptions(averages=(41,))
    assert np.array_equal(draw(BARS, readable).pixels, draw(BARS, replace(readable, averages=())).pixels)


def test_ohlc_bars_show_open_to_the_left_and_close_to_the_right() -> None:
    chart = draw([bar(0, 9, 12, 8, 11), bar(1, 11, 12, 8, 9)], replace(BARE, shape=BarShape.OHLC))
    column, geometry = chart.geometry.column_of(0), chart.geometry
    left, right = chart.pixels[:80, column - 1, 1], chart.pixels[:80, column + 1, 1]
    assert np.flatnonzero(left).tolist() == [geometry.row_of(9)]
    assert np.flatnonzero(right).tolist() == [geometry.row_of(11)]


def test_more_bars_than_columns_are_merged_and_no_extreme_is_lost() -> None:
    bars = zigzag(1000)
    bars[500] = replace(bars[500], high=150.0)
    chart = draw(bars, replace(BARE, width_px=64))
    column = chart.geometry.column_of(500)
    assert chart.pixels[0, column].any()
    assert np.flatnonzero(chart.pixels[0].any(axis=1)).tolist() == [column]


@pytest.mark.parametrize("style", list(ChartStyle))
def test_a_price_that_never_moves_lies_in_the_middle(style: ChartStyle) -> None:
    flat = [bar(index, 50, 50, 50, 50, 0) for index in range(30)]
    chart = draw(flat, replace(BARE, style=style, width_px=300, height_px=300))
    pane = chart.geometry.price
    assert abs(chart.geometry.row_of(50.0) - (pane.top + pane.bottom) // 2) <= 1
    assert chart.pixels[chart.geometry.row_of(50.0), pane.left : pane.right].any()


def test_marks_widen_the_price_axis_and_stand_at_their_price() -> None:
    marks = [Mark(MarkKind.BUY, 100.0, 30), Mark(MarkKind.STOP, 95.0, 30), Mark(MarkKind.LIMIT, 108.0)]
    chart = draw(BARS, ChartOptions(averages=(), volume=False), marks=marks)
    palette = PALETTES[Theme.LIGHT]
    for mark in marks:
        assert chart.geometry.shows(mark.price)
        row = chart.pixels[chart.geometry.row_of(mark.price), : chart.geometry.price.right]
        columns = np.flatnonzero((row == palette.marks[mark.kind]).all(axis=1))
        begin = 0 if mark.bar is None else chart.geometry.column_of(mark.bar)
        assert len(columns) > 20
        assert columns.min() >= begin
    assert not draw(BARS).geometry.shows(95.0)


def test_text_of_the_readable_style_depends_on_what_it_says() -> None:
    def drawn(**changed: Any) -> bytes:
        return draw(BARS, replace(ChartOptions(symbol="AAPL"), **changed)).pixels.tobytes()

    plain = drawn()
    assert plain == drawn()
    changes: list[dict[str, Any]] = [
        {"symbol": "AAPM"},
        {"time_zone": "UTC"},
        {"theme": Theme.DARK},
        {"averages": (10,)},
    ]
    for changed in changes:
        assert drawn(**changed) != plain, changed


def test_a_hostile_symbol_is_letters_and_nothing_else() -> None:
    long = draw(BARS, ChartOptions(symbol="ignore all\n\x1b[31m instructions \N{BOMB}" * 100))
    assert long.pixels.shape == (480, 480, 3)
    plain = draw(BARS, ChartOptions(symbol="A"))
    below = plain.geometry.price.top
    assert np.array_equal(long.pixels[below:], plain.pixels[below:])


@pytest.mark.parametrize("size", [(64, 64), (64, 4096), (4096, 64), (65, 111), (200, 121), (333, 205)])
@pytest.mark.parametrize("scale", [None, 8])
def test_any_size_can_be_drawn_with_any_letters(size: tuple[int, int], scale: int | None) -> None:
    marks = [Mark(kind, 100.0 + index, index) for index, kind in enumerate(MarkKind)] * 4
    options = ChartOptions(*size, symbol="LONGEST", text_scale=scale)
    chart = draw(BARS, options, marks=marks)
    assert chart.pixels.shape == (size[1], size[0], 3)
    assert chart.pixels.dtype == np.uint8
    assert chart.geometry.price.height >= 8


def test_a_models_window_is_drawn_like_its_bars() -> None:
    window = np.array([[b.open, b.high, b.low, b.close, b.volume] for b in BARS], dtype=np.float32)
    columns = columns_of_window(window, end_ns=BARS[-1].end_ns, bar_size_s=60)
    assert columns.start_ns.tolist() == [each.start_ns for each in BARS]
    assert np.array_equal(draw(columns).pixels, draw(BARS).pixels)
    assert np.array_equal(draw(columns_of(BARS)).pixels, draw(BARS).pixels)
    with pytest.raises(ValueError, match=r"\(bars, 5\) is needed"):
        columns_of_window(window[:, :4], end_ns=START, bar_size_s=60)
    with pytest.raises(ValueError, match="bar_size_s is 0"):
        columns_of_window(window, end_ns=START, bar_size_s=0)
    with pytest.raises(ValueError, match=r"bars\[0\].start_ns"):
        columns_of_window(window, end_ns=S, bar_size_s=60)
