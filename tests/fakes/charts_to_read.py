"""Charts of random series with what a reader is told of them."""

from __future__ import annotations

import numpy as np

from market.chart import ChartOptions, ChartStyle, columns_of_window, draw, encode_png
from tradeserve_client.chart_reading import ChartContext, ChartExtent, ChartQuery, PastOutcome

END_NS = 1_741_789_800_000_000_000  # 2025-03-12 14:30 UTC
BAR_S = 60
BARS = 60


def chart_query(
    seed: int, *, side_px: int = 240, con_id: int | None = None, request_id: str = "", told: bool = True
) -> ChartQuery:
    """Return a chart of 60 minutes; the same seed draws the same one."""
    generator = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(generator.normal(0, 0.002, BARS)))
    opened = np.concatenate([[100.0], close[:-1]])
    spread = 1 + generator.uniform(0.0002, 0.002, BARS)
    high, low = np.maximum(opened, close) * spread, np.minimum(opened, close) / spread
    volume = generator.integers(1_000, 9_000, BARS)
    window = np.stack([opened, high, low, close, volume], axis=1)
    options = ChartOptions(side_px, side_px, style=ChartStyle.BARE)
    picture = draw(columns_of_window(window, end_ns=END_NS, bar_size_s=BAR_S), options)
    extent = ChartExtent(
        float(low.min()), float(high.max()), float(close[-1]), END_NS - BARS * BAR_S * 10**9, END_NS, BAR_S
    )
    past = tuple(PastOutcome(0.9 - 0.01 * k, float(generator.normal(0, 9))) for k in range(8))
    context = ChartContext({"rsi_14": float(generator.uniform(20, 80))}, 1.1, past)
    return ChartQuery(
        con_id=1000 + seed if con_id is None else con_id,
        symbol=f"T{seed % 1000}",
        chart_png=encode_png(picture.pixels),
        as_of_ns=END_NS,
        extent=extent if told else None,
        context=context if told else None,
        request_id=request_id,
    )
