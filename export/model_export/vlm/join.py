"""Third lesson: both halves together, from pixels to words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_export.vlm.codes import directions, loss_of, targets
from model_export.vlm.dialogue import Dialogue
from model_export.vlm.examples import Shard
from model_export.vlm.lesson import REPORT_EVERY, WATCHED, Figures, pick, rounded, run_lesson
from model_export.vlm.look import harder, images_of, varied
from model_export.vlm.optimise import Optimiser
from model_export.vlm.reader import Reader, hidden_of, loss_and_hits

_RATE, _MATRIX_RATE = 6e-4, 0.003
_CODE_SHARE = 1.0
_PATTERN_TOKENS = 5
"""Tokens of an answer up to and with the pattern's name: {", reasoning, ":, ", the name."""


def forward(
    reader: Reader,
    dialogue: Dialogue,
    shards: Sequence[Shard],
    places: Sequence[tuple[int, int]],
    images: NDArray[np.uint8],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss, hits (batch, tokens), and what the image tokens say on average (batch, hidden)."""
    batch = dialogue.batch(
        [shards[w].contexts[i] for w, i in places], [shards[w].answers[i] for w, i in places]
    )
    picture, deep = reader.tower(torch.as_tensor(images))
    hidden = hidden_of(reader.language, dialogue, picture, deep, batch.tokens)
    loss, hits = loss_and_hits(reader.language, hidden, batch)
    return loss, hits, picture.mean(1)


@torch.no_grad()
def check(reader: Reader, dialogue: Dialogue, shard: Shard, most: int) -> dict[str, float]:
    """Return shares of right answers when the model is led along the right ones.

    "first" is the share of answers right up to and with the pattern, which is what free decoding gives there too;
    "exact" of answers right to the last token.
    """
    reader.eval()
    first, exact = [], []
    places = [(0, i) for i in range(min(len(shard), most))]
    for start in range(0, len(places), 64):
        part = places[start : start + 64]
        _, hits, _ = forward(reader, dialogue, [shard], part, images_of([shard], part))
        exact += hits.all(1).tolist()
        for row, (_, i) in enumerate(part):
            begin = len(dialogue.question(shard.contexts[i])) - 1
            first.append(bool(hits[row, begin : begin + _PATTERN_TOKENS].all()))
    reader.train()
    return {"first": float(np.mean(first)), "exact": float(np.mean(exact))}


def train_joined(
    reader: Reader,
    dialogue: Dialogue,
    shards: Sequence[Shard],
    watched: Shard,
    *,
    seed: int,
    steps: int,
    batch_size: int = 16,
    save: Path | None = None,
) -> None:
    """Train the whole reader; the same arguments give the same weights on one machine.

    Args:
        reader: Its halves already trained apart.
        dialogue: The layout.
        shards: Training examples.
        watched: To report on; no weight depends on it.
        seed: Of the batches.
        steps: Optimiser steps.
        batch_size: Charts per step.
        save: Where the state goes now and then.
    """
    code = directions(reader.language.shape.hidden_size)
    optimiser = Optimiser(reader.named_parameters(), _RATE, _MATRIX_RATE)
    rng = np.random.default_rng((seed, 3))

    def one(_: int) -> tuple[Tensor, Figures]:
        places = harder(rng, pick(rng, shards, batch_size))
        images = varied(rng, images_of(shards, places))
        said, hits, mean = forward(reader, dialogue, shards, places, images)
        known = loss_of(mean @ code.T, targets([shards[w].truths[i] for w, i in places]))
        exact = hits.all(1).float().mean().item()
        return said + _CODE_SHARE * known, {"loss": said.item(), "codes": known.item(), "exact": exact}

    run_lesson(
        "joined",
        {"reader": reader},
        optimiser,
        rng,
        steps,
        one,
        report_every=REPORT_EVERY,
        report=lambda: rounded(check(reader, dialogue, watched, WATCHED)),
        save=save,
    )
