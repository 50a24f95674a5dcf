"""One closed bar becomes one recorded decision, and perhaps one order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

import uuid_utils

from journal.rows import DecisionRow
from market.events import Bar
from market.indicators import average_true_range, move_band_bps
from strategy import recording, vision_recording
from strategy.core.decision import (
    Decision,
    DecisionInput,
    DecisionRules,
    checks_to_json,
    input_to_json,
    make_decision,
)
from strategy.core.ensemble import neighbors_outcome
from strategy.core.pricing import BracketPlan
from strategy.core.values import OrderIntent, Probabilities, Purpose, Side
from strategy.core.vision import VisionEffect
from strategy.garbage import GarbageKeeper
from strategy.ledger import StageClock
from strategy.market_view import MarketView
from strategy.orders import OrderDesk
from strategy.ports import Clock, Forecast, Forecaster, ForecastReply, ForecastRequest, Journal
from strategy.situation import Situation
from tradeserve_client.answers import Answer, NoAnswer, Outcome

_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision and what became of it.

    Attributes:
        decision_id: UUIDv7.
        bar: What caused it.
        request: What the services were asked.
        given: What ensemble, policy and risk were given.
        decided_ns: When, wall clock.
        decision: Ensemble, policy and risk.
        side: What was done: HOLD also where an entry was refused or could not be sent.
        reason: Why, in one sentence.
        reply: Of the services.
        clock: Where the time went.
    """

    decision_id: str
    bar: Bar
    request: ForecastRequest
    given: DecisionInput
    decided_ns: int
    decision: Decision
    side: Side
    reason: str
    reply: ForecastReply
    clock: StageClock


