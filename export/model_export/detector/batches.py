"""Batches to learn from: fresh charts, each seen once, and pieces of screenshots between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model_export.chart_patterns import TRAINING
from model_export.detector.layout import GRIDS, HEIGHT_PX, WIDTH_PX
from model_export.detector.losses import Boxes, targets_of
from model_export.detector.scenes import Pixels, Scene, empty_scene, varied_scene
from model_export.detector.screenshots import varied

_SCREENSHOTS = 0.14
_EMPTY = 0.03
_RECOLOURED, _NEGATIVE = 0.3, 0.2
_HIGHEST = 255


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What the network sees and what it ought to say.

    Attributes:
        pixels: (batch, 3, 256, 320) uint8.
        targets: Labels (batch, cells) and boxes (batch, cells, 4) of each grid.
    """

    pixels: Tensor
    targets: tuple[tuple[Tensor, Tensor], ...]


def make_batch(
    seed: int, step: int, size: int, screenshots: tuple[Scene, ...], *, empty: bool = False
) -> Batch:
    """Make the batch of a step; it depends on the arguments alone.

    Args:
        seed: Of the whole run.
        step: Its number.
        size: Charts.
        screenshots: To cut pieces from; () for generated charts alone.
        empty: Whether pictures without a chart are among them.
    """
    rng = np.random.default_rng((seed, step))
    scenes = [_one(rng, screenshots) for _ in range(size)]
    if empty and rng.random() < _EMPTY * size:
        scenes[int(rng.integers(size))] = empty_scene(rng)
    return batch_of(scenes)


def batch_of(scenes: list[Scene]) -> Batch:
    """Return scenes as the network takes them."""
    pixels = torch.stack([resized(scene.pixels) for scene in scenes])
    targets = []
    for grid in GRIDS:
        pairs = [targets_of(_shares(scene), scene.labels, grid) for scene in scenes]
        targets.append(
            (
                torch.from_numpy(np.stack([labels for labels, _ in pairs])),
                torch.from_numpy(np.stack([boxes for _, boxes in pairs])),
            )
        )
    return Batch(pixels, tuple(targets))


def resized(pixels: Pixels) -> Tensor:
    """Return (3, 256, 320) uint8, as the graph resizes it but for rounding."""
    image = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
    small: Tensor = torch.nn.functional.interpolate(
        image, (HEIGHT_PX, WIDTH_PX), mode="bilinear", antialias=True
    )[0]
    return small


def _one(rng: np.random.Generator, screenshots: tuple[Scene, ...]) -> Scene:
    if screenshots and rng.random() < _SCREENSHOTS:
        scene = varied(rng, screenshots[int(rng.integers(len(screenshots)))])
    else:
        scene = varied_scene(rng, TRAINING)
    return Scene(_recoloured(rng, scene.pixels), scene.boxes, scene.labels)


def _recoloured(rng: np.random.Generator, pixels: Pixels) -> Pixels:
    """Change colours as other programs and other tastes do: a table for each channel, now and then a negative."""
    if rng.random() >= _RECOLOURED:
        return pixels
    levels = np.arange(_HIGHEST + 1) / _HIGHEST
    tables = np.empty((3, _HIGHEST + 1), np.uint8)
    negative = rng.random() < _NEGATIVE
    for channel in range(3):
        bent = levels ** rng.uniform(0.6, 1.6)
        low = rng.uniform(0.0, 0.15)
        level = low + (rng.uniform(0.85, 1.0) - low) * bent
        tables[channel] = np.rint((1 - level if negative else level) * _HIGHEST)
    order = rng.permutation(3) if rng.random() < 0.3 else np.arange(3)
    return np.stack([tables[c][pixels[:, :, order[c]]] for c in range(3)], axis=2)


def _shares(scene: Scene) -> Boxes:
    height, width = scene.pixels.shape[:2]
    sides = np.array([width, height, width, height], np.float32)
    return np.asarray(scene.boxes / sides, np.float32)
