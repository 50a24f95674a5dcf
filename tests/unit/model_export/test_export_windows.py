from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_export.contract import BAR_SIZES_S, HORIZON_BARS, SIGMA_FLOOR, WINDOW_BARS
from model_export.data import Series
from model_export.windows import (
    PURGE_BARS,
    SPLITS,
    Split,
    SplitDates,
    build_samples,
    classify,
    nasty_windows,
    split_of,
    thin,
    window_sigma,
)

DAY_NS = 86_400 * 10**9


def ns(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 10**9


@settings(deadline=None, max_examples=50)  # machines under load are slow, not wrong
@given(
    step_s=st.sampled_from([60, 300, 3600, 86400]),
    gaps=st.lists(st.integers(1, 400), min_size=PURGE_BARS + 1, max_size=PURGE_BARS * 4),
    edges=st.lists(st.integers(0, 60_000), min_size=3, max_size=3, unique=True),
)
def test_no_bar_is_in_two_splits_whatever_the_gaps_and_the_dates(
    step_s: int, gaps: list[int], edges: list[int]
) -> None:
    class Edges(SplitDates):
        def edges_ns(self) -> np.ndarray:
            return np.sort(np.asarray(edges, np.int64)) * step_s * 10**9

    start = np.cumsum(np.asarray(gaps, np.int64)) * step_s * 10**9
    end = start + step_s * 10**9
    last = np.arange(WINDOW_BARS - 1, len(start) - HORIZON_BARS)
    part = split_of(start[last - WINDOW_BARS + 1], end[last + HORIZON_BARS], Edges("", "", ""))
    bars_of = {
        split: {b for i in last[part == split] for b in range(i - WINDOW_BARS + 1, i + HORIZON_BARS + 1)}
        for split in (Split.TRAIN, Split.VALIDATION, Split.TEST)
    }
    for one, other in (
        (Split.TRAIN, Split.VALIDATION),
        (Split.VALIDATION, Split.TEST),
        (Split.TRAIN, Split.TEST),
    ):
        assert not bars_of[one] & bars_of[other]
        if bars_of[one] and bars_of[other]:
            assert min(last[part == other]) - max(last[part == one]) >= PURGE_BARS


@pytest.mark.parametrize("bar_size_s", BAR_SIZES_S)
def test_splits_follow_each_other_in_time(bar_size_s: int) -> None:
    edges = SPLITS[bar_size_s].edges_ns()
    assert (np.diff(edges) > 0).all()


def test_the_dates_of_the_sample_session_are_in_the_daily_test_split_alone() -> None:
    first, after = np.asarray([ns("2012-01-03")]), np.asarray([ns("2013-12-31")])
    assert split_of(first, after, SPLITS[86400])[0] == Split.TEST


def test_what_straddles_a_boundary_or_lies_behind_the_test_is_in_no_split() -> None:
    dates = SPLITS[86400]
    straddles = split_of(np.asarray([ns("2010-12-01")]), np.asarray([ns("2011-03-01")]), dates)
    behind = split_of(np.asarray([ns("2016-02-01")]), np.asarray([ns("2016-05-01")]), dates)
    assert straddles[0] == behind[0] == Split.NONE


def test_the_last_session_of_a_split_belongs_to_it() -> None:
    first, close = np.asarray([ns("2010-06-01")]), np.asarray([ns("2010-12-31T21:00:00")])
    assert split_of(first, close, SPLITS[86400])[0] == Split.TRAIN


def test_a_move_counts_beyond_half_a_sigma_times_the_root_of_the_horizon() -> None:
    sigma = np.full(5, 0.01)
    band = 0.5 * 0.01 * np.sqrt(6)
    forward = np.asarray([-band * 1.01, -band * 0.99, 0.0, band * 0.99, band * 1.01])
    assert classify(forward, sigma).tolist() == [0, 1, 1, 1, 2]


def test_sigma_has_a_floor_for_constant_prices() -> None:
    assert window_sigma(np.full((1, WINDOW_BARS), 100.0))[0] == SIGMA_FLOOR


def test_a_sample_is_the_window_and_the_close_six_bars_later(make_series: Callable[..., Series]) -> None:
    series = make_series(200)
    samples = build_samples([series], 86400, Split.TRAIN)
    assert len(samples) == 200 - WINDOW_BARS - HORIZON_BARS + 1
    row = 17
    last = row + WINDOW_BARS - 1
    assert np.array_equal(samples.windows(np.asarray([row]))[0], series.bars[row : row + WINDOW_BARS])
    expected = np.log(float(series.bars[last + 6, 3]) / float(series.bars[last, 3]))
    assert samples.forward[row] == pytest.approx(expected, abs=1e-6)
    assert samples.event_ns()[row] == series.end_ns[last]
    assert samples.outcome_ns()[row] == series.end_ns[last + 6]


def test_samples_of_another_bar_size_are_left_out(make_series: Callable[..., Series]) -> None:
    assert len(build_samples([make_series(200)], 3600, Split.TRAIN)) == 0


def test_samples_of_several_series_keep_to_their_own_bars(make_series: Callable[..., Series]) -> None:
    both = [make_series(100, seed=1), make_series(90, seed=2, symbol="BBB")]
    samples = build_samples(both, 86400, Split.TRAIN)
    for row in (0, len(samples) - 1):
        series = both[int(samples.series_id[row])]
        last = int(samples.last[row])
        assert np.array_equal(
            samples.windows(np.asarray([row]))[0], series.bars[last - WINDOW_BARS + 1 : last + 1]
        )


def test_thinning_keeps_the_ends_and_the_order(make_series: Callable[..., Series]) -> None:
    samples = build_samples([make_series(300)], 86400, Split.TRAIN)
    few = thin(samples, 10)
    assert len(few) == 10
    assert (few.last[0], few.last[-1]) == (samples.last[0], samples.last[-1])
    assert (np.diff(few.last) > 0).all()
    assert thin(samples, 10_000) is samples


def test_nasty_windows_are_always_the_same_finite_numbers() -> None:
    windows = nasty_windows()
    assert windows.shape == (10, WINDOW_BARS, 5)
    assert windows.dtype == np.float32
    assert np.isfinite(windows).all()
    assert np.array_equal(windows, nasty_windows())
