"""From a decision to the question about its chart; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from market.bars import NS_PER_S
from market.chart import ChartOptions, columns_of, draw, encode_png
from market.events import Bar
from market.indicators import average_true_range, realized_volatility, relative_strength_index
from strategy.core.values import Neighbor
from tradeserve_client.chart_reading import ChartContext, ChartExtent, ChartQuery, PastOutcome

CHART_PX = 480
_PERIOD_BARS = 14
_AVERAGES_BARS = (20, 50)
_MAX_OUTCOMES = 64


def chart_query(
    request_id: str, symbol: str, bars: Sequence[Bar], neighbors: Sequence[Neighbor]
) -> ChartQuery:
    """Draw the chart of a window and say what else is known; takes a millisecond or two.

    There is no forecast of the volume yet, so none is told.

    Args:
        request_id: UUIDv7.
        symbol: For the title and the prompt.
        bars: Of one instrument, oldest first, the last one the decision's.
        neighbors: Those that the decision had, the nearest first; empty without.

    Raises:
        ValueError: The bars can't be drawn.
    """
    first, last = bars[0], bars[-1]
    columns = columns_of(bars)
    chart = draw(columns, ChartOptions(CHART_PX, CHART_PX, averages=_AVERAGES_BARS, symbol=symbol))
    return ChartQuery(
        con_id=last.con_id,
        symbol=symbol,
        chart_png=encode_png(chart.pixels),
        as_of_ns=last.end_ns,
        extent=ChartExtent(
            low_price=float(columns.low.min()),
            high_price=float(columns.high.max()),
            last_price=last.close,
            start_ns=first.start_ns,
            end_ns=last.end_ns,
            bar_size_s=(last.end_ns - last.start_ns) // NS_PER_S,
        ),
        context=ChartContext(
            indicators=_indicators(bars),
            past_outcomes=[
                PastOutcome(neighbor.similarity, neighbor.forward_return_bps)
                for neighbor in neighbors[:_MAX_OUTCOMES]
            ],
        ),
        request_id=request_id,
    )


def _indicators(bars: Sequence[Bar]) -> Mapping[str, float]:
    window = np.array([(bar.open, bar.high, bar.low, bar.close, bar.volume) for bar in bars], np.float64)
    closes = window[:, 3]
    indicators = {
        f"rsi_{_PERIOD_BARS}": relative_strength_index(closes, _PERIOD_BARS),
        f"atr_{_PERIOD_BARS}_bps": average_true_range(window, _PERIOD_BARS) / closes[-1] * 1e4,
        "volatility_bps": realized_volatility(closes) * 1e4,
    }
    for period in _AVERAGES_BARS:
        if len(bars) >= period:
            indicators[f"sma_{period}"] = float(closes[-period:].mean())
    return {name: round(float(value), 6) for name, value in indicators.items()}
