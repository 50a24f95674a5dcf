"""What each cell ought to say, and how wrong what it said is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_export.detector.layout import GRIDS, Grid
from model_export.detector.network import cell_centres

_ALPHA, _GAMMA = 0.25, 2.0
_BOX_WEIGHT = 2.0
_TINY = 1e-7
NOTHING = -1

Boxes = NDArray[np.float32]
Labels = NDArray[np.int64]


def targets_of(boxes: Boxes, labels: Labels, grid: Grid) -> tuple[Labels, Boxes]:
    """Return what a grid's cells ought to say of one chart.

    Cells whose middle is within the grid's reach of a box's middle answer for it; where two boxes want a cell, the
    nearer one has it.

    Args:
        boxes: (n, 4) left, top, right, bottom as shares of the picture.
        labels: (n,) classes, those of other grids among them.
        grid: Whose cells.

    Returns:
        (cells,) the grid's own class number or -1, and (cells, 4) boxes, 0 where there is none.
    """
    centres = cell_centres(grid).numpy()
    wanted = np.full(grid.cells, NOTHING, np.int64)
    boxed = np.zeros((grid.cells, 4), np.float32)
    nearest = np.full(grid.cells, np.inf)
    scale = np.array([grid.columns, grid.rows], np.float32)
    for box, label in zip(boxes, labels, strict=True):
        own = int(label) - grid.first_label
        if not 0 <= own < grid.classes:
            continue
        away = np.abs(centres - (box[:2] + box[2:]) / 2) * scale
        far = (away**2).sum(1)
        mine = (away.max(1) < grid.reach) & (far < nearest)
        wanted[mine], boxed[mine], nearest[mine] = own, box, far[mine]
    return wanted, boxed


def focal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum over all cells and classes of how wrong the logits are, sure cells weighing little.

    Args:
        logits: (..., classes).
        labels: (...) class numbers, -1 for none.

    Source: Lin et al., "Focal Loss for Dense Object Detection", 2017.
    """
    logits = logits.float()
    classes = torch.arange(logits.shape[-1])
    truth = (labels.unsqueeze(-1) == classes).float()
    likely = torch.sigmoid(logits)
    missed = truth * (1 - likely) + (1 - truth) * likely
    weight = (truth * _ALPHA + (1 - truth) * (1 - _ALPHA)) * missed**_GAMMA
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return (weight * plain).sum()


def overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the intersection over union of pairs of boxes, and the generalised one.

    Args:
        a: (n, 4) left, top, right, bottom.
        b: (n, 4).

    Source: Rezatofighi et al., "Generalized Intersection over Union", 2019.
    """
    inner = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    outer = torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])
    shared = inner.prod(dim=1)
    union = (a[:, 2:] - a[:, :2]).prod(dim=1) + (b[:, 2:] - b[:, :2]).prod(dim=1) - shared
    hull = outer.prod(dim=1)
    iou = shared / (union + _TINY)
    return iou, iou - (hull - union) / (hull + _TINY)


def detection_loss(
    outputs: Sequence[Tensor], targets: Sequence[tuple[Tensor, Tensor]]
) -> tuple[Tensor, list[float]]:
    """Return the loss of a batch, and its parts for the log.

    Args:
        outputs: The network's: logits and boxes, grid after grid.
        targets: Labels (batch, cells) and boxes (batch, cells, 4) of each grid.
    """
    total = torch.zeros(())
    parts: list[float] = []
    for grid in range(len(GRIDS)):
        logits, boxes = outputs[2 * grid], outputs[2 * grid + 1]
        labels, wanted = targets[grid]
        mine = labels != NOTHING
        count = max(int(mine.sum()), 1)
        seen = focal_loss(logits, labels) / count
        placed = (1 - overlap(boxes[mine], wanted[mine])[1]).sum() / count
        total = total + seen + _BOX_WEIGHT * placed
        parts += [float(seen.detach()), float(placed.detach())]
    return total, parts
