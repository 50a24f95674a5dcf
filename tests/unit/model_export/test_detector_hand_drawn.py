"""Outlines that people drew, and which detections count for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from model_export.detector.average_precision import Found
from model_export.detector.hand_drawn import NAMES, as_matched, examine_hand_drawn
from model_export.detector.layout import CLASSES
from model_export.errors import DataError

Image = pytest.importorskip(
    "PIL.Image", reason="pillow is not installed: `make test EXTRAS=cpu,dev,export` brings it"
)


def found(*rows: tuple[str, float]) -> Found:
    boxes = np.tile([20.0, 10.0, 60.0, 50.0], (len(rows), 1))
    labels = np.array([CLASSES.index(name) for name, _ in rows], np.int64)
    return Found(boxes, labels, np.array([score for _, score in rows]))


class Always:
    """A detector that finds the same on every picture."""

    def __init__(self, what: Found) -> None:
        self.what = what

    def find(self, pixels: Any) -> Found:
        return self.what


def written(folder: Path, rows: str) -> Path:
    for kind in ("images", "labels"):
        (folder / "valid" / kind).mkdir(parents=True)
    Image.new("RGB", (100, 100)).save(folder / "valid/images/one.jpg")
    (folder / "valid/labels/one.txt").write_text(rows)
    return folder


def test_detections_count_for_the_class_that_theirs_is_part_of() -> None:
    matched = as_matched(found(("bear_flag", 0.9), ("gap_up", 0.8), ("symmetric_triangle", 0.7)))
    assert [NAMES[label] for label in matched.labels] == ["flag", "triangle"]
    assert matched.scores.tolist() == [0.9, 0.7]


def test_an_outline_is_found_by_a_box_around_it_and_unmatched_classes_are_left_out(tmp_path: Path) -> None:
    rows = "4 0.2 0.1 0.6 0.1 0.6 0.5 0.2 0.5\n0 0.1 0.1 0.2 0.1 0.2 0.2\n4 0.4 0.3 0.4 0.4\n"
    detector = cast(Any, Always(found(("bull_flag", 0.9))))
    figures = examine_hand_drawn(detector, written(tmp_path, rows))
    assert (figures["charts"], figures["boxes"]) == (1, 2)
    # The second flag is written as a box and lies in the same place: one of the two is found.
    assert figures["map50"]["value"] == 0.5


def test_a_malformed_row_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path, "4 0.2 0.1 0.6\n")
    with pytest.raises(DataError, match=r"one\.txt:1: an even number"):
        examine_hand_drawn(cast(Any, Always(found())), folder)
    with pytest.raises(DataError, match="no pictures"):
        examine_hand_drawn(cast(Any, Always(found())), tmp_path / "elsewhere")
