"""Prompts and answers as tokens: what is the same for every chart, what is not, and where each token stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model_export.chart_patterns import TRAINING, plant
from model_export.chart_styles import random_symbol
from model_export.vlm.answers import compact
from model_export.vlm.examples import words_of
from model_export.vlm.shape import VisionShape
from model_export.vlm.tokenizer import SPECIALS, Vocabulary, learn
from vision_prompt import answer_schema, load_template

IGNORED = -100
END, _START = SPECIALS.index("<|im_end|>"), SPECIALS.index("<|im_start|>")
_VISION_START, _VISION_END = SPECIALS.index("<|vision_start|>"), SPECIALS.index("<|vision_end|>")
_VOCABULARY_SEED, _VOCABULARY_EXAMPLES = 5, 420
_AFTER_REASONING = ('", "patterns"', '","patterns"')
_HEAVY = 4.0
"""Weight of the tokens of the reasoning: the rest of an answer follows from them."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Dialogues from the first token after the picture on, padded on the right.

    Attributes:
        tokens: (batch, tokens) ids.
        wanted: (batch, tokens) the id that shall come next, IGNORED where it does not matter.
        weight: (batch, tokens) of the loss.
    """

    tokens: Tensor
    wanted: Tensor
    weight: Tensor


@dataclass(frozen=True, slots=True)
class Dialogue:
    """How a conversation about a chart is laid out.

    Attributes:
        vocabulary: Of the tokenizer.
        opening: Tokens before the picture.
        vision: Shape of the picture's side.
        is_compact: Whether answers are written without blanks between their parts, as vLLM's grammar wants them.
    """

    vocabulary: Vocabulary
    opening: tuple[int, ...]
    vision: VisionShape
    is_compact: bool = True

    def places(self, tokens_after: int) -> tuple[Tensor, Tensor]:
        """Return positions (3, tokens) of the opening, and of the picture with what follows it."""
        count, side = len(self.opening), self.vision.merged_grid
        opening = torch.arange(count).expand(3, -1)
        grid = torch.arange(side)
        time = torch.zeros(side * side, dtype=torch.int64)
        picture = torch.stack((time, grid.repeat_interleave(side), grid.repeat(side))) + count
        after = torch.arange(tokens_after).expand(3, -1) + count + side
        return opening, torch.cat((picture, after), 1)

    def question(self, context: str) -> list[int]:
        """Return the tokens from the picture's end to where the answer begins."""
        encode = self.vocabulary.encode
        return [_VISION_END, *encode(context), END, *encode("\n"), _START, *encode("assistant\n")]

    def batch(self, contexts: Sequence[str], answers: Sequence[str]) -> Batch:
        """Return dialogues as tensors.

        Args:
            contexts: What stands below the pictures.
            answers: What to answer.
        """
        rows = []
        for context, written in zip(contexts, answers, strict=True):
            answer = compact(written) if self.is_compact else written
            heavy = len(self.vocabulary.encode(answer[: answer.index(_AFTER_REASONING[self.is_compact])]))
            said = [*self.vocabulary.encode(answer), END]
            weights = [_HEAVY] * heavy + [1.0] * (len(said) - heavy)
            rows.append((self.question(context), said, weights))
        return padded(rows)


def padded(rows: Sequence[tuple[list[int], list[int], list[float]]]) -> Batch:
    """Return dialogues of equal length from (asked, said, weights of what is said; 0: not wanted)."""
    longest = max(len(asked) + len(said) for asked, said, _ in rows) - 1
    tokens = np.zeros((len(rows), longest), np.int64)
    wanted = np.full((len(rows), longest), IGNORED, np.int64)
    weight = np.zeros((len(rows), longest), np.float32)
    for row, (asked, said, weights) in enumerate(rows):
        begin = len(asked) - 1
        end = begin + len(said)
        tokens[row, :end] = (asked + said)[:-1]
        wanted[row, begin:end] = np.where(np.array(weights) > 0, said, IGNORED)
        weight[row, begin:end] = weights
    return Batch(torch.as_tensor(tokens), torch.as_tensor(wanted), torch.as_tensor(weight))


def make_dialogue(vision: VisionShape, *, is_compact: bool = True) -> Dialogue:
    """Return the layout, with a vocabulary learnt from the template and a few generated dialogues.

    Args:
        vision: Shape of the picture's side.
        is_compact: As of the layout.
    """
    rng = np.random.default_rng(_VOCABULARY_SEED)
    texts = [
        text
        for _ in range(_VOCABULARY_EXAMPLES)
        for text in words_of(rng, plant(rng, TRAINING), random_symbol(rng))
    ]
    if is_compact:
        texts = [compact(text) if text.startswith("{") else text for text in texts]
    before = load_template().before_chart
    names = " ".join(answer_schema()["properties"]["patterns"]["items"]["enum"])
    vocabulary = learn(texts, (before, names, names.replace(" ", ' "'), "user\nassistant\nBUY SELL HOLD"))
    opening = (_START, *vocabulary.encode("user\n" + before), _VISION_START)
    return Dialogue(vocabulary, opening, vision, is_compact)
