"""What every section of the benchmark is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tradeserve_client.answers import Answer, Outcome

T = TypeVar("T")


class UnavailableError(Exception):
    """A section can't run on this machine; the message says why."""


def need(outcome: Outcome[T]) -> T:
    """Return the value of an answer.

    Raises:
        UnavailableError: There was no answer, so nothing was measured.
    """
    if not isinstance(outcome, Answer):
        raise UnavailableError(f"{outcome.call.service} did not answer: {outcome.reason}: {outcome.detail}")
    return outcome.value


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured.

    Attributes:
        together_bars: Bars of the session in which three instruments close their bars at once.
        together_bar_s: Wall seconds per bar of it.
        alone_bars: Bars of the session of one instrument.
        alone_bar_s: Wall seconds per bar of it.
        windows: Recorded windows that the comparisons run on, at most.
        passes: Times that the comparisons in process go over them.
        paced_windows: Windows that are gone over once more with pauses.
        forecasts: Decisions' worth of calls through the forecaster.
        fan_outs: Times that three models are asked at once, in each of several ways.
        late_calls: Calls timed around their deadline.
        calls: Calls per model of the comparison call by call.
        charts: Charts drawn with mplfinance; ours are drawn ten times as often.
        vision_charts: Charts read one after the other in each way; 0 leaves that section out.
        similarity_states: States in the index of the similarity section.
        similarity_searches: Queries of its recall and of the hop.
        similarity_turns: Times that it searches with and without states being added.
        similarity_turn_s: Seconds of each.
        overload_s: Seconds of each overload, and of the quiet after it.
        rounds: Parts that measurements are cut into, to show the noise.
        settings: More settings of the strategy, SECTION.KEY=VALUE.
    """

    together_bars: int = 260
    together_bar_s: float = 0.3
    alone_bars: int = 300
    alone_bar_s: float = 0.15
    windows: int = 200
    passes: int = 5
    paced_windows: int = 100
    forecasts: int = 1000
    fan_outs: int = 500
    late_calls: int = 12_000
    calls: int = 2000
    charts: int = 30
    vision_charts: int = 40
    similarity_states: int = 1_000_000
    similarity_searches: int = 1_000
    similarity_turns: int = 8
    similarity_turn_s: float = 4.0
    overload_s: float = 3.0
    rounds: int = 10
    settings: tuple[str, ...] = ()


# With time enough for every answer, so that it works on a busy machine too.
_PATIENT = ("budget.total_ms=3000", "budget.forecast_ms=1000", "budget.search_ms=1000")
SMOKE = Size(
    6,
    0.3,
    6,
    0.3,
    windows=8,
    passes=2,
    paced_windows=4,
    forecasts=20,
    fan_outs=10,
    late_calls=80,
    calls=20,
    charts=2,
    vision_charts=0,  # vLLM takes longer to start than all the rest takes
    similarity_states=3_000,
    similarity_searches=20,
    similarity_turns=1,
    similarity_turn_s=0.5,
    overload_s=0.3,
    rounds=2,
    settings=_PATIENT,
)


@dataclass(slots=True)
class Bench:
    """The run of the benchmark.

    Attributes:
        size: How much is measured.
        folder: Of this benchmark's files.
        machine: Description of the machine.
        database_url: Postgres of this benchmark.
        triton: host:port; similarity too.
        windows: Windows that the sessions recorded, (window_bars, 5) float32 each, as bytes with the
            end of the last bar; the sections after the sessions run on them.
        say: Called with a line for the screen.
    """

    size: Size
    folder: Path
    machine: dict[str, Any]
    database_url: str
    triton: str
    similarity: str
    say: Callable[[str], None]
    windows: list[tuple[bytes, int]] = field(default_factory=list)
