"""Average precision against cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from model_export.detector.average_precision import (
    Found,
    Hits,
    average_precision,
    hits_by_class,
    match,
    overlaps,
    summary,
)


def found(*rows: tuple[tuple[float, float, float, float], int, float]) -> Found:
    boxes = np.array([box for box, _, _ in rows], np.float64).reshape(-1, 4)
    return Found(
        boxes, np.array([label for _, label, _ in rows], np.int64), np.array([s for _, _, s in rows])
    )


BOX, BESIDE = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0)


def test_half_of_a_box_overlaps_it_by_half() -> None:
    halves = np.array([(0.0, 0.0, 10.0, 5.0), (0.0, 0.0, 10.0, 10.0), (10.0, 0.0, 20.0, 10.0)])
    assert overlaps(np.array([BOX]), halves)[0].tolist() == pytest.approx([0.5, 1.0, 0.0])


def test_a_box_is_found_once_and_by_the_surest() -> None:
    twice = found((BOX, 0, 0.4), (BOX, 0, 0.9), (BESIDE, 0, 0.8))
    assert match(twice, found((BOX, 0, 1.0))).tolist() == [False, True, False]


def test_a_box_of_another_class_or_of_too_little_overlap_is_wrong() -> None:
    truth = found((BOX, 0, 1.0))
    assert not match(found((BOX, 1, 0.9)), truth).any()
    assert not match(found(((0.0, 0.0, 10.0, 4.9), 0, 0.9)), truth).any()
    assert match(found(((0.0, 0.0, 10.0, 5.0), 0, 0.9)), truth).all()


def test_the_area_is_that_of_a_curve_drawn_by_hand() -> None:
    # By falling score: right, wrong, right, wrong; four to find.
    # Precision 1, 1/2, 2/3, 1/2 at recall 1/4, 1/4, 2/4, 2/4.
    hits = Hits(
        np.array([0.6, 0.9, 0.5, 0.8]),
        np.array([True, True, False, False]),
        np.zeros(4, np.int64),
        np.array([4]),
    )
    assert average_precision(hits) == pytest.approx(0.25 * 1 + 0.25 * 2 / 3)


def test_nothing_to_find_has_no_precision_and_nothing_found_has_none() -> None:
    nothing = Hits(np.zeros(0), np.zeros(0, bool), np.zeros(0, np.int64), np.array([0]))
    assert math.isnan(average_precision(nothing))
    missed = Hits(np.zeros(0), np.zeros(0, bool), np.zeros(0, np.int64), np.array([2]))
    assert average_precision(missed) == 0.0


def test_a_wrong_box_on_an_empty_chart_costs_precision() -> None:
    truth = [found((BOX, 0, 1.0)), found()]
    clean = hits_by_class([found((BOX, 0, 0.5)), found()], truth, 1)
    loud = hits_by_class([found((BOX, 0, 0.5)), found((BOX, 0, 0.9))], truth, 1)
    assert average_precision(clean[0]) == 1.0
    assert average_precision(loud[0]) == 0.5


def test_a_chart_that_counts_twice_is_as_good_as_two() -> None:
    truth = [found((BOX, 0, 1.0)), found((BESIDE, 0, 1.0))]
    said = [found((BOX, 0, 0.9), (BESIDE, 0, 0.7)), found((BOX, 0, 0.8))]
    twice = average_precision(hits_by_class([said[0], *said], [truth[0], *truth], 1)[0])
    assert average_precision(hits_by_class(said, truth, 1)[0], np.array([2, 1])) == pytest.approx(twice)


def test_the_interval_holds_the_value_and_classes_that_were_not_there_are_left_out() -> None:
    rng = np.random.default_rng(5)
    truth = [found((BOX, int(rng.integers(2)), 1.0)) for _ in range(60)]
    said = [found((BOX, int(t.labels[0]) if rng.random() < 0.7 else 1, float(rng.random()))) for t in truth]
    figures = summary(hits_by_class(said, truth, 3), ("a", "b", "never"), resamples=200)
    assert set(figures) == {"mean", "a", "b"}
    for one in figures.values():
        low, high = one["ci95"]
        assert low <= one["value"] <= high
        assert high - low > 0.01
