"""What a reader of a chart is told beside the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ChartExtent:
    """What lies on the chart.

    Attributes:
        low_price: Lowest price drawn.
        high_price: Highest price drawn.
        last_price: Close of the last bar.
        start_ns: Start of the first bar, nanoseconds UTC.
        end_ns: End of the last bar, nanoseconds UTC.
        bar_s: Length of a bar, seconds.
    """

    low_price: float
    high_price: float
    last_price: float
    start_ns: int
    end_ns: int
    bar_s: int


@dataclass(frozen=True, slots=True)
class PastOutcome:
    """A past state that looks like the present one.

    Attributes:
        similarity: Cosine, -1 to 1.
        forward_return_bps: Return over the horizon after it.
    """

    similarity: float
    forward_return_bps: float


@dataclass(frozen=True, slots=True)
class ChartFacts:
    """Everything that goes below the chart; what is unknown is left out of the prompt.

    Attributes:
        symbol: As people write it.
        extent: What lies on the chart.
        indicators: Of the last bar, by name.
        volume_ratio_forecast: Forecast of the next bars' volume over that of the last ones.
        past_outcomes: In any order.
    """

    symbol: str = ""
    extent: ChartExtent | None = None
    indicators: Mapping[str, float] = field(default_factory=dict)
    volume_ratio_forecast: float | None = None
    past_outcomes: Sequence[PastOutcome] = ()
