"""A reader of charts in memory: it reads what a test says, or never."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from fakes.fake_world import START_NS
from strategy.core.vision import VisionLimits
from strategy.vision import VisionPlan
from tradeserve_client.answers import Answer, CallRecord, NoAnswer, Outcome, Reason
from tradeserve_client.chart_reading import ChartQuery, ChartReading, Contradiction, ReadingRecord
from tradeserve_client.similarity import Served
from tradeserve_client.strategy_service import Side

LIMITS = VisionLimits(
    lifetime_bars=3, min_trust=0.5, veto_weight=0.6, smallest_share=0.25, min_calibration_count=10
)
RECORD = ReadingRecord(
    "fake", "cd" * 32, "Read the chart.", '{"signal": "SELL"}', "", '{"temperature": 0}', 200, 20, 120_000_000
)
READING = ChartReading(
    Side.SELL,
    0.9,
    "a lower high",
    START_NS + 10**15,
    Served("chart_reader", 3, "ab" * 32),
    patterns=("double_top",),
    key_levels=(99.5,),
    risks=("volume is thin",),
    trust=1.0,
    record=RECORD,
)
CONTRADICTED = replace(READING, trust=0.4, contradictions=(Contradiction("key_levels", "104 lies outside"),))


@dataclass
class FakeReader:
    """Reads `reading`; change it at any time.

    Attributes:
        gate: Answers wait for it; None: they come at once.
        reason: Why there is no answer; None: there is one.
        error: Raised instead of answering.
        on_ask: Told of every question.
    """

    reading: ChartReading = READING
    gate: asyncio.Event | None = None
    reason: Reason | None = None
    error: Exception | None = None
    on_ask: Callable[[], None] = lambda: None
    asked: list[ChartQuery] = field(default_factory=list)

    async def read(self, query: ChartQuery) -> Outcome[ChartReading]:
        self.on_ask()
        self.asked.append(query)
        sent_ns = 1_000_000_000
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        received_ns = 0 if self.reason else sent_ns + 640_000_000
        call = CallRecord("vision", query.request_id, sent_ns, sent_ns + 3 * 10**9, received_ns)
        return NoAnswer(self.reason, "told so", call) if self.reason else Answer(self.reading, call)


def plan(reader: FakeReader, **changes: Any) -> VisionPlan:
    """Return a plan with a fake reader."""
    return replace(VisionPlan(reader, LIMITS), **changes)
