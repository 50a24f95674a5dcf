"""What the reader answers to charts that it has not seen, told apart from what it was trained on."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from model_export.pattern_shapes import NONE, PATTERN_NAMES
from model_export.vlm.dialogue import Dialogue
from model_export.vlm.examples import Shard
from model_export.vlm.reader import Reader, answer
from vision_prompt import AnswerError, ChartAnswer, parse_answer

MOST_TOKENS = 96
_BATCH = 48
_ONE_RUNG = 0.05


@dataclass(frozen=True, slots=True)
class Read:
    """An answer beside the right one.

    Attributes:
        pattern: The right one.
        raw: What the reader wrote.
        wanted: What it should have written.
        answer: Parsed; None when it was no answer.
        right: The right answer, parsed.
    """

    pattern: str
    raw: str
    wanted: str
    answer: ChartAnswer | None
    right: ChartAnswer

    @property
    def named(self) -> str:
        """The pattern that the reader names first, "none", or "invalid"."""
        if self.answer is None:
            return "invalid"
        return str(self.answer.patterns[0]) if self.answer.patterns else NONE


def read_all(reader: Reader, dialogue: Dialogue, shard: Shard) -> list[Read]:
    """Have charts read, always with the likeliest token; nothing guides the decoding."""
    reader.eval()
    groups: dict[int, list[int]] = defaultdict(list)
    for index in range(len(shard)):
        groups[len(dialogue.question(shard.contexts[index]))].append(index)
    reads: dict[int, Read] = {}
    for members in groups.values():
        for start in range(0, len(members), _BATCH):
            part = members[start : start + _BATCH]
            pixels = torch.as_tensor(np.stack([shard.images[i] for i in part]))
            texts = answer(reader, dialogue, pixels, [shard.contexts[i] for i in part], MOST_TOKENS)
            for index, text in zip(part, texts, strict=True):
                reads[index] = _read(shard, index, text)
    return [reads[index] for index in sorted(reads)]


def _read(shard: Shard, index: int, text: str) -> Read:
    wanted = shard.answers[index]
    try:
        parsed = parse_answer(text)
    except AnswerError:
        parsed = None
    return Read(shard.truths[index].pattern, text, wanted, parsed, parse_answer(wanted))


def share(hits: Sequence[bool]) -> dict[str, Any]:
    """Return a share with its 95% interval (Wilson's)."""
    count = len(hits)
    if not count:
        return {"value": None, "ci95": [0.0, 1.0], "of": 0}
    value, z = sum(hits) / count, 1.959964
    middle = (value + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(value * (1 - value) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return {
        "value": round(value, 4),
        "ci95": [round(max(middle - half, 0.0), 4), round(min(middle + half, 1.0), 4)],
        "of": count,
    }


def levels_near(read: Read, shard_range: float) -> bool:
    """Return whether every level lies within one rung of the right one."""
    if read.answer is None or len(read.answer.key_levels) != len(read.right.key_levels):
        return False
    pairs = zip(read.answer.key_levels, read.right.key_levels, strict=True)
    return all(abs(one - two) <= _ONE_RUNG * 1.05 * shard_range for one, two in pairs)


def figures(reads: Sequence[Read], contexts: Sequence[str]) -> dict[str, Any]:
    """Return the card's figures on one set of charts."""
    ranges = [_range_of(context) for context in contexts]
    with_scale = [(r, size) for r, size in zip(reads, ranges, strict=True) if size is not None]
    valid = [r.answer is not None for r in reads]
    return {
        "charts": len(reads),
        "pattern_accuracy": share([r.named == r.pattern for r in reads]),
        "signal_accuracy": share([r.answer is not None and r.answer.signal is r.right.signal for r in reads]),
        "levels_within_5_percent_of_range": share([levels_near(r, size) for r, size in with_scale]),
        "stated_confidence_as_the_rule": share(
            [r.answer is not None and r.answer.confidence == r.right.confidence for r in reads]
        ),
        "parsed_without_guidance": share(valid),
        "recall": {
            name: share([r.named == name for r in reads if r.pattern == name]) for name in PATTERN_NAMES
        },
        "named_wrongly": {
            name: sum(r.named == name and r.pattern != name for r in reads)
            for name in (*PATTERN_NAMES, "invalid")
        },
    }


def _range_of(context: str) -> float | None:
    for line in context.split("\n"):
        if line.startswith("low "):
            words = line.split()
            return float(words[3]) - float(words[1])
    return None
