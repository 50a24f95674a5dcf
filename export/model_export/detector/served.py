"""Asks the exported graph, as Triton does; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_export.detector.average_precision import Found
from model_export.runtime import Graph


class ServedDetector(Graph):
    """The graph, and what it finds."""

    def find(self, pixels: NDArray[np.uint8]) -> Found:
        """Return what is found on one picture."""
        return found_in(self(pixels[None]), 0)


def found_in(outputs: Mapping[str, NDArray[Any]], row: int) -> Found:
    """Return what a row of the graph's outputs holds."""
    count = int(outputs["count"][row, 0])
    boxes, labels, scores = (outputs[name][row, :count] for name in ("boxes", "labels", "scores"))
    return Found(boxes.astype(np.float64), labels.astype(np.int64), scores.astype(np.float64))
