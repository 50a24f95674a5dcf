"""Series with planted patterns: the pattern is there, where it says, and again from the same seed."""

import numpy as np
import pytest

from model_export.chart_patterns import FAMILIES, HELD_OUT, TRAINING, plant
from model_export.chart_styles import STYLES, draw_planted
from model_export.pattern_resemblance import LEAST_MISFIT, MOST_MISFIT, misfits, shows
from model_export.pattern_series import real_moves
from model_export.pattern_shapes import FLAGS, GAPS, NONE, PATTERN_NAMES
from vision_prompt import Pattern

COUNT = 40


def planted(family, name, count=COUNT):
    rng = np.random.default_rng((9, PATTERN_NAMES.index(name)))
    return [plant(rng, family, name) for _ in range(count)]


def columns(series):
    bars = series.bars
    return np.stack((bars.open, bars.high, bars.low, bars.close, bars.volume, bars.start_ns))


def test_the_patterns_are_those_that_an_answer_may_name():
    assert {*PATTERN_NAMES} - {NONE} == {str(one) for one in Pattern}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("name", PATTERN_NAMES)
def test_boxes_and_levels_lie_on_the_chart(family, name):
    for series in planted(family, name):
        bars = series.bars
        assert family.bars[0] <= len(bars) <= family.bars[1]
        assert 0 <= series.first_bar < series.last_bar < len(bars)
        assert bars.low.min() <= series.low_price < series.high_price <= bars.high.max()
        assert series.lower_level < series.upper_level
        height = series.high_price - series.low_price
        assert series.low_price - 0.15 * height <= series.lower_level
        assert series.upper_level <= series.high_price + 0.15 * height


@pytest.mark.parametrize("name", ["double_top", "head_and_shoulders", "bull_flag", "gap_up", NONE])
def test_the_same_seed_gives_the_same_bars_and_pixels(name):
    def made():
        rng = np.random.default_rng(3)
        series = plant(rng, HELD_OUT, name)
        return columns(series), draw_planted(rng, HELD_OUT, series, "ABC").pixels

    (bars, pixels), (same_bars, same_pixels) = made(), made()
    assert np.array_equal(bars, same_bars)
    assert np.array_equal(pixels, same_pixels)


def test_left_alone_every_pattern_comes():
    rng = np.random.default_rng(1)
    assert {plant(rng, TRAINING).pattern for _ in range(200)} == {*PATTERN_NAMES}


def turning_prices(series):
    """Return the closes at the outline's turning points, in heights of the pattern."""
    count = series.last_bar + 1 - series.first_bar
    at = series.first_bar + np.clip(np.rint(series.outline.x * count).astype(int) - 1, 0, count - 1)
    return np.log(series.bars.close[at]), series.outline


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("name", sorted({*PATTERN_NAMES} - {*GAPS, NONE}))
def test_bars_turn_where_the_outline_turns(family, name):
    for series in planted(family, name):
        prices, outline = turning_prices(series)
        slope, base = np.polyfit(outline.y, prices, 1)
        # A turning point may fall between two closes; on average they follow the outline closely.
        assert slope > 0
        assert np.mean(np.abs((prices - base) / slope - outline.y)) < 0.13


@pytest.mark.parametrize(("name", "sign"), [("double_top", 1), ("double_bottom", -1)])
def test_two_tops_are_equal_and_apart(name, sign):
    for series in planted(HELD_OUT, name):
        y = series.outline.y if sign > 0 else 1 - series.outline.y
        assert abs(y[1] - y[3]) <= HELD_OUT.variation.unevenness
        assert min(y[1], y[3]) - y[2] > 0.3
        assert y[4] < y[2]


@pytest.mark.parametrize(("name", "sign"), [("head_and_shoulders", 1), ("inverse_head_and_shoulders", -1)])
def test_the_head_stands_out_from_even_shoulders(name, sign):
    for series in planted(HELD_OUT, name):
        y = series.outline.y if sign > 0 else 1 - series.outline.y
        assert y[3] - max(y[1], y[5]) > 0.12
        assert abs(y[1] - y[5]) < 0.1
        assert min(y[1], y[5]) - max(y[2], y[4]) > 0.12


