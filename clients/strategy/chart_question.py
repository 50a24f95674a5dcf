"""From a decision to the question about its chart; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from market.bars import NS_PER_S
from market.chart import ChartOptions, draw
from market.events import Bar
from market.indicators import average_true_range, realized_volatility, relative_strength_index
from strategy.core.values import Neighbor
from tradeserve_client.chart_reading import ChartContext, ChartExtent, ChartQuery, PastOutcome

CHART_PX = 480
_PERIOD_BARS = 14
_AVERAGES_BARS = (20, 50)
_MAX_OUTCOMES = 64


def picture_of(symbol: str, bars: Sequence[Bar]) -> NDArray[np.uint8]:
    """Draw the chart of a window: (480, 480, 3) uint8; takes about a millisecond.

    Raises:
        ValueError: The bars can't be drawn.
    """
    options = ChartOptions(CHART_PX, CHART_PX, averages=_AVERAGES_BARS, symbol=symbol)
    return draw(bars, options).pixels


def chart_query(
    request_id: str, symbol: str, bars: Sequence[Bar], neighbors: Sequence[Neighbor], chart_png: bytes
) -> ChartQuery:
    """Return the question about a window's chart, with what else is known.

    There is no forecast of the volume yet, so none is told.

    Args:
        request_id: UUIDv7.
        symbol: For the title and the prompt.
        bars: Of one instrument, oldest first, the last one the decision's.
        neighbors: Those that the decision had, the nearest first; empty without.
        chart_png: The picture.
    """
    first, last = bars[0], bars[-1]
    return ChartQuery(
        con_id=last.con_id,
        symbol=symbol,
        chart_png=chart_png,
        as_of_ns=last.end_ns,
        extent=ChartExtent(
            low_price=min(bar.low for bar in bars),
            high_price=max(bar.high for bar in bars),
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
