"""What a detector found on a chart's pixels, as bars and prices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from market.chart.geometry import Geometry


@dataclass(frozen=True, slots=True)
class FoundPattern:
    """A pattern on a chart.

    Attributes:
        name: One of the detector's classes.
        score: How sure the detector is, 0 to 1; not a probability.
        first_bar: Number of its first bar among those drawn.
        last_bar: Number of its last bar, included.
        low: Price at the box's lower edge.
        high: Price at its upper edge.
        left: Of the box, in pixels; also top, right and bottom.
    """

    name: str
    score: float
    first_bar: int
    last_bar: int
    low: float
    high: float
    left: float
    top: float
    right: float
    bottom: float


def found_patterns(
    boxes: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[Any],
    classes: Sequence[str],
    geometry: Geometry,
    *,
    least_score: float = 0.4,
) -> list[FoundPattern]:
    """Return what was found, surest first.

    Args:
        boxes: (n, 4) left, top, right, bottom in pixels of the chart.
        scores: (n,) 0 to 1; rows without a box have 0.
        labels: (n,) positions in `classes`; below 0 in rows without a box.
        classes: Names of the detector's classes.
        geometry: Of the chart that was drawn.
        least_score: Leave out what the detector is less sure of.

    Raises:
        ValueError: The arrays do not belong together, or a label has no name.
    """
    if boxes.shape != (len(scores), 4) or labels.shape != scores.shape:
        raise ValueError(
            f"boxes {boxes.shape}, scores {scores.shape} and labels {labels.shape}: (n, 4), (n,) and (n,) are needed"
        )
    found = []
    for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True):
        if label < 0 or score < least_score:
            continue
        if label >= len(classes):
            raise ValueError(f"label {label} has no name: there are {len(classes)} classes")
        found.append(_found(classes[label], score, box, geometry))
    return sorted(found, key=lambda one: -one.score)


def _found(name: str, score: float, box: Sequence[float], geometry: Geometry) -> FoundPattern:
    left, top, right, bottom = box
    pane, last = geometry.price, geometry.bar_count - 1
    slot = pane.width / geometry.bar_count
    first_bar = min(max(round((left - pane.left) / slot), 0), last)
    last_bar = min(max(round((right - pane.left) / slot) - 1, first_bar), last)
    # Right and bottom lie outside of the box: the lowest price is one row above.
    low, high = geometry.price_at(max(bottom - 1, top)), geometry.price_at(top)
    return FoundPattern(name, score, first_bar, last_bar, low, high, left, top, right, bottom)
