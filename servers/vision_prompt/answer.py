"""What a model may answer: the schema that guides its decoding, and the parser that trusts nothing."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from vision_prompt.errors import AnswerError

MAX_ANSWER_CHARACTERS = 2000
MAX_PATTERNS, MAX_KEY_LEVELS, MAX_RISKS = 3, 4, 2
MAX_RISK_CHARACTERS, MAX_REASONING_CHARACTERS = 100, 240
MAX_LEVEL = 1_000_000_000
_MOST_REPETITIONS = 100
_Choice = TypeVar("_Choice", bound=StrEnum)


class Pattern(StrEnum):
    """Formations that a reader names."""

    HEAD_AND_SHOULDERS = "head_and_shoulders"
    INVERSE_HEAD_AND_SHOULDERS = "inverse_head_and_shoulders"
    DOUBLE_TOP = "double_top"
    DOUBLE_BOTTOM = "double_bottom"
    ASCENDING_TRIANGLE = "ascending_triangle"
    DESCENDING_TRIANGLE = "descending_triangle"
    SYMMETRIC_TRIANGLE = "symmetric_triangle"
    BULL_FLAG = "bull_flag"
    BEAR_FLAG = "bear_flag"
    RISING_WEDGE = "rising_wedge"
    FALLING_WEDGE = "falling_wedge"
    GAP_UP = "gap_up"
    GAP_DOWN = "gap_down"


class Signal(StrEnum):
    """Which way a reader leans."""

    BUY = "BUY"
    SELL = "SELL"
    HOLD = "HOLD"


@dataclass(frozen=True, slots=True)
class ChartAnswer:
    """A model's answer.

    Attributes:
        patterns: Formations, each once; empty for none.
        key_levels: Prices.
        signal: Which way it leans.
        confidence: 0 to 1, as stated.
        risks: What would prove it wrong.
        reasoning: Its words.
    """

    patterns: tuple[Pattern, ...]
    key_levels: tuple[float, ...]
    signal: Signal
    confidence: float
    risks: tuple[str, ...]
    reasoning: str


def _text_pattern(characters: int) -> str:
    # A pattern, because maxLength alone lets an engine's grammar pass control characters; in parts, because
    # xgrammar 0.2.8 does not compile more than 128 repetitions.
    full, rest = divmod(characters - 1, _MOST_REPETITIONS)
    return "^[ -~]" + f"[ -~]{{0,{_MOST_REPETITIONS}}}" * full + (f"[ -~]{{0,{rest}}}" if rest else "") + "$"


def answer_schema() -> dict[str, Any]:
    """Return the JSON schema for guided decoding; the order of its fields is that of the answer."""
    properties: dict[str, Any] = {
        # First, so that all that follows can build on the words: a small model copies a level that it has cited.
        "reasoning": {"type": "string", "pattern": _text_pattern(MAX_REASONING_CHARACTERS)},
        "patterns": {
            "type": "array",
            "items": {"type": "string", "enum": [str(one) for one in Pattern]},
            "maxItems": MAX_PATTERNS,
        },
        "key_levels": {
            "type": "array",
            "items": {"type": "number", "minimum": 0, "maximum": MAX_LEVEL},
            "maxItems": MAX_KEY_LEVELS,
        },
        "signal": {"type": "string", "enum": [str(one) for one in Signal]},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "risks": {
            "type": "array",
            "items": {"type": "string", "pattern": _text_pattern(MAX_RISK_CHARACTERS)},
            "maxItems": MAX_RISKS,
        },
    }
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_FIELDS = tuple(answer_schema()["properties"])
_MAX_DIGITS = 24


def parse_answer(text: str) -> ChartAnswer:
    """Parse an answer; anything the schema does not allow is refused, whatever produced it.

    Raises:
        AnswerError: The message names the field and what is wrong with it.
    """
    if len(text) > MAX_ANSWER_CHARACTERS:
        raise AnswerError("", f"has {len(text)} characters; at most {MAX_ANSWER_CHARACTERS} are read")
    try:
        raw = json.loads(
            text, object_pairs_hook=_fields, parse_int=_number, parse_float=_number, parse_constant=_constant
        )
    except AnswerError:
        raise
    except (ValueError, RecursionError) as e:
        raise AnswerError("", f"is no JSON: {type(e).__name__}") from e
    if not isinstance(raw, dict) or set(raw) != set(_FIELDS):
        raise AnswerError("", f"is not an object of {', '.join(_FIELDS)}")
    patterns = tuple(_one_of(Pattern, "patterns", one) for one in _list(raw, "patterns", MAX_PATTERNS))
    if len(set(patterns)) < len(patterns):
        raise AnswerError("patterns", "names one twice")
    return ChartAnswer(
        patterns=patterns,
        key_levels=tuple(
            _within("key_levels", one, MAX_LEVEL) for one in _list(raw, "key_levels", MAX_KEY_LEVELS)
        ),
        signal=_one_of(Signal, "signal", raw["signal"]),
        confidence=_within("confidence", raw["confidence"], 1),
        risks=tuple(_text("risks", one, MAX_RISK_CHARACTERS) for one in _list(raw, "risks", MAX_RISKS)),
        reasoning=_text("reasoning", raw["reasoning"], MAX_REASONING_CHARACTERS),
    )


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise AnswerError("", "has a field twice")
    return dict(pairs)


def _number(text: str) -> float:
    if len(text) > _MAX_DIGITS:
        raise AnswerError("", f"has a number of {len(text)} characters")
    return float(text)


def _constant(text: str) -> float:
    raise AnswerError("", f"has {text}, which is no JSON")


def _list(raw: dict[str, Any], field: str, most: int) -> list[Any]:
    values = raw[field]
    if not isinstance(values, list) or len(values) > most:
        raise AnswerError(field, f"is no list of at most {most}")
    return values


def _one_of(choices: type[_Choice], field: str, value: Any) -> _Choice:
    if not isinstance(value, str) or value not in {str(one) for one in choices}:
        raise AnswerError(field, "has a value that the schema does not list")
    return choices(value)


def _within(field: str, value: Any, most: float) -> float:
    if not isinstance(value, float) or not math.isfinite(value) or not 0 <= value <= most:
        raise AnswerError(field, f"has a value that is no number from 0 to {most}")
    return value


def _text(field: str, value: Any, most: int) -> str:
    if not isinstance(value, str) or re.fullmatch(f"[ -~]{{1,{most}}}", value) is None:
        raise AnswerError(field, f"has a value that is not 1 to {most} printable ASCII characters")
    return value
