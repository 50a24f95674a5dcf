from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from market.chart import BarShape, ChartOptions, ChartStyle, Theme, draw
from market.chart.palettes import PALETTES
from market.events import Bar

S = 1_000_000_000
price = st.floats(min_value=1e-6, max_value=1e6)
near = st.floats(min_value=99.0, max_value=101.0)


@st.composite
def series(draw_: st.DrawFn) -> list[Bar]:
    """Bars with gaps, zero volumes, prices far apart, close together or all the same."""
    prices = draw_(st.sampled_from([price, near, st.just(42.0)]))
    start, bars = draw_(st.integers(0, 2_000_000_000)), []
    for _ in range(draw_(st.integers(2, 60))):
        low, opened, close, high = sorted(draw_(prices) for _ in range(4))
        if draw_(st.booleans()):
            opened, close = close, opened
        volume = draw_(st.one_of(st.just(0.0), st.floats(1e-6, 1e12)))
        bars.append(Bar(1, start * S, (start + 60) * S, opened, high, low, close, volume))
        start += draw_(st.sampled_from([60, 60, 60, 60, 600, 86_400]))
    return bars


options = st.builds(
    ChartOptions,
    width_px=st.integers(64, 320),
    height_px=st.integers(64, 320),
    style=st.sampled_from(ChartStyle),
    shape=st.sampled_from(BarShape),
    averages=st.sampled_from([(), (3,), (2, 10)]),
    volume=st.booleans(),
    theme=st.sampled_from(Theme),
    time_zone=st.sampled_from(["UTC", "America/New_York", "Asia/Kolkata"]),
    symbol=st.text(max_size=30),
)


@settings(max_examples=60)
@given(series(), options)
def test_any_bars_can_be_drawn_and_twice_the_same(bars: list[Bar], chosen: ChartOptions) -> None:
    first, second = draw(bars, chosen), draw(list(bars), chosen)
    assert first.pixels.shape == (chosen.height_px, chosen.width_px, 3)
    assert first.pixels.dtype == np.uint8
    assert first.pixels.flags["C_CONTIGUOUS"]
    assert first.geometry == second.geometry
    assert first.pixels.tobytes() == second.pixels.tobytes()


@settings(max_examples=60)
@given(series(), options)
def test_every_bar_lies_inside_its_pane_and_is_seen(bars: list[Bar], chosen: ChartOptions) -> None:
    chart = draw(bars, replace(chosen, averages=()))
    geometry, pane = chart.geometry, chart.geometry.price
    assert 0 <= pane.left < pane.right <= chosen.width_px
    assert 0 <= pane.top < pane.bottom <= chosen.height_px
    background = (0, 0, 0) if chosen.style is ChartStyle.BARE else PALETTES[chosen.theme].background
    for index, bar in enumerate(bars):
        column = geometry.column_of(index)
        assert pane.left <= column < pane.right
        high, low = geometry.row_of(bar.high), geometry.row_of(bar.low)
        assert pane.top <= high <= low < pane.bottom
        assert (chart.pixels[high : low + 1, column] != background).any(axis=1).all()


@settings(max_examples=60)
@given(series(), options, st.lists(price, min_size=2, max_size=20))
def test_pixels_and_prices_map_to_each_other_in_order(
    bars: list[Bar], chosen: ChartOptions, prices: list[float]
) -> None:
    geometry = draw(bars, chosen).geometry
    rows = geometry.rows_of(np.array(sorted(prices)))
    assert (np.diff(rows) <= 0).all()
    assert rows.tolist() == [geometry.row_of(each) for each in sorted(prices)]
    for row in range(geometry.price.top, geometry.price.bottom):
        assert geometry.row_of(geometry.price_at(row)) == row
    columns = [geometry.column_of(index) for index in range(len(bars))]
    assert columns == sorted(columns) == geometry.columns_of_bars().tolist()
    found = [geometry.bar_at(column) for column in range(chosen.width_px)]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (geometry.bar_at(-1), len(bars) - 1)
    if geometry.price.width >= len(bars):
        assert [geometry.bar_at(column) for column in columns] == list(range(len(bars)))
    box = geometry.box_of(0, len(bars) - 1, min(b.low for b in bars), max(b.high for b in bars))
    assert (box.left, box.right) == (geometry.price.left, geometry.price.right)
    assert geometry.price.top <= box.top < box.bottom <= geometry.price.bottom
    for index, bar in enumerate(bars):
        box = geometry.box_of(index, index, bar.low, bar.high)
        assert box.left <= columns[index] < box.right
        assert box.top == geometry.row_of(bar.high)


@settings(max_examples=40)
@given(series(), options, st.sampled_from([0.25, 2.0, 512.0]), st.sampled_from([0.5, 4.0]))
def test_the_bare_style_knows_no_units_and_no_time(
    bars: list[Bar], chosen: ChartOptions, factor: float, shares: float
) -> None:
    bare = replace(chosen, style=ChartStyle.BARE)
    other = [
        Bar(
            7, index * 9 * S, (index + 1) * 9 * S,
            bar.open * factor, bar.high * factor, bar.low * factor, bar.close * factor, bar.volume * shares,
        )
        for index, bar in enumerate(bars)
    ]  # fmt: skip
    whatever = replace(bare, symbol="Z", time_zone="UTC", theme=Theme.DARK, text_scale=4)
    assert np.array_equal(draw(bars, bare).pixels, draw(other, whatever).pixels)


@settings(max_examples=40)
@given(series(), options)
def test_averages_and_volumes_leave_the_bars_where_they_are(bars: list[Bar], chosen: ChartOptions) -> None:
    geometry = draw(bars, chosen).geometry
    assert draw(bars, replace(chosen, averages=(4,))).geometry == geometry
    still = [replace(bar, volume=0.0) for bar in bars]
    assert draw(still, chosen).geometry == geometry
