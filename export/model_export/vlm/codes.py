"""What an image token says, as directions in the language model's space.

Both halves of the reader are first trained apart: the tower to say what a chart shows along these directions, the
language model to write answers from tokens that say so. Joined, they already understand each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name that every torch program uses)
from numpy.typing import NDArray
from torch import Tensor

from model_export.pattern_shapes import PATTERN_NAMES
from model_export.vlm.answers import CLARITIES, Truth

RUNGS = 21
GROUPS = (len(PATTERN_NAMES), RUNGS, RUNGS, len(CLARITIES))
"""Directions for the pattern, the upper level, the lower level, the clarity."""
WEIGHTS = (1.0, 0.5, 0.5, 0.2)
_SEED = 11


def directions(size: int) -> Tensor:
    """Return (sum(GROUPS), size) orthonormal directions, on every machine the same but for the last digits."""
    return torch.tensor(_basis(size), dtype=torch.float32)


@cache
def _basis(size: int) -> NDArray[np.float64]:
    basis, _ = np.linalg.qr(np.random.default_rng(_SEED).normal(size=(size, sum(GROUPS))))
    return basis.T


def targets(truths: Sequence[Truth]) -> list[Tensor]:
    """Return per group (batch, directions) shares that add up to 1; a level is shared by its two nearest rungs."""
    pattern = F.one_hot(torch.tensor([PATTERN_NAMES.index(t.pattern) for t in truths]), GROUPS[0]).float()
    clarity = F.one_hot(torch.tensor([t.clarity for t in truths]), GROUPS[3]).float()
    levels = [_between_rungs([t.upper for t in truths]), _between_rungs([t.lower for t in truths])]
    return [pattern, *levels, clarity]


def _between_rungs(values: Sequence[float]) -> Tensor:
    place = torch.tensor(values, dtype=torch.float32) * (RUNGS - 1)
    return torch.clamp(1 - (place[:, None] - torch.arange(RUNGS)).abs(), min=0)


def loss_of(logits: Tensor, wanted: Sequence[Tensor]) -> Tensor:
    """Return the weighted cross entropy of the groups."""
    parts = torch.split(logits, list(GROUPS), -1)
    losses = [
        weight * F.cross_entropy(part, one) for weight, part, one in zip(WEIGHTS, parts, wanted, strict=True)
    ]
    return torch.stack(losses).sum()
