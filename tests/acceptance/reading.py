"""Have a server read many charts, a few at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tradeserve_client.answers import Answer
from tradeserve_client.chart_messages import ReadingRecord
from tradeserve_client.chart_reading import ChartQuery, ChartReading, ChartReadingClient
from tradeserve_client.replicas import ReplicaLimits

_AT_ONCE = 32
_BUDGET_S = 300.0


async def read_charts(
    address: str, queries: Sequence[ChartQuery]
) -> list[tuple[ChartReading, ReadingRecord]]:
    """Return each chart's reading, and its record.

    Raises:
        RuntimeError: A chart was not read, or without a record.
    """
    client = ChartReadingClient(address, limits=ReplicaLimits(max_in_flight=2 * _AT_ONCE))
    read: list[tuple[ChartReading, ReadingRecord]] = []
    try:
        for first in range(0, len(queries), _AT_ONCE):
            part = queries[first : first + _AT_ONCE]
            outcomes = await asyncio.gather(*(client.read_chart(query, budget=_BUDGET_S) for query in part))
            for outcome in outcomes:
                if not isinstance(outcome, Answer) or outcome.value.record is None:
                    raise RuntimeError(f"a chart was not read: {outcome}")
                read.append((outcome.value, outcome.value.record))
    finally:
        await client.close()
    return read