@pytest.mark.parametrize(
    ("name", "upper", "lower"),
    [
        ("ascending_triangle", 0, 1),
        ("descending_triangle", -1, 0),
        ("symmetric_triangle", -1, 1),
        ("rising_wedge", 1, 1),
        ("falling_wedge", -1, -1),
    ],
)
def test_lines_slope_as_the_name_says_and_close_in(name, upper, lower):
    for series in planted(TRAINING, name):
        x, y = series.outline.x, series.outline.y
        sides = [slice(0, None, 2), slice(1, None, 2)]
        high, low = sorted(sides, key=lambda side: -y[side].mean())
        (up_slope, up_base), (low_slope, low_base) = (
            np.polyfit(x[high], y[high], 1),
            np.polyfit(x[low], y[low], 1),
        )
        for slope, wanted in ((up_slope, upper), (low_slope, lower)):
            assert slope > 0.2 if wanted > 0 else slope < -0.2 if wanted < 0 else abs(slope) < 0.1
        assert up_slope + up_base - low_slope - low_base < 0.6 * (up_base - low_base)


@pytest.mark.parametrize("name", FLAGS)
def test_a_pole_comes_before_a_narrow_channel(name):
    for series in planted(HELD_OUT, name):
        y = series.outline.y if name == "bull_flag" else 1 - series.outline.y
        assert y[0] == 0.0
        assert y[1] > 0.9
        assert y[1:].min() > 0.35


@pytest.mark.parametrize("name", GAPS)
def test_a_gap_is_wider_than_bars_are_long(name):
    for series in planted(HELD_OUT, name):
        bars, at = series.bars, series.last_bar
        assert series.first_bar == at - 1
        gap = bars.low[at] - bars.high[at - 1] if name == "gap_up" else bars.low[at - 1] - bars.high[at]
        assert gap == pytest.approx(series.high_price - series.low_price)
        assert gap > 1.2 * np.median(bars.high - bars.low)


def test_other_series_have_no_such_gap():
    for name in {*PATTERN_NAMES} - {*GAPS}:
        for series in planted(TRAINING, name, 8):
            bars = series.bars
            gaps = np.maximum(bars.low[1:] - bars.high[:-1], bars.low[:-1] - bars.high[1:])
            assert gaps.max() <= 0


def test_the_families_share_no_style():
    training, held_out = STYLES[TRAINING.name], STYLES[HELD_OUT.name]
    assert not set(training.averages) & set(held_out.averages)
    assert not set(training.time_zones) & set(held_out.time_zones)


@pytest.mark.parametrize("name", sorted({*PATTERN_NAMES} - {*GAPS, NONE}))
def test_what_is_planted_follows_its_own_outline_most_closely(name):
    for series in planted(HELD_OUT, name, 12):
        found = misfits(series.bars)
        assert min(found, key=lambda one: found[one]) == name
        assert found[name] <= MOST_MISFIT


@pytest.mark.parametrize("name", [*GAPS, NONE])
def test_series_without_an_outline_follow_none_by_accident(name):
    for series in planted(TRAINING, name, 12):
        assert min(misfits(series.bars).values()) >= LEAST_MISFIT


def test_bars_of_another_pattern_do_not_show_this_one():
    for name, other in (("double_top", "double_bottom"), ("rising_wedge", NONE), (NONE, "rising_wedge")):
        assert not any(shows(series.bars, other) for series in planted(HELD_OUT, name, 6))


def test_real_moves_are_in_the_order_in_which_they_happened():
    days = real_moves(np.random.default_rng(5), 40)
    again = real_moves(np.random.default_rng(6), 5_000)
    assert any(np.array_equal(days, again[at : at + 40]) for at in range(4_900))
