"""Mean average precision of detections, with the interval that the choice of charts leaves open.

A detection is right when its box overlaps a box of its class, not taken by a surer one, by at least half of their
union. Average precision is the area under the curve of precision over recall, precision made to fall only.

Source: Everingham et al., "The PASCAL Visual Object Classes Challenge", 2010 rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_OVERLAP = 0.5
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Boxes on one chart: detections, or the truth with scores of 1.

    Attributes:
        boxes: (n, 4) left, top, right, bottom.
        labels: (n,) classes.
        scores: (n,) 0 to 1.
    """

    boxes: Floats
    labels: NDArray[np.int64]
    scores: Floats

    def surer_than(self, least: float) -> Found:
        """Return those with at least some score."""
        kept = self.scores >= least
        return Found(self.boxes[kept], self.labels[kept], self.scores[kept])


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """Detections of one class over many charts, and how many there were to find.

    Attributes:
        scores: (n,) in any order.
        right: (n,) whether each is right.
        chart: (n,) on which chart each is.
        to_find: (charts,) boxes of the class on each chart.
    """

    scores: Floats
    right: NDArray[np.bool_]
    chart: NDArray[np.int64]
    to_find: NDArray[np.int64]


def overlaps(a: Floats, b: Floats) -> Floats:
    """Return (n, m) intersections over unions of (n, 4) and (m, 4) boxes."""
    inner = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    shared = np.clip(inner, 0, None).prod(2)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).prod(1) for box in (a, b))
    union = area_a[:, None] + area_b[None, :] - shared
    result: Floats = shared / np.maximum(union, 1e-12)
    return result


def match(found: Found, truth: Found, least: float = LEAST_OVERLAP) -> NDArray[np.bool_]:
    """Return (n,) which detections of one chart are right; each box is found once, by the surest."""
    right = np.zeros(len(found.scores), bool)
    taken = np.zeros(len(truth.labels), bool)
    shared = overlaps(found.boxes.astype(np.float64), truth.boxes.astype(np.float64))
    for one in np.argsort(-found.scores, kind="stable"):
        open_boxes = ~taken & (truth.labels == found.labels[one]) & (shared[one] >= least)
        if open_boxes.any():
            taken[int(np.argmax(np.where(open_boxes, shared[one], -1.0)))] = True
            right[one] = True
    return right


def hits_by_class(found: Sequence[Found], truth: Sequence[Found], classes: int) -> list[Hits]:
    """Return for each class what was found on all charts."""
    right = [match(f, t) for f, t in zip(found, truth, strict=True)]
    chart = np.repeat(np.arange(len(found)), [len(f.scores) for f in found])
    scores = np.concatenate([f.scores for f in found]) if found else np.zeros(0)
    labels = np.concatenate([f.labels for f in found]) if found else np.zeros(0, np.int64)
    flat = np.concatenate(right) if right else np.zeros(0, bool)
    result = []
    for label in range(classes):
        mine = labels == label
        to_find = np.array([int((t.labels == label).sum()) for t in truth], np.int64)
        result.append(Hits(scores[mine].astype(np.float64), flat[mine], chart[mine], to_find))
    return result


def average_precision(hits: Hits, weights: NDArray[np.int64] | None = None) -> float:
    """Return the average precision of one class; NaN where there is nothing to find.

    Args:
        hits: What was found.
        weights: (charts,) how often each chart counts; None: once.
    """
    weights = np.ones(len(hits.to_find), np.int64) if weights is None else weights
    total = int((hits.to_find * weights).sum())
    if total == 0:
        return float("nan")
    order = np.argsort(-hits.scores, kind="stable")
    times = weights[hits.chart[order]]
    right = np.cumsum(hits.right[order] * times)
    seen = np.cumsum(times)
    precision = np.where(seen > 0, right / np.maximum(seen, 1), 1.0)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    gained = np.diff(np.concatenate(([0], right))) / total
    return float((falling * gained).sum())


def summary(
    hits: Sequence[Hits], names: Sequence[str], *, resamples: int = 1000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Return the average precision of each class that there was, and their mean, with 95% intervals over charts.

    Args:
        hits: Of each class.
        names: Of the classes.
        resamples: Bootstrap draws of charts.
        seed: Of the draws.
    """
    charts = len(hits[0].to_find)
    present = [i for i, one in enumerate(hits) if one.to_find.sum() > 0]
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(charts, np.full(charts, 1 / charts), resamples)
    drawn = np.array([[average_precision(hits[i], draw) for i in present] for draw in draws])
    values = [average_precision(hits[i]) for i in present]
    result: dict[str, dict[str, Any]] = {"mean": _figure(float(np.mean(values)), np.nanmean(drawn, axis=1))}
    for column, i in enumerate(present):
        one = _figure(values[column], drawn[:, column])
        result[names[i]] = {**one, "boxes": int(hits[i].to_find.sum())}
    return result


def _figure(value: float, drawn: Floats) -> dict[str, Any]:
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return {"value": round(value, 4), "ci95": [round(float(low), 4), round(float(high), 4)]}
