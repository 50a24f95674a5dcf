"""What the exported graph finds, against what is there: generated charts, screenshots, hand-drawn outlines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from model_export.chart_patterns import Family
from model_export.detector.average_precision import Found, hits_by_class, match, summary
from model_export.detector.layout import CLASSES
from model_export.detector.scenes import Scene, plain_scene
from model_export.detector.served import ServedDetector
from model_export.pattern_shapes import PATTERN_NAMES

SURE_SCORE = 0.5
"""Where precision and recall are stated."""


def generated(family: Family, seed: int, count: int) -> Iterable[Scene]:
    """Yield charts of a family, each pattern and "none" in turn; every chart depends on its number alone."""
    for number in range(count):
        pattern = PATTERN_NAMES[number % len(PATTERN_NAMES)]
        yield plain_scene(np.random.default_rng((seed, number)), family, pattern)


def examine(detector: ServedDetector, scenes: Iterable[Scene]) -> dict[str, Any]:
    """Return mean average precision at half overlap, by class, with what a threshold of 0.5 gives."""
    found: list[Found] = []
    truth: list[Found] = []
    for scene in scenes:
        found.append(detector.find(scene.pixels))
        truth.append(truth_of(scene))
    return figures(found, truth, CLASSES)


def truth_of(scene: Scene) -> Found:
    """Return the boxes of a scene as things to be found."""
    return Found(scene.boxes.astype(np.float64), scene.labels, np.ones(len(scene.labels)))


def figures(found: Sequence[Found], truth: Sequence[Found], names: Sequence[str]) -> dict[str, Any]:
    """Return the figures of detections on charts."""
    average = summary(hits_by_class(found, truth, len(names)), names)
    return {
        "charts": len(truth),
        "boxes": sum(len(t.labels) for t in truth),
        "map50": average["mean"],
        "average_precision": {name: one for name, one in average.items() if name != "mean"},
        f"at_score_{SURE_SCORE}": at_score(found, truth),
    }


def at_score(
    found: Sequence[Found], truth: Sequence[Found], least: float = SURE_SCORE
) -> Mapping[str, float]:
    """Return precision, recall and wrong boxes per chart on which there is nothing, of boxes with some score."""
    sure = [one.surer_than(least) for one in found]
    right = sum(int(match(f, t).sum()) for f, t in zip(sure, truth, strict=True))
    said, there = sum(len(f.scores) for f in sure), sum(len(t.labels) for t in truth)
    empty = [len(f.scores) for f, t in zip(sure, truth, strict=True) if not len(t.labels)]
    result = {"precision": right / max(said, 1), "recall": right / max(there, 1)}
    if empty:
        result["wrong_boxes_per_empty_chart"] = sum(empty) / len(empty)
    return {name: round(value, 4) for name, value in result.items()}
