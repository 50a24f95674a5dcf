import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from similarity_server.outcomes import OutcomeStatistics, summarize


def summary(similarity: list[float], returns: list[float]) -> OutcomeStatistics:
    found = summarize(np.array(similarity), np.array(returns))
    assert found is not None
    return found


def test_the_figures_are_those_of_a_sum_by_hand() -> None:
    found = summary([0.9, 0.6, 0.3], [10.0, -5.0, 20.0])
    mean = (0.9 * 10 - 0.6 * 5 + 0.3 * 20) / 1.8
    assert found.neighbor_count == 3
    assert found.mean_return_bps == pytest.approx(mean)
    assert found.hit_rate == pytest.approx(1.2 / 1.8)
    spread = (0.9 * (10 - mean) ** 2 + 0.6 * (-5 - mean) ** 2 + 0.3 * (20 - mean) ** 2) / 1.8
    assert found.dispersion_bps == pytest.approx(spread**0.5)
    assert found.effective_count == pytest.approx(1.8**2 / (0.81 + 0.36 + 0.09))


def test_a_neighbour_that_points_away_does_not_count() -> None:
    assert summary([0.5, 0.0, -0.9], [10.0, -1000.0, -1000.0]) == OutcomeStatistics(1, 10.0, 1.0, 0.0, 1.0)


@pytest.mark.parametrize("similarity", [[], [0.0], [-0.5, 0.0]])
def test_without_a_neighbour_that_counts_there_are_no_figures(similarity: list[float]) -> None:
    assert summarize(np.array(similarity), np.ones(len(similarity))) is None


def test_a_return_of_zero_is_no_hit() -> None:
    assert summary([1.0, 1.0], [0.0, 1.0]).hit_rate == pytest.approx(0.5)


NEIGHBORS = st.lists(
    st.tuples(st.floats(-1.0, 1.0), st.floats(-10_000.0, 10_000.0)), min_size=1, max_size=256
)


@given(NEIGHBORS)
def test_the_figures_stay_within_their_bounds(neighbors: list[tuple[float, float]]) -> None:
    similarity, returns = (np.array(column) for column in zip(*neighbors, strict=True))
    found = summarize(similarity, returns)
    counting = similarity > 0
    if found is None:
        assert not counting.any()
        return
    used = returns[counting]
    slack = 1e-9 * (1 + np.abs(used).max())
    assert 1 <= found.neighbor_count <= counting.sum()
    assert used.min() - slack <= found.mean_return_bps <= used.max() + slack
    assert -1e-12 <= found.hit_rate <= 1 + 1e-12
    assert 0 <= found.dispersion_bps <= (used.max() - used.min()) / 2 + slack
    assert 1 - 1e-9 <= found.effective_count <= found.neighbor_count + 1e-9


@given(NEIGHBORS, st.floats(0.01, 1.0), st.randoms(use_true_random=False))
def test_neither_the_order_nor_the_scale_of_the_weights_matters(
    neighbors: list[tuple[float, float]], scale: float, random: object
) -> None:
    shuffled = list(neighbors)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first = summarize(*(np.array(column) for column in zip(*neighbors, strict=True)))
    scaled = [(scale * weight, value) for weight, value in shuffled]
    second = summarize(*(np.array(column) for column in zip(*scaled, strict=True)))
    if first is None or second is None or first.neighbor_count != second.neighbor_count:
        return  # the smallest weights vanish when they are scaled
    assert second.mean_return_bps == pytest.approx(first.mean_return_bps, rel=1e-6, abs=1e-6)
    assert second.dispersion_bps == pytest.approx(first.dispersion_bps, rel=1e-6, abs=1e-3)
    assert second.hit_rate == pytest.approx(first.hit_rate, abs=1e-9)
    assert second.effective_count == pytest.approx(first.effective_count, rel=1e-6)
