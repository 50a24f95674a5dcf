"""Isotonic regression: what scikit-learn fits, where it is installed, and what can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from strategy.core.calibration import Calibration, brier, isotonic


def curve(stated: list[float], right: list[bool]) -> Calibration:
    x, y = isotonic(stated, right)
    return Calibration("", "", len(stated), tuple(x.tolist()), tuple(y.tolist()))


def test_violators_are_pooled() -> None:
    x, y = isotonic([0.1, 0.2, 0.3, 0.4], [False, True, False, True])
    assert x.tolist() == [0.1, 0.2, 0.3, 0.4]
    assert y.tolist() == [0.0, 0.5, 0.5, 1.0]


def test_equal_confidences_are_one_point() -> None:
    x, y = isotonic([0.7, 0.7, 0.7, 0.7], [True, False, True, True])
    assert (x.tolist(), y.tolist()) == ([0.7], [0.75])


def test_only_the_corners_of_a_plateau_are_kept() -> None:
    x, y = isotonic([0.1, 0.2, 0.3, 0.4], [True, False, True, False])
    assert (x.tolist(), y.tolist()) == ([0.1, 0.4], [0.5, 0.5])


def test_between_the_points_it_is_linear_and_beyond_them_level() -> None:
    made = Calibration("", "", 3, (0.2, 0.6), (0.1, 0.9))
    assert [made.probability(stated) for stated in (0.0, 0.2, 0.4, 0.6, 1.0)] == pytest.approx(
        [0.1, 0.1, 0.5, 0.9, 0.9]
    )


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_curve_of_scikit_learn(seed: int) -> None:
    regression = pytest.importorskip("sklearn.isotonic", reason="scikit-learn comes with the extra `export`")
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 400))
    stated = np.round(random.random(count), int(random.integers(1, 6)))
    right = random.random(count) < stated ** random.uniform(0.2, 3)
    ours = curve(stated.tolist(), right.tolist())
    theirs = regression.IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(stated, right)
    asked = np.concatenate((stated, np.linspace(0, 1, 101)))
    assert [ours.probability(one) for one in asked.tolist()] == pytest.approx(
        theirs.predict(asked).tolist(), abs=1e-12
    )


@pytest.mark.parametrize(
    ("stated", "right"), [([], []), ([0.5], []), ([1.1], [True]), ([float("nan")], [True])]
)
def test_what_can_not_be_fitted_is_refused(stated: list[float], right: list[bool]) -> None:
    with pytest.raises(ValueError, match="stated and right"):
        isotonic(stated, right)


@pytest.mark.parametrize(
    ("confidences", "probabilities"),
    [
        ((), ()),
        ((0.1, 0.1), (0.2, 0.3)),
        ((0.1, 0.2), (0.3, 0.2)),
        ((0.1,), (1.5,)),
        ((0.1, 0.2), (0.3,)),
        ((float("nan"),), (0.5,)),
    ],
)
def test_what_is_no_curve_is_refused(
    confidences: tuple[float, ...], probabilities: tuple[float, ...]
) -> None:
    with pytest.raises(ValueError, match="never fall"):
        Calibration("", "", 1, confidences, probabilities)


def test_a_coin_has_a_brier_score_of_a_quarter() -> None:
    assert brier([0.5, 0.5], [True, False]) == 0.25
    assert brier([1.0, 0.0], [True, False]) == 0.0
