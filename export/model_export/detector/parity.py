"""The exported graph against the same steps outside of it: torch's network, and suppression written out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from model_export.contract import DETECTIONS
from model_export.detector.average_precision import Found, overlaps
from model_export.detector.graph import CANDIDATES, LEAST_SCORE, MOST_OVERLAP, NET_OUTPUTS, answer_tables
from model_export.detector.layout import HEIGHT_PX, WIDTH_PX
from model_export.detector.network import PatternNet
from model_export.detector.served import found_in
from model_export.errors import ParityError
from model_export.runtime import Graph

MOST_DIFFERENCE = 1e-3
"""Of what the network says, of scores, and of boxes as shares of the picture."""
_UNSURE = 1e-3


def candidates_of(answers: Sequence[NDArray[np.float32]]) -> Found:
    """Return the surest answers of cells to one picture, boxes as shares of it.

    Args:
        answers: Of the network, (cells, classes) logits and (cells, 4) boxes of each grid.
    """
    logits = np.concatenate([grid.ravel() for grid in answers[0::2]]).astype(np.float64)
    scores = 1 / (1 + np.exp(-logits))
    boxes = np.clip(np.concatenate(answers[1::2]).astype(np.float64), 0, 1)
    cells, labels = answer_tables()
    order = np.argsort(-scores, kind="stable")[:CANDIDATES]
    order = order[scores[order] > LEAST_SCORE]
    return Found(boxes[cells[order]], labels[order].astype(np.int64), scores[order])


def in_pixels(found: Found, pixels: NDArray[np.uint8]) -> Found:
    """Return boxes that were shares of a picture in its pixels."""
    height, width = pixels.shape[:2]
    return Found(found.boxes * np.array([width, height, width, height]), found.labels, found.scores)


def suppressed(found: Found) -> Found:
    """Return the surest boxes of each class that do not overlap a surer one of it, at most 32, surest first."""
    shared = overlaps(found.boxes, found.boxes) * (found.labels[:, None] == found.labels[None, :])
    kept: list[int] = []
    for one in np.argsort(-found.scores, kind="stable"):
        if len(kept) < DETECTIONS and not (shared[one, kept] > MOST_OVERLAP).any():
            kept.append(int(one))
    return Found(found.boxes[kept], found.labels[kept], found.scores[kept])


def _opened(path: Path) -> Graph:
    """Return the graph with what the network says inside of it as further outputs."""
    model = onnx.load(str(path))
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in NET_OUTPUTS)
    return Graph(model.SerializeToString())


def network_answers(net: PatternNet, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Return what torch's network says of one picture, resized by torch."""
    image = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0).float()
    small = torch.nn.functional.interpolate(image, (HEIGHT_PX, WIDTH_PX), mode="bilinear", antialias=True)
    with torch.no_grad():
        return [out[0].numpy() for out in net(small)]


def measure_parity(net: PatternNet, path: Path, pictures: Sequence[NDArray[np.uint8]]) -> dict[str, Any]:
    """Compare the graph's network with torch's, and the graph's choice with the written out one, alone and in a batch.

    Raises:
        ParityError: They differ by more than 1e-3, or a box is there on one side alone.
    """
    opened = _opened(path)
    batch = Graph(path)(np.stack(pictures))
    worst_net, worst_choice, boxes = 0.0, 0.0, 0
    for row, pixels in enumerate(pictures):
        alone = opened(pixels[None])
        said = [alone[name][0] for name in NET_OUTPUTS]
        for ours, theirs in zip(said, network_answers(net, pixels), strict=True):
            worst_net = max(worst_net, float(np.abs(ours - theirs).max()))
        wanted = in_pixels(suppressed(candidates_of(said)), pixels)
        for one in (found_in(alone, 0), found_in(batch, row)):
            worst_choice = max(worst_choice, difference(one, wanted, max(pixels.shape[:2])))
        boxes += len(wanted.scores)
    worst = max(worst_net, worst_choice)
    if not worst <= MOST_DIFFERENCE:
        raise ParityError(
            f"network and graph differ by {worst_net:.2e}, choices by {worst_choice:.2e}: "
            f"more than {MOST_DIFFERENCE:.0e}"
        )
    return {"torch_vs_onnxruntime_max_abs": float(f"{worst:.3g}"), "charts": len(pictures), "boxes": boxes}


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
