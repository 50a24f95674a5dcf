"""Hold an answer against what the chart was drawn from. Pure.

The answer itself is read by its schema alone; what is searched here is the prose that the schema lets through, for
dates and prices that can be proven wrong. Each contradiction halves the trust; the signal is never changed.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from vision_prompt import ChartAnswer, ChartExtent, Pattern, Signal

MAX_CONTRADICTIONS = 16
_TRUST_PER_CONTRADICTION = 0.5
# The reader sees prices rounded to a part of the range, and levels are drawn a line wide.
_ROUNDING = 0.005
_NS = 1_000_000_000
_DATE = re.compile(r"(?<![\d.-])(\d{4})-(\d{2})-(\d{2})(?:[ T](\d{2}):(\d{2}))?(?!\d)")
_PRICE = re.compile(
    r"\b(?:at|near|above|below|to|from|level|levels|support|resistance|neckline|low|high|last|close|target|stop)"
    r" (?:of |at |near )?\$?(\d{1,9}(?:\.\d{1,8})?)(?![\w%:/]|\.\d|-\d| ?(?:%|bps|bars?\b|percent))"
)
_FALLING = frozenset(
    {
        Pattern.HEAD_AND_SHOULDERS,
        Pattern.DOUBLE_TOP,
        Pattern.DESCENDING_TRIANGLE,
        Pattern.BEAR_FLAG,
        Pattern.RISING_WEDGE,
    }
)
_RISING = frozenset(
    {
        Pattern.INVERSE_HEAD_AND_SHOULDERS,
        Pattern.DOUBLE_BOTTOM,
        Pattern.ASCENDING_TRIANGLE,
        Pattern.BULL_FLAG,
        Pattern.FALLING_WEDGE,
    }
)


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A statement that the chart's own data, or the answer itself, contradicts.

    Attributes:
        field: Of the answer.
        detail: What is wrong with it.
    """

    field: str
    detail: str


def contradictions_of(answer: ChartAnswer, extent: ChartExtent | None) -> tuple[Contradiction, ...]:
    """Return what is wrong with an answer, at most 16.

    Args:
        answer: What the model said.
        extent: What lies on the chart; None leaves levels, prices and dates unchecked.
    """
    found = [*_signal_against_patterns(answer)]
    if extent is not None:
        for level in answer.key_levels:
            found += _outside(level, "key_levels", extent)
        for field, texts in (("reasoning", (answer.reasoning,)), ("risks", answer.risks)):
            found += [one for text in texts for one in _text_against(text, field, extent)]
    return tuple(dict.fromkeys(found))[:MAX_CONTRADICTIONS]


def trust_of(contradictions: Sequence[Contradiction]) -> float:
    """Return how far an answer agrees with the chart, 1 without contradictions."""
    return float(_TRUST_PER_CONTRADICTION ** len(contradictions))


def _signal_against_patterns(answer: ChartAnswer) -> Iterator[Contradiction]:
    if not answer.patterns:
        return
    for signal, against, way in ((Signal.BUY, _FALLING, "falling"), (Signal.SELL, _RISING, "rising")):
        if answer.signal is signal and all(pattern in against for pattern in answer.patterns):
            yield Contradiction(
                "signal", f"{signal} with nothing but {way} patterns: {', '.join(answer.patterns)}"
            )


def _text_against(text: str, field: str, extent: ChartExtent) -> Iterator[Contradiction]:
    for match in _DATE.finditer(text):
        yield from _off_the_chart(match, field, extent)
    for match in _PRICE.finditer(_DATE.sub(" ", text).lower()):
        yield from _outside(float(match[1]), field, extent)


def _outside(price: float, field: str, extent: ChartExtent) -> Iterator[Contradiction]:
    slack = _ROUNDING * (extent.high_price - extent.low_price) + 1e-9 * extent.high_price
    if not extent.low_price - slack <= price <= extent.high_price + slack:
        yield Contradiction(
            field, f"{price:g} lies outside the chart's {extent.low_price:g} to {extent.high_price:g}"
        )


def _off_the_chart(match: re.Match[str], field: str, extent: ChartExtent) -> Iterator[Contradiction]:
    year, month, day, hour, minute = (int(part or 0) for part in match.groups())
    try:
        from_s = int(datetime(year, month, day, hour, minute, tzinfo=UTC).timestamp())
    except ValueError:
        yield Contradiction(field, f"{match[0]} is no date")
        return
    until_s = from_s + (60 if match[4] else 86_400)
    if until_s * _NS <= extent.start_ns or from_s * _NS > extent.end_ns:
        first, last = (
            datetime.fromtimestamp(ns // _NS, UTC).strftime("%Y-%m-%d %H:%M")
            for ns in (extent.start_ns, extent.end_ns)
        )
        yield Contradiction(field, f"{match[0]} is not on the chart, which goes from {first} to {last} UTC")
