"""Versions that are tried, in memory: they answer what a test says, or never."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from strategy.core.values import Probabilities
from strategy.ports import Forecast, ForecastRequest, ShadowVersion
from tradeserve_client.answers import Answer, CallRecord, NoAnswer, Outcome, Reason

SECOND = ShadowVersion("lstm_cnn", 2, "cd" * 32)
WILD = (
    Probabilities(1.0, 0.0, 0.0),
    Probabilities(0.0, 0.0, 1.0),
    Probabilities(0.0, 1.0, 0.0),
    Probabilities(0.5, 0.0, 0.5),
)


@dataclass
class FakeShadow:
    """Answers `probabilities`, one after the other; change it at any time.

    Attributes:
        versions: Announced.
        gate: Answers wait for it; None: they come at once.
        reason: Why there is no answer; None: there is one.
        error: Raised instead of answering.
        on_ask: Told of every question.
    """

    versions: Sequence[ShadowVersion] = (SECOND,)
    probabilities: Sequence[Probabilities] = (Probabilities(0.2, 0.2, 0.6),)
    gate: asyncio.Event | None = None
    reason: Reason | None = None
    error: Exception | None = None
    on_ask: Callable[[], None] = lambda: None
    asked: list[ForecastRequest] = field(default_factory=list)

    async def ask(self, shadow: ShadowVersion, request: ForecastRequest) -> Outcome[Forecast]:
        self.on_ask()
        self.asked.append(request)
        count = len(self.asked)
        sent_ns = request.start_ns + 8_000_000
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        call = CallRecord(
            shadow.voter, f"r{count}", sent_ns, sent_ns + 10**9, 0 if self.reason else sent_ns + 2_000_000
        )
        if self.reason is not None:
            return NoAnswer(self.reason, "told so", call)
        return Answer(Forecast(self.probabilities[(count - 1) % len(self.probabilities)]), call)
