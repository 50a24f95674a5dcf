"""The lines below the chart."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vision_prompt.errors import PromptError
from vision_prompt.facts import ChartExtent, ChartFacts, PastOutcome
from vision_prompt.wording import (
    MOST_PRICE,
    bar_text,
    bps_text,
    figure_text,
    finite,
    is_indicator_name,
    price_decimals,
    price_text,
    symbol_text,
    time_text,
)

SCALE_STEPS = 20
"""Parts that the price scale divides the chart's range into."""
MOST_INDICATORS = 8
MOST_PAST_OUTCOMES = 64
NEAREST = 3
_LEAST_RANGE = 1e-9


def scale_of(extent: ChartExtent) -> tuple[str, ...]:
    """Return the prices at 0, 5, … 100% of the chart's range, as the prompt shows them.

    Raises:
        PromptError: The prices are not 0 < low <= last <= high <= 1e9.
    """
    low, high, last = (
        finite(name, getattr(extent, name)) for name in ("low_price", "high_price", "last_price")
    )
    if not 0 < low <= last <= high <= MOST_PRICE:
        raise PromptError(
            "last_price", f"is {last!r}; 0 < low {low!r} <= last <= high {high!r} <= {MOST_PRICE:g} is needed"
        )
    step = max((high - low) / SCALE_STEPS, high * _LEAST_RANGE)
    decimals = price_decimals(step)
    return tuple(
        price_text(low + (high - low) * part / SCALE_STEPS, decimals) for part in range(SCALE_STEPS + 1)
    )


def context_lines(facts: ChartFacts) -> tuple[list[str], tuple[str, ...]]:
    """Return the lines, and the names of indicators that were left out.

    Raises:
        PromptError: A value can't be told; the message names it.
    """
    lines = [f"symbol {symbol_text(facts.symbol)}"]
    if facts.extent is not None:
        lines += _extent_lines(facts.extent)
    told, left_out = _indicators(facts)
    if told:
        lines.append("indicators " + ", ".join(told))
    if facts.volume_ratio_forecast is not None:
        ratio = finite("volume_ratio_forecast", facts.volume_ratio_forecast)
        if ratio < 0:
            raise PromptError("volume_ratio_forecast", f"is {ratio!r}; 0 or more is needed")
        lines.append(f"volume forecast {figure_text('volume_ratio_forecast', ratio)} times the last")
    if facts.past_outcomes:
        lines.append(_past_line(facts.past_outcomes))
    return lines, left_out


def _extent_lines(extent: ChartExtent) -> list[str]:
    scale = scale_of(extent)
    step = max((extent.high_price - extent.low_price) / SCALE_STEPS, extent.high_price * _LEAST_RANGE)
    last = price_text(extent.last_price, price_decimals(step))
    bar = bar_text(extent.bar_s)
    start, end = (time_text(name, getattr(extent, name), extent.bar_s) for name in ("start_ns", "end_ns"))
    if extent.end_ns <= extent.start_ns:
        raise PromptError("end_ns", f"is {extent.end_ns}; later than start_ns {extent.start_ns} is needed")
    rungs = " ".join(f"{part * 100 // SCALE_STEPS}%={price}" for part, price in enumerate(scale))
    return [
        f"bars of {bar} from {start} to {end} UTC",
        f"low {scale[0]} high {scale[-1]} last {last}",
        f"price scale {rungs}",
    ]


def _indicators(facts: ChartFacts) -> tuple[list[str], tuple[str, ...]]:
    told = [name for name in sorted(facts.indicators) if is_indicator_name(name)][:MOST_INDICATORS]
    left_out = tuple(sorted(set(facts.indicators) - set(told)))
    return [f"{name} {figure_text(name, facts.indicators[name])}" for name in told], left_out


def _past_line(outcomes: Sequence[PastOutcome]) -> str:
    if len(outcomes) > MOST_PAST_OUTCOMES:
        raise PromptError(
            "past_outcomes", f"has {len(outcomes)} entries; at most {MOST_PAST_OUTCOMES} are taken"
        )
    for outcome in outcomes:
        if not -1.001 <= finite("past_outcomes.similarity", outcome.similarity) <= 1.001:
            raise PromptError("past_outcomes.similarity", f"is {outcome.similarity!r}; -1 to 1 is needed")
    field = "past_outcomes.forward_return_bps"
    returns = [finite(field, outcome.forward_return_bps) for outcome in outcomes]
    up = sum(one > 0 for one in returns) * 100 // len(returns)
    nearest = sorted(outcomes, key=lambda outcome: -outcome.similarity)[:NEAREST]
    return (
        f"past {len(returns)} alike: mean {bps_text(field, math.fsum(returns) / len(returns))} bps, {up}% up, "
        f"nearest {' '.join(bps_text(field, outcome.forward_return_bps) for outcome in nearest)}"
    )
