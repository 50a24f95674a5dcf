"""First lesson: the tower learns to say what a chart shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name that every torch program uses)
from numpy.typing import NDArray
from torch import Tensor, nn

from model_export.pattern_shapes import GAPS, NONE, PATTERN_NAMES
from model_export.vlm.codes import GROUPS, directions, loss_of, targets
from model_export.vlm.examples import PATH_POINTS, Shard
from model_export.vlm.lesson import REPORT_EVERY, WATCHED, Figures, pick, rounded, run_lesson
from model_export.vlm.optimise import Optimiser
from model_export.vlm.vision_tower import VisionTower

_RATE, _MATRIX_RATE = 1e-3, 0.01
_GAIN = 4.0
"""For a tower that begins: its first words are faint."""
_PATH_WEIGHT = 30.0
_ZOOM, _SHIFT_PX = 0.08, 6
_INVERTED_SHARE = 0.3
HARD = (*GAPS, NONE)
"""What is hardest to tell apart."""
_HARD_SHARE = 0.2


def images_of(shards: Sequence[Shard], places: Sequence[tuple[int, int]]) -> NDArray[np.uint8]:
    """Return (batch, side, side, 3)."""
    return np.stack([shards[w].images[i] for w, i in places])


def varied(rng: np.random.Generator, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the pictures a little larger or smaller, shifted, and now and then as negatives whose ups stay green."""
    side = images.shape[1]
    result = np.empty_like(images)
    middle = (side - 1) / 2
    for index, image in enumerate(images):
        rows, columns = (
            np.clip(
                np.rint((np.arange(side) - middle) * (1 + rng.uniform(-_ZOOM, _ZOOM)) + middle + shift),
                0,
                side - 1,
            ).astype(np.intp)
            for shift in rng.uniform(-_SHIFT_PX, _SHIFT_PX, 2)
        )
        one = image[rows][:, columns]
        result[index] = 255 - one[..., (1, 0, 2)] if rng.random() < _INVERTED_SHARE else one
    return result


def harder(
    rng: np.random.Generator, places: Sequence[tuple[int, int]], hard_share: float = _HARD_SHARE
) -> list[tuple[int, int]]:
    """Return the places, some of them exchanged for what is hardest to tell apart.

    All patterns come in turn in a shard (`examples.write_shard`); in one that has only hard ones any place is of those.
    """
    turn, hard = len(PATTERN_NAMES), [PATTERN_NAMES.index(name) for name in HARD]
    return [
        (which, at - at % turn + hard[int(rng.integers(len(hard)))])
        if rng.random() < hard_share
        else (which, at)
        for which, at in places
    ]


@torch.no_grad()
def check(tower: VisionTower, probe: nn.Linear, shard: Shard, code: Tensor, most: int) -> dict[str, float]:
    """Return shares of right patterns, by code and by probe, and of levels within one rung (5% of the range)."""
    count = min(len(shard), most)
    rows, probed = [], []
    for start in range(0, count, 128):
        pixels = torch.as_tensor(np.array(shard.images[start : min(start + 128, count)]))
        tokens = tower(pixels, deep=False)[0]
        rows.append(tokens.mean(1) @ code.T)
        probed.append(probe(tokens.flatten(1)))
    pattern = torch.tensor([PATTERN_NAMES.index(t.pattern) for t in shard.truths[:count]])
    result = {}
    for name, said in (("pattern", rows), ("probe", probed)):
        parts = torch.split(torch.cat(said), list(GROUPS), -1)
        result[name] = (parts[0].argmax(1) == pattern).float().mean().item()
    parts = torch.split(torch.cat(rows), list(GROUPS), -1)
    for name, part in (("upper", parts[1]), ("lower", parts[2])):
        place = torch.tensor([getattr(t, name) for t in shard.truths[:count]]) * (GROUPS[1] - 1)
        result[name] = ((part.argmax(1) - place).abs() <= 1).float().mean().item()
    return result


def train_tower(
    tower: VisionTower,
    shards: Sequence[Shard],
    watched: Shard,
    *,
    seed: int,
    steps: int,
    again: int = 0,
    gain: float = _GAIN,
    hard_share: float = _HARD_SHARE,
    batch_size: int = 48,
    save: Path | None = None,
) -> None:
    """Train the tower; the same arguments give the same weights on one machine.

    Args:
        tower: To train; its deeper mergers stay as they are.
        shards: Training examples.
        watched: To report on; no weight depends on it.
        seed: Of the batches.
        steps: Optimiser steps.
        again: Steps of a second, fainter round, with more of the charts that are hardest to tell apart.
        gain: What the tower says is heard so many times as loud, and said so in the end.
        hard_share: Part of the second round's charts that are exchanged for hard ones.
        batch_size: Charts per step.
        save: Where the state goes now and then.
    """
    code = directions(tower.merger.linear_fc2.out_features)
    # A second opinion that sees each token apart: it learns fast, and the tower with it.
    probe = nn.Linear(tower.shape.tokens * code.shape[1], code.shape[0])
    named = [(name, p) for name, p in tower.named_parameters() if "deepstack" not in name]
    named += [(f"probe.{name}", p) for name, p in probe.named_parameters()]
    # Following the price teaches the tower to see long before patterns could.
    follower = nn.Linear(tower.shape.tokens * code.shape[1], PATH_POINTS)
    named += [(f"follower.{name}", p) for name, p in follower.named_parameters()]
    optimiser = Optimiser(named, _RATE, _MATRIX_RATE)
    rng = np.random.default_rng((seed, 1))

    def one(step: int) -> tuple[Tensor, Figures]:
        places = pick(rng, shards, batch_size)
        if step >= steps:
            places = harder(rng, places, hard_share)
        wanted = targets([shards[w].truths[i] for w, i in places])
        pixels = torch.as_tensor(varied(rng, images_of(shards, places)))
        tokens, _unused = tower(pixels, deep=False)
        said = loss_of(tokens.mean(1) @ code.T * gain, wanted)
        guessed = loss_of(probe(tokens.flatten(1)), wanted)
        paths = torch.as_tensor(np.stack([shards[w].paths[i] for w, i in places]))
        followed = F.mse_loss(follower(tokens.flatten(1)), paths)
        figures = {"loss": said.item(), "probe": guessed.item(), "path": followed.item() ** 0.5}
        return said + guessed + _PATH_WEIGHT * followed, figures

    run_lesson(
        "tower",
        {"tower": tower, "probe": probe, "follower": follower},
        optimiser,
        rng,
        steps,
        one,
        report_every=REPORT_EVERY,
        again=again,
        report=lambda: rounded(check(tower, probe, watched, code, WATCHED)),
        save=save,
    )
    with torch.no_grad():
        for parameter in tower.merger.linear_fc2.parameters():
            parameter.mul_(gain)
