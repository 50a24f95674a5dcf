"""How often a reader that states a confidence was right: isotonic regression, fitted and looked up.

Source: Barlow, Bartholomew, Bremner and Brunk, Statistical Inference under Order Restrictions, 1972
(pool adjacent violators); Zadrozny and Elkan, KDD 2002 (as a calibration).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What stated confidences were worth, for one model and one prompt.

    Attributes:
        model_sha256: Artifact that stated them; another one's confidences are not calibrated by this.
        prompt_sha256: Prompt template that asked; likewise.
        count: Outcomes that it was fitted on.
        confidences: As stated, growing.
        probabilities: That the direction came, at each of them; never falling.

    Raises:
        ValueError: The points are no such curve.
    """

    model_sha256: str
    prompt_sha256: str
    count: int
    confidences: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        x, y = np.array(self.confidences), np.array(self.probabilities)
        growing = len(x) == len(y) > 0 and bool(np.all(np.diff(x) > 0)) and bool(np.all(np.diff(y) >= 0))
        if not growing or not all(bool(np.all((one >= 0) & (one <= 1))) for one in (x, y)):
            raise ValueError(
                "a calibration needs growing confidences and probabilities that never fall, 0 to 1"
            )

    def probability(self, stated: float) -> float:
        """Return the probability at a stated confidence: linear between the points, level beyond them."""
        x, y = self.confidences, self.probabilities
        after = bisect_right(x, stated)
        if after == 0:
            return y[0]
        if after == len(x):
            return y[-1]
        share = (stated - x[after - 1]) / (x[after] - x[after - 1])
        return y[after - 1] + share * (y[after] - y[after - 1])


def isotonic(stated: Sequence[float], right: Sequence[bool]) -> tuple[Floats, Floats]:
    """Return the curve that never falls with the least squared error: its corners, x and y.

    Args:
        stated: Confidences, 0 to 1, any order.
        right: Whether the direction came, for each of them.

    Raises:
        ValueError: There are none, or not as many of both, or one is not 0 to 1.
    """
    x, outcome = np.asarray(stated, np.float64), np.asarray(right, np.float64)
    if len(x) != len(outcome) or not len(x) or not np.all((x >= 0) & (x <= 1)):
        raise ValueError("stated and right need the same number of values, at least one, 0 to 1")
    levels, place = np.unique(x, return_inverse=True)
    weights = np.bincount(place).astype(np.float64)
    sums = np.bincount(place, outcome)
    blocks: list[tuple[float, float, int]] = []  # sum, weight, levels
    for total, weight in zip(sums.tolist(), weights.tolist(), strict=True):
        block = (total, weight, 1)
        while blocks and blocks[-1][0] * block[1] >= block[0] * blocks[-1][1]:
            before = blocks.pop()
            block = (before[0] + block[0], before[1] + block[1], before[2] + block[2])
        blocks.append(block)
    fitted = np.repeat(
        [total / weight for total, weight, _ in blocks], [count for _, _, count in blocks]
    ).astype(np.float64)
    flat = np.zeros(len(levels), bool)
    flat[1:-1] = (fitted[1:-1] == fitted[:-2]) & (fitted[1:-1] == fitted[2:])
    return levels[~flat], fitted[~flat]


def brier(probabilities: Sequence[float], right: Sequence[bool]) -> float:
    """Return the mean squared distance of probabilities from what came: 0 is perfect, 0.25 a coin's."""
    apart = np.asarray(probabilities, np.float64) - np.asarray(right, np.float64)
    return float(np.mean(apart * apart))
