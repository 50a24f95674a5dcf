"""The exported graph against the same steps outside of it: torch's network, and suppression written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model_export.contract import DETECTIONS
from model_export.detector.average_precision import Found, overlaps
from model_export.detector.graph import CANDIDATES, LEAST_SCORE, MOST_OVERLAP, answer_tables
from model_export.detector.layout import HEIGHT_PX, WIDTH_PX
from model_export.detector.network import PatternNet
from model_export.detector.served import ServedDetector
from model_export.errors import ParityError

MOST_DIFFERENCE = 1e-3
"""Of scores, and of boxes as shares of the picture."""
_UNSURE = 5e-3


def reference(net: PatternNet, pixels: NDArray[np.uint8]) -> Found:
    """Return what the graph ought to find on one picture, boxes in pixels."""
    image = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0).float()
    small = torch.nn.functional.interpolate(image, (HEIGHT_PX, WIDTH_PX), mode="bilinear", antialias=True)
    with torch.no_grad():
        outline_logits, outline_boxes, gap_logits, gap_boxes = (out[0].double() for out in net(small))
    answers = torch.sigmoid(torch.cat([outline_logits.flatten(), gap_logits.flatten()])).numpy()
    boxes = torch.cat([outline_boxes, gap_boxes]).clamp(0, 1).numpy()
    cells, labels = answer_tables()
    order = np.argsort(-answers, kind="stable")[:CANDIDATES]
    height, width = pixels.shape[:2]
    found = suppressed(Found(boxes[cells[order]], labels[order].astype(np.int64), answers[order]))
    return Found(found.boxes * np.array([width, height, width, height]), found.labels, found.scores)


def suppressed(found: Found) -> Found:
    """Return the surest boxes of each class that do not overlap a surer one of it, at most 32, surest first."""
    sure = found.surer_than(np.nextafter(LEAST_SCORE, 1.0))
    shared = overlaps(sure.boxes, sure.boxes) * (sure.labels[:, None] == sure.labels[None, :])
    kept: list[int] = []
    for one in np.argsort(-sure.scores, kind="stable"):
        if len(kept) < DETECTIONS and not (shared[one, kept] > MOST_OVERLAP).any():
            kept.append(int(one))
    return Found(sure.boxes[kept], sure.labels[kept], sure.scores[kept])


def measure_parity(
    net: PatternNet, detector: ServedDetector, pictures: Sequence[NDArray[np.uint8]]
) -> dict[str, Any]:
    """Compare graph and reference, one by one and in a batch.

    Raises:
        ParityError: A box is there on one side alone, or they differ by more than 1e-3.
    """
    worst, compared = 0.0, 0
    batch = detector.ask(np.stack(pictures))
    for row, pixels in enumerate(pictures):
        count = int(batch["count"][row, 0])
        wanted = reference(net, pixels)
        together = Found(
            batch["boxes"][row, :count].astype(np.float64),
            batch["labels"][row, :count].astype(np.int64),
            batch["scores"][row, :count].astype(np.float64),
        )
        for found in (detector.find(pixels), together):
            worst = max(worst, difference(found, wanted, max(pixels.shape[:2])))
            compared += len(found.scores)
    if not worst <= MOST_DIFFERENCE:
        raise ParityError(f"network and graph differ by {worst:.2e}, more than {MOST_DIFFERENCE:.0e}")
    return {"torch_vs_onnxruntime_max_abs": float(f"{worst:.3g}"), "charts": len(pictures), "boxes": compared}


def difference(a: Found, b: Found, side_px: int) -> float:
    """Return the largest difference of scores and of boxes in shares of a side; infinite where one side lacks a box.

    A box that is as good as at the least score may be on one side alone.
    """
    worst = 0.0
    for one, other in ((a, b), (b, a)):
        for box, label, score in zip(one.boxes, one.labels, one.scores, strict=True):
            same = other.labels == label
            if not same.any():
                worst = max(worst, 0.0 if score < LEAST_SCORE + _UNSURE else np.inf)
                continue
            away = np.maximum(
                np.abs(other.boxes[same] - box).max(1) / side_px, np.abs(other.scores[same] - score)
            )
            nearest = float(away.min())
            if nearest > MOST_DIFFERENCE and score < LEAST_SCORE + _UNSURE:
                continue
            worst = max(worst, nearest)
    return worst
