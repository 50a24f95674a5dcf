from __future__ import annotations

import numpy as np
import pytest

from market.chart import Box, FoundPattern, Geometry, found_patterns

CLASSES = ("double_top", "gap_up")
PANE = Box(10, 20, 410, 320)
GEOMETRY = Geometry(480, 480, PANE, None, 80, 110.0, 90.0)


def found(box: tuple[float, float, float, float], **options: float) -> list[FoundPattern]:
    boxes = np.array([box, (0, 0, 0, 0)], np.float32)
    return found_patterns(
        boxes, np.array([0.75, 0.0], np.float32), np.array([0, -1], np.int32), CLASSES, GEOMETRY, **options
    )


def test_the_box_of_a_piece_of_the_chart_gives_its_bars_and_prices_back() -> None:
    box = GEOMETRY.box_of(12, 40, 95.0, 105.0)
    (one,) = found((box.left, box.top, box.right, box.bottom))
    assert (one.name, one.first_bar, one.last_bar) == ("double_top", 12, 40)
    half_a_row = 20.0 / 299 / 2
    assert one.low == pytest.approx(95.0, abs=1.01 * half_a_row)
    assert one.high == pytest.approx(105.0, abs=1.01 * half_a_row)
    assert (one.score, one.left, one.bottom) == (0.75, box.left, box.bottom)


def test_a_box_beside_the_pane_keeps_to_the_bars_there_are() -> None:
    (one,) = found((-5.0, 0.0, 470.0, 480.0))
    assert (one.first_bar, one.last_bar) == (0, 79)
    (thin,) = found((409.0, 50.0, 409.5, 60.0))
    assert thin.first_bar == thin.last_bar == 79


def test_what_the_detector_is_less_sure_of_is_left_out() -> None:
    box = (50.0, 50.0, 90.0, 90.0)
    assert len(found(box, least_score=0.7)) == 1
    assert not found(box, least_score=0.8)
    assert len(found(box, least_score=0.0)) == 1  # the empty row is none


def test_the_surest_comes_first() -> None:
    boxes = np.array([(20, 30, 60, 70), (100, 30, 160, 70)], np.float32)
    both = found_patterns(boxes, np.array([0.6, 0.9]), np.array([0, 1]), CLASSES, GEOMETRY)
    assert [one.name for one in both] == ["gap_up", "double_top"]


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    boxes, scores = np.zeros((2, 4)), np.ones(2)
    with pytest.raises(ValueError, match=r"boxes \(2, 4\), scores \(2,\) and labels \(3,\)"):
        found_patterns(boxes, scores, np.zeros(3, int), CLASSES, GEOMETRY)
    with pytest.raises(ValueError, match="label 7 has no name: there are 2 classes"):
        found_patterns(boxes, scores, np.array([7, 0]), CLASSES, GEOMETRY)
