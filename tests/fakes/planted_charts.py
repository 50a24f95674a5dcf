"""Charts of generated series whose pattern is known, with what a reader is told of them; needs the export extra."""

from __future__ import annotations

import numpy as np

from market.chart import encode_png
from model_export.chart_patterns import HELD_OUT, Family, plant
from model_export.chart_styles import draw_planted, random_symbol
from model_export.pattern_shapes import PATTERN_NAMES
from model_export.vlm.examples import facts_of
from tradeserve_client.chart_reading import ChartContext, ChartExtent, ChartQuery, PastOutcome

_SEED = 77


def planted_chart(number: int, family: Family = HELD_OUT) -> tuple[ChartQuery, str]:
    """Return a question and the pattern that its chart shows: each in turn, none is one of them."""
    rng = np.random.default_rng((_SEED, number))
    series = plant(rng, family, PATTERN_NAMES[number % len(PATTERN_NAMES)])
    symbol = random_symbol(rng)
    chart = draw_planted(rng, family, series, symbol)
    facts = facts_of(rng, series, symbol)
    extent = None
    if facts.extent is not None:
        told = facts.extent
        extent = ChartExtent(
            told.low_price, told.high_price, told.last_price, told.start_ns, told.end_ns, told.bar_s
        )
    past = tuple(PastOutcome(one.similarity, one.forward_return_bps) for one in facts.past_outcomes)
    query = ChartQuery(
        con_id=1 + number,
        symbol=symbol,
        chart_png=encode_png(chart.pixels),
        as_of_ns=int(series.bars.end_ns[-1]),
        extent=extent,
        context=ChartContext(facts.indicators, facts.volume_ratio_forecast, past),
    )
    return query, series.pattern


def planted_query(number: int) -> ChartQuery:
    """Return a question about a held-out chart."""
    return planted_chart(number)[0]
