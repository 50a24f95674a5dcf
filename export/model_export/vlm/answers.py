"""What the reader shall answer to a chart whose pattern is known.

The answer is a rule: pattern, levels on the price scale of the prompt, a signal that goes with the pattern, and a
confidence that falls with noise and where past outcomes point the other way. No outcome of a trade is in it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from model_export.chart_patterns import PlantedSeries
from model_export.pattern_shapes import NONE
from vision_prompt import PastOutcome, Signal

SIGNALS: dict[str, Signal] = {
    "head_and_shoulders": Signal.SELL,
    "inverse_head_and_shoulders": Signal.BUY,
    "double_top": Signal.SELL,
    "double_bottom": Signal.BUY,
    "ascending_triangle": Signal.BUY,
    "descending_triangle": Signal.SELL,
    "symmetric_triangle": Signal.HOLD,
    "bull_flag": Signal.BUY,
    "bear_flag": Signal.SELL,
    "rising_wedge": Signal.SELL,
    "falling_wedge": Signal.BUY,
    "gap_up": Signal.BUY,
    "gap_down": Signal.SELL,
    NONE: Signal.HOLD,
}
CLARITIES = (0.9, 0.7, 0.5)
"""Confidence by noise, least noise first."""
_NOISE_EDGES = (0.032, 0.054)
_CONTRADICTED = 0.2
_STRING_OR_SEPARATOR = re.compile(r'("[^"]*")|([,:]) ')


@dataclass(frozen=True, slots=True)
class Truth:
    """What a chart shows.

    Attributes:
        pattern: One of PATTERN_NAMES.
        upper: Where the upper level lies between the chart's low and high, 0 to 1.
        lower: The same of the lower level.
        clarity: Index into CLARITIES.
    """

    pattern: str
    upper: float
    lower: float
    clarity: int


def truth_of(series: PlantedSeries) -> Truth:
    """Return what the planted series shows."""
    low, high = float(series.bars.low.min()), float(series.bars.high.max())
    upper, lower = (
        min(max((level - low) / (high - low), 0.0), 1.0) for level in (series.upper_level, series.lower_level)
    )
    clarity = 1 if series.pattern == NONE else sum(series.noise > edge for edge in _NOISE_EDGES)
    return Truth(series.pattern, upper, lower, clarity)


def confidence_of(truth: Truth, past: tuple[PastOutcome, ...]) -> float:
    """Return the confidence to state: by noise, and less where past outcomes contradict the signal."""
    signal = SIGNALS[truth.pattern]
    mean = sum(outcome.forward_return_bps for outcome in past)
    against = (signal is Signal.BUY and mean < 0) or (signal is Signal.SELL and mean > 0)
    return round(CLARITIES[truth.clarity] - (_CONTRADICTED if against else 0.0), 1)


def answer_text(truth: Truth, scale: tuple[str, ...], past: tuple[PastOutcome, ...]) -> str:
    """Return the answer as JSON, its numbers as the prompt writes them.

    Args:
        truth: What the chart shows.
        scale: The prices of the prompt's scale; empty when the prompt has none.
        past: Outcomes that the prompt tells.
    """
    signal = SIGNALS[truth.pattern]
    name = truth.pattern
    reasoning, levels, risk = f"{name}, no price scale", list[str](), "no price scale"
    if scale:
        upper, lower = (round(level * (len(scale) - 1)) for level in (truth.upper, truth.lower))
        levels = [scale[upper], scale[lower]]
        shares = [f"{rung * 100 // (len(scale) - 1)}%={scale[rung]}" for rung in (upper, lower)]
        reasoning = f"{name}, upper {shares[0]}, lower {shares[1]}"
        risk = f"a close below {levels[1]}" if signal is Signal.BUY else f"a close above {levels[0]}"
    fields = (
        ("reasoning", json.dumps(reasoning)),
        ("patterns", json.dumps([] if name == NONE else [name])),
        ("key_levels", f"[{', '.join(levels)}]"),
        ("signal", json.dumps(str(signal))),
        ("confidence", f"{confidence_of(truth, past):.1f}"),
        ("risks", json.dumps([risk])),
    )
    return "{" + ", ".join(f'"{field}": {value}' for field, value in fields) + "}"


def compact(answer: str) -> str:
    """Return an answer without the blanks that JSON does not need, as vLLM's grammar has it written."""
    return _STRING_OR_SEPARATOR.sub(lambda found: found[1] or found[2], answer)
