"""Asks versions that are tried what the voters were asked, once a decision is made and its orders are out.

What they answer, and what would have been decided with it, is recorded and nothing else: no order, vote,
quorum, breaker or figure of a voter depends on it. Nothing is queued: while decisions are being made, or
too many questions are open, a question is dropped and counted.
"""

from __future__ import annotations

import asyncio
import traceback
from dataclasses import dataclass, field
from functools import partial

import structlog

from strategy import recording
from strategy.core.decision import DecisionRules
from strategy.core.shadow import agree, largest_difference, would_be
from strategy.decider import Decided, Decider
from strategy.ledger import RunLedger, ShadowTally
from strategy.ports import Forecast, Journal, ShadowForecaster, ShadowVersion
from tradeserve_client.answers import Answer, CallRecord, NoAnswer, Outcome, Reason

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class ShadowTap:
    """Taps the decisions of a run.

    Attributes:
        forecaster: Asks; None taps nothing.
        decider: Whose decisions come first.
        rules: Weights and limits of the run.
        journal: Records.
        ledger: Counts.
        max_in_flight: Questions that may be open at once, of all versions together.
    """

    forecaster: ShadowForecaster | None
    decider: Decider
    rules: DecisionRules
    journal: Journal
    ledger: RunLedger
    max_in_flight: int
    _asking: set[asyncio.Task[None]] = field(default_factory=set)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def in_flight(self) -> int:
        """Questions that are open now."""
        return len(self._asking)

    def decided(self, decided: Decided) -> None:
        """Have every version that is tried asked about a decision; returns at once.

        Call it when the decision's orders are out and its positions are protected.
        """
        if self.forecaster is None:
            return
        for shadow in self.forecaster.versions:
            if too_much := self._too_much():
                not_sent = CallRecord(shadow.voter, "", 0, 0, 0)
                self._record(shadow, decided, NoAnswer(Reason.BUSY, too_much, not_sent))
                continue
            task = asyncio.create_task(self._ask(self.forecaster, shadow, decided))
            self._asking.add(task)
            task.add_done_callback(partial(self._done, shadow))

    async def close(self, timeout_s: float) -> None:
        """Wait for the answers that are still open, and give up those that do not come."""
        if self._asking:
            await asyncio.wait(self._asking, timeout=timeout_s)
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    def _too_much(self) -> str:
        if self.decider.under_way:
            return f"dropped: {self.decider.under_way} decisions are being made"
        if len(self._asking) >= self.max_in_flight:
            return f"dropped: {len(self._asking)} questions are open, the limit of this strategy"
        return ""

    async def _ask(self, forecaster: ShadowForecaster, shadow: ShadowVersion, decided: Decided) -> None:
        try:
            outcome = await forecaster.ask(shadow, decided.request)
        except asyncio.CancelledError:
            cut_off = CallRecord(shadow.voter, "", 0, 0, 0)
            self._record(shadow, decided, NoAnswer(Reason.LATE, "the run ended first", cut_off))
            raise
        async with self._turn:
            # A bar may have closed meanwhile: its decision goes first.
            await self.decider.calm()
            self._record(shadow, decided, outcome)
            await asyncio.sleep(0)  # sockets are read between two of these, so that no bar waits for many

    def _record(self, shadow: ShadowVersion, decided: Decided, outcome: Outcome[Forecast]) -> None:
        tally = self.ledger.shadows.setdefault(shadow, ShadowTally())
        tally.asked += bool(outcome.call.sent_ns)
        request, live = decided.request, decided.decision
        if isinstance(outcome, NoAnswer):
            if outcome.reason is Reason.BUSY and not outcome.call.sent_ns:
                tally.dropped += 1
            else:
                tally.missing[outcome.reason.value] += 1
            self.journal.record(recording.shadow_row(request, live, shadow, outcome, None, None, None))
            return
        vote = outcome.value.probabilities
        other = would_be(decided.given, self.rules, shadow.voter, Answer(vote, outcome.call))
        agrees = agree(live, other)
        own = decided.given.votes.get(shadow.voter)
        away = largest_difference(own.value, vote) if isinstance(own, Answer) else None
        tally.answered += 1
        tally.agreed += agrees
        if away is not None and not tally.max_difference >= away:  # the first one is compared with nan
            tally.max_difference = away
        self.journal.record(recording.shadow_row(request, live, shadow, outcome, other, agrees, away))

    def _done(self, shadow: ShadowVersion, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Nobody waits for this task: it is told here, and the trading goes on. No traceback with the
            # values in it: rendering one can take the loop, and so the next decision, a second.
            place = traceback.extract_tb(error.__traceback__)[-1]
            _log.error(
                "shadow failed",
                voter=shadow.voter,
                version=shadow.version,
                error=f"{type(error).__name__}: {error}",
                place=f"{place.filename}:{place.lineno}",
            )
            self.ledger.shadows.setdefault(shadow, ShadowTally()).missing[Reason.FAILED.value] += 1