@dataclass(slots=True)
class Decider:
    """Asks, decides, acts, records.

    Attributes:
        rules: Weights and limits of the run.
        budget_ms: From the bar on the socket to the order on the socket.
        market: Windows and quotes.
        forecaster: Asks the services.
        desk: Sends orders.
        journal: Records.
        clock: Of the budget.
        situation: Input of policy and risk checks.
        garbage: Kept off decisions.
        vision: What the newest reading of a chart does to the decision of a bar.
    """

    rules: DecisionRules
    budget_ms: float
    market: MarketView
    forecaster: Forecaster
    desk: OrderDesk
    journal: Journal
    clock: Clock
    situation: Situation
    garbage: GarbageKeeper = field(default_factory=GarbageKeeper)
    vision: Callable[[Bar], VisionEffect | None] = lambda _: None
    _under_way: int = 0
    _calm: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def under_way(self) -> int:
        """Decisions that are being made, their orders not yet out."""
        return self._under_way

    async def calm(self) -> None:
        """Wait until no decision is being made."""
        while self._under_way:
            await self._calm.wait()

    async def decide(self, bar: Bar) -> Decided:
        """Make the decision of one bar and record it; the window is full.

        Bars of several instruments close at once: recording waits until all of their orders are out.
        """
        self._under_way += 1
        self._calm.clear()
        self.garbage.decision_began(bar.receive_ns)
        try:
            decided = await self._decide(bar)
        finally:
            self.garbage.decision_ended()
            self._under_way -= 1
            if not self._under_way:
                self._calm.set()
        try:
            if self._under_way:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.budget_ms / 1e3):
                        await self._calm.wait()
        finally:
            self._record(decided)
        return decided

    async def _decide(self, bar: Bar) -> Decided:
        stages = StageClock(bar.receive_ns)
        window = self.market.windows[bar.con_id].as_array()
        request = ForecastRequest(uuid_utils.uuid7().hex, bar.con_id, window, bar.end_ns, bar.receive_ns)
        stages.mark("window", self.clock.monotonic_ns())

        reply = await self.forecaster.forecast(request)
        stages.mark("forecasts", self.clock.monotonic_ns())

        limits = self.rules.ensemble
        votes: dict[str, Outcome[Probabilities]] = {
            name: _vote(outcome) for name, outcome in reply.forecasts.items() if name in self.rules.weights
        }
        if recording.NEIGHBORS in self.rules.weights:
            band_bps = move_band_bps(window, limits.horizon_bars, limits.band_sigmas)
            votes[recording.NEIGHBORS] = neighbors_outcome(
                reply.neighbors, band_bps, self.market.bar_size_s, limits
            )
        atr = average_true_range(window, self.rules.risk.atr_period_bars)
        policy, risk = self.situation.policy_state(bar), self.situation.risk_state(bar, atr)
        given = DecisionInput(votes, policy, risk, self.vision(bar))
        decision = make_decision(given, self.rules)
        stages.mark("decide", self.clock.monotonic_ns())

        side, reason = await self._act(request, bar, decision, stages)
        return Decided(
            decision_id=request.decision_id,
            bar=bar,
            request=request,
            given=given,
            decided_ns=self.clock.wall_ns(),
            decision=decision,
            side=side,
            reason=reason,
            reply=reply,
            clock=stages,
        )

    async def _act(
        self, request: ForecastRequest, bar: Bar, decision: Decision, stages: StageClock
    ) -> tuple[Side, str]:
        signal = decision.signal
        if decision.exit is not None:
            problem = await self.desk.close(
                bar.con_id,
                self.market.symbol(bar.con_id),
                Purpose.EXIT,
                request.decision_id,
                decision.exit.limit_price,
            )
            return (
                (Side.HOLD, f"{signal.reason}; exit not sent: {problem}")
                if problem
                else (signal.side, signal.reason)
            )
        if decision.verdict is None:
            return Side.HOLD, signal.reason
        if decision.verdict.plan is None:
            return Side.HOLD, f"{signal.reason}; risk: {decision.verdict.refusal}"
        intent = self._intent(request, decision.verdict.plan)
        not_after_ns = bar.receive_ns + int(self.budget_ms * _MS)
        problem = await self.desk.enter(
            intent, not_after_ns, lambda: stages.mark("intent", self.clock.monotonic_ns())
        )
        if problem:
            return Side.HOLD, f"{signal.reason}; entry not sent: {problem}"
        stages.mark("order", self.clock.monotonic_ns())
        return signal.side, signal.reason

    def _intent(self, request: ForecastRequest, plan: BracketPlan) -> OrderIntent:
        return OrderIntent(
            intent_id=uuid_utils.uuid7().hex,
            decision_id=request.decision_id,
            con_id=request.con_id,
            symbol=self.market.symbol(request.con_id),
            side=plan.side,
            purpose=Purpose.ENTRY,
            quantity=plan.quantity,
            limit_price=plan.limit_price,
            stop_price=plan.stop_price,
            take_profit_price=plan.take_profit_price,
            created_ns=self.clock.wall_ns(),
        )

    def _record(self, decided: Decided) -> None:
        request, decision, reply = decided.request, decided.decision, decided.reply
        probabilities = decision.consensus.probabilities
        self.journal.record(
            DecisionRow(
                decision_id=request.decision_id,
                con_id=request.con_id,
                event_ns=request.event_ns,
                decided_ns=decided.decided_ns,
                side=decided.side.value,
                purpose=decision.signal.purpose.value if decision.signal.purpose else None,
                strength=decision.signal.strength,
                reason=decided.reason,
                down_probability=probabilities.down if probabilities else None,
                flat_probability=probabilities.flat if probabilities else None,
                up_probability=probabilities.up if probabilities else None,
                weights=dict(decision.consensus.weights),
                missing=dict(decision.consensus.missing),
                risk_checks=checks_to_json(decision.verdict),
                state=input_to_json(decided.given),
                ledger=dict(decided.clock.spans),
                budget_ns=int(self.budget_ms * _MS),
                window=request.window.astype("<f4").tobytes(),
            )
        )
        if decided.given.vision is not None:
            effect = vision_recording.effect_row(request.decision_id, decided.given.vision, decision)
            if effect is not None:
                self.journal.record(effect)
        for row in recording.call_rows(request, reply):
            self.journal.record(row)
        if isinstance(reply.neighbors, Answer):
            for neighbor in recording.neighbor_rows(request.decision_id, reply.neighbors.value):
                self.journal.record(neighbor)


def _vote(outcome: Outcome[Forecast]) -> Outcome[Probabilities]:
    return outcome if isinstance(outcome, NoAnswer) else Answer(outcome.value.probabilities, outcome.call)
