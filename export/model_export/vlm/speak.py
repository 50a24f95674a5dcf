"""Second lesson: the language model learns to answer from tokens that already say what a chart shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model_export.pattern_shapes import NONE, PATTERN_NAMES
from model_export.vlm.answers import Truth
from model_export.vlm.codes import GROUPS, RUNGS, directions, targets
from model_export.vlm.dialogue import IGNORED, Dialogue
from model_export.vlm.drill import drill, longest_scale
from model_export.vlm.examples import Shard
from model_export.vlm.language_model import LanguageModel, Layer
from model_export.vlm.lesson import Figures, pick, run_lesson
from model_export.vlm.optimise import Optimiser
from model_export.vlm.reader import hidden_of, loss_and_hits
from model_export.vlm.tokenizer import SPECIALS, Vocabulary

_RATE, _MATRIX_RATE = 3e-3, 0.012
_REPORT_EVERY = 50
_LOUDNESS = (4.0, 12.0)
_DOUBT = 1.0
_STATIC = (0.5, 3.0)
_WORD_LENGTH = 0.7
_DISTANCES = (1, 2, 3)
_TURNING = 4
_SHARED_LENGTH, _LOOK, _SURE, _PASSED_ON = 0.5, 0.85, 2.0, 1.5


def spoken(truths: Sequence[Truth], code: Tensor, tokens: int, rng: np.random.Generator) -> Tensor:
    """Return (batch, tokens, hidden) image tokens as a good tower would make them, with noise."""
    wanted = torch.cat(targets(truths), 1)
    loud = torch.tensor(rng.uniform(*_LOUDNESS, (len(truths), 1)), dtype=torch.float32)
    doubt = torch.tensor(rng.normal(0, _DOUBT, wanted.shape), dtype=torch.float32)
    noise = rng.normal(size=(len(truths), tokens, code.shape[1])) * rng.uniform(*_STATIC, (len(truths), 1, 1))
    static = torch.tensor(noise, dtype=torch.float32)
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


@torch.no_grad()
def begin_looking_back(language: LanguageModel) -> None:
    """Let heads of the first layer begin by looking at the token one, two and three places before.

    To copy what stood behind the same words one must know what one has just said; heads that look there are otherwise
    the slowest to come. All tokens get a direction in common, from which these heads make queries and keys whose rotary
    positions agree at that distance and at no other.
    """
    shape, layer = language.shape, language.layers[0]
    assert isinstance(layer, Layer)
    attention, size = layer.self_attn, shape.head_dim
    shared = torch.linalg.svd(directions(shape.hidden_size))[2][-1]  # no code has a part in it
    weight = language.embed_tokens.weight
    weight -= (weight @ shared)[:, None] * shared
    weight += _SHARED_LENGTH * shared
    key = torch.zeros(size)
    key[:_TURNING] = _LOOK
    for head in range(shape.num_key_value_heads):
        attention.k_proj.weight[head * size : (head + 1) * size] += key[:, None] * shared
    for head, distance in enumerate(_DISTANCES[: shape.num_attention_heads]):
        angles = distance * language.frequencies[:_TURNING]
        query = torch.zeros(size)
        query[:_TURNING], query[size // 2 : size // 2 + _TURNING] = angles.cos(), -angles.sin()
        attention.q_proj.weight[head * size : (head + 1) * size] += _LOOK * query[:, None] * shared
    for norm in (attention.q_norm, attention.k_norm):
        norm.weight.fill_(_SURE)
    for projection in (attention.v_proj, attention.o_proj):
        projection.weight *= _PASSED_ON


def train_language(
    language: LanguageModel,
    dialogue: Dialogue,
    shards: Sequence[Shard],
    *,
    seed: int,
    steps: int,
    drill_steps: int = 0,
    again: int = 0,
    batch_size: int = 16,
    save: Path | None = None,
) -> None:
    """Train the language model without pictures; the same arguments give the same weights on one machine.

    Args:
        language: To train.
        dialogue: The layout.
        shards: Training examples; their pictures are not read.
        seed: Of batches and noise.
        steps: Optimiser steps.
        drill_steps: How many of them, the first, are exercises in citing the price scale.
        again: Steps of a second, fainter round.
        batch_size: Dialogues per step.
        save: Where the state goes now and then.
    """
    code = directions(language.shape.hidden_size)
    optimiser = Optimiser(language.named_parameters(), _RATE, _MATRIX_RATE)
    rng = np.random.default_rng((seed, 2))

    def one(step: int) -> tuple[Tensor, Figures]:
        places = pick(rng, shards, batch_size)
        picture = spoken([shards[w].truths[i] for w, i in places], code, dialogue.vision.tokens, rng)
        if step < drill_steps:
            batch = drill(dialogue, rng, batch_size, longest_scale(step / drill_steps))
        else:
            batch = dialogue.batch(
                [shards[w].contexts[i] for w, i in places], [shards[w].answers[i] for w, i in places]
            )
        loss, hits = loss_and_hits(language, hidden_of(language, dialogue, picture, (), batch.tokens), batch)
        wanted = batch.wanted != IGNORED
        figures = {"loss": loss.item(), "tokens": hits[wanted].float().mean().item()}
        return loss, figures | {"exact": hits.all(1).float().mean().item()}

    run_lesson(
        "language",
        {"language": language},
        optimiser,
        rng,
        steps,
        one,
        report_every=_REPORT_EVERY,
        again=again,
        save=save,
    )


@torch.no_grad()
def translated(language: LanguageModel, known: Vocabulary, wanted: Vocabulary) -> LanguageModel:
    """Return the language model for another vocabulary; a new word begins as the mean of what it consisted of.

    Args:
        language: The one there is.
        known: Its vocabulary, of answers with blanks between their parts.
        wanted: The vocabulary of answers without them.
    """
    result = LanguageModel(replace(language.shape, vocab_size=len(wanted)))
    result.layers.load_state_dict(language.layers.state_dict())
    result.norm.load_state_dict(language.norm.state_dict())
    old, new = language.embed_tokens.weight, result.embed_tokens.weight
    first = len(wanted) - (len(wanted.ids) - len(SPECIALS))
    new[:first] = old[:first]
    for piece, index in wanted.ids.items():
        if piece in known.ids:
            new[index] = old[known.ids[piece]]
        else:
            new[index] = old[known.encode(re.sub("([,:])", r"\1 ", piece).rstrip())].mean(0)
    return result
