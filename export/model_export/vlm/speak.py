"""Second lesson: the language model learns to answer from tokens that already say what a chart shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model_export.pattern_shapes import NONE, PATTERN_NAMES
from model_export.vlm.answers import Truth
from model_export.vlm.codes import GROUPS, RUNGS, directions, targets
from model_export.vlm.dialogue import Dialogue
from model_export.vlm.examples import Shard
from model_export.vlm.language_model import LanguageModel
from model_export.vlm.lesson import Figures, pick, run_lesson
from model_export.vlm.optimise import Optimiser
from model_export.vlm.reader import hidden_of, loss_and_hits

_RATE, _MATRIX_RATE = 3e-3, 0.012
_REPORT_EVERY = 50
_LOUDNESS = (5.0, 10.0)
_DOUBT = 1.0
_STATIC = 0.7
_WORD_LENGTH = 0.7


def spoken(truths: Sequence[Truth], code: Tensor, tokens: int, rng: np.random.Generator) -> Tensor:
    """Return (batch, tokens, hidden) image tokens as a good tower would make them, with noise."""
    wanted = torch.cat(targets(truths), 1)
    loud = torch.tensor(rng.uniform(*_LOUDNESS, (len(truths), 1)), dtype=torch.float32)
    doubt = torch.tensor(rng.normal(0, _DOUBT, wanted.shape), dtype=torch.float32)
    static = torch.tensor(rng.normal(0, _STATIC, (len(truths), tokens, code.shape[1])), dtype=torch.float32)
    return ((wanted * loud + doubt) @ code)[:, None] + static


@torch.no_grad()
def begin_with_codes(language: LanguageModel, dialogue: Dialogue) -> None:
    """Let the words for patterns and for rungs of the price scale begin as what image tokens say of them."""
    code, ids = directions(language.shape.hidden_size), dialogue.vocabulary.ids
    weight = language.embed_tokens.weight
    for index, name in enumerate(PATTERN_NAMES):
        if name != NONE:
            weight[ids[name]] = code[index] * _WORD_LENGTH
    for rung in range(RUNGS):
        upper, lower = code[GROUPS[0] + rung], code[GROUPS[0] + RUNGS + rung]
        weight[ids[f" {rung * 100 // (RUNGS - 1)}%="]] = (upper + lower) * _WORD_LENGTH / 2**0.5


def train_language(
    language: LanguageModel,
    dialogue: Dialogue,
    shards: Sequence[Shard],
    *,
    seed: int,
    steps: int,
    short_steps: int = 0,
    batch_size: int = 16,
    save: Path | None = None,
) -> LanguageModel:
    """Train the language model without pictures; the same arguments give the same weights on one machine.

    Args:
        language: To train.
        dialogue: The layout.
        shards: Training examples; their pictures are not read.
        seed: Of batches and noise.
        steps: Optimiser steps.
        short_steps: How many of them, the first, are on short dialogues: finding a price on the scale is the
            hard part, and they take a third of the time.
        batch_size: Dialogues per step.
        save: Where the state goes now and then.
    """
    code = directions(language.shape.hidden_size)
    begin_with_codes(language, dialogue)
    optimiser = Optimiser(language.named_parameters(), _RATE, _MATRIX_RATE)
    rng = np.random.default_rng((seed, 2))

    def one(step: int) -> tuple[Tensor, Figures]:
        places = pick(rng, shards, batch_size)
        batch = dialogue.batch(
            [shards[w].contexts[i] for w, i in places],
            [shards[w].answers[i] for w, i in places],
            short=step < short_steps,
        )
        picture = spoken([shards[w].truths[i] for w, i in places], code, dialogue.vision.tokens, rng)
        loss, hits = loss_and_hits(language, hidden_of(language, dialogue, picture, (), batch.tokens), batch)
        return loss, {"loss": loss.item(), "exact": hits.all(1).float().mean().item()}

    run_lesson(
        "language",
        {"language": language},
        optimiser,
        rng,
        steps,
        one,
        report_every=_REPORT_EVERY,
        save=save,
    )
    return language
