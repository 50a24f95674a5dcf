import math

import numpy as np
import pytest

from market.indicators import (
    average_true_range,
    log_returns,
    move_band_bps,
    realized_volatility,
    relative_strength_index,
    simple_returns,
    true_ranges,
)

# open, high, low, close, volume
WINDOW = np.array(
    [[10, 12, 9, 11, 1], [11, 13, 10, 12, 1], [15, 16, 14, 15, 1], [10, 11, 9, 10, 1]], dtype=np.float32
)


def test_true_ranges_include_the_jump_from_the_previous_close() -> None:
    assert true_ranges(WINDOW).tolist() == [3.0, 4.0, 6.0]


def test_the_average_true_range_is_the_mean_of_the_last_ones() -> None:
    assert average_true_range(WINDOW, 2) == 5.0
    assert average_true_range(WINDOW, 99) == pytest.approx(13 / 3)
    assert average_true_range(WINDOW[:1], 5) == 0.0


def test_returns_and_volatility_of_a_known_series() -> None:
    prices = np.array([100.0, 110.0, 99.0])
    assert simple_returns(prices) == pytest.approx([0.1, -0.1])
    assert log_returns(prices) == pytest.approx([math.log(1.1), math.log(0.9)])
    expected = math.sqrt((math.log(1.1) ** 2 + math.log(0.9) ** 2) / 2)
    assert realized_volatility(prices) == pytest.approx(expected)
    assert realized_volatility(prices[:1]) == 0.0


def test_the_band_is_half_a_sigma_over_the_square_root_of_the_horizon() -> None:
    sigma = realized_volatility(WINDOW[:, 3])
    assert move_band_bps(WINDOW, 4) == pytest.approx(0.5 * sigma * 2 * 1e4)


def test_the_strength_index_is_the_gains_share_of_the_last_moves() -> None:
    prices = np.array([50.0, 10.0, 13.0, 12.0, 12.0])
    assert relative_strength_index(prices, 3) == 75.0
    assert relative_strength_index(prices[-2:], 14) == 50.0
    assert relative_strength_index(prices[1:3], 14) == 100.0
    with pytest.raises(ValueError, match="period_bars"):
        relative_strength_index(prices, 0)


@pytest.mark.parametrize("prices", [[1.0, 0.0], [1.0, math.nan], [1.0, -1.0], [[1.0]]])
def test_prices_that_have_no_logarithm_are_refused(prices: list[float]) -> None:
    with pytest.raises(ValueError, match="prices"):
        log_returns(np.array(prices))


def test_wrong_shapes_and_periods_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(bars, 5\)"):
        true_ranges(np.ones((3, 4)))
    with pytest.raises(ValueError, match="period_bars"):
        average_true_range(WINDOW, 0)
    with pytest.raises(ValueError, match="horizon_bars"):
        move_band_bps(WINDOW, 0)
