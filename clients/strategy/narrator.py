"""Counts what happened and tells it: to the ledger, the screen and the followers of decisions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from market.events import Bar
from strategy.core.values import OrderEvent, OrderIntent
from strategy.decider import Decided
from strategy.ledger import RunLedger
from strategy.portfolio import Portfolio
from strategy.recording import NEIGHBORS
from strategy.screen import BarSummary, Screen
from strategy.status import DecisionFeed, DecisionView
from tradeserve_client.answers import Answer, NoAnswer, Outcome, Reason

# 202: an order was cancelled, as we asked; 10148: it had filled before the wish to cancel arrived.
_EXPECTED_CODES = frozenset({0, 202, 10148})
_PASSING = frozenset({Reason.LATE, Reason.BUSY, Reason.NO_BUDGET, Reason.NO_INPUT})


@dataclass(frozen=True, slots=True)
class Narrator:
    """Tells what was decided.

    Attributes:
        rows: Returns how many rows are recorded and how many wait.
        trace: Told of every decision, with its symbol; None for nobody.
    """

    ledger: RunLedger
    feed: DecisionFeed
    portfolio: Portfolio
    screen: Screen
    budget_ms: float
    rows: Callable[[], tuple[int, int]]
    trace: Callable[[Decided, str], None] | None = None
    _away: dict[str, str] = field(default_factory=dict)
    _sent: dict[str, list[OrderIntent]] = field(default_factory=dict)

    def sent(self, intent: OrderIntent) -> None:
        """Count an order; it is shown below its decision's line, when that is out of the way."""
        self.ledger.orders += 1
        if intent.decision_id:
            self._sent.setdefault(intent.decision_id, []).append(intent)
        else:
            self.screen.intent(intent)

    def changed(self, event: OrderEvent, symbol: str) -> None:
        """Show what became of an order, where a person should know."""
        # An entry that is cancelled before it filled is news; cancelled stops and targets are not.
        unfilled = event.status == "Cancelled" and not event.error_code and event.order_ref.endswith("/E")
        if unfilled or event.error_code not in _EXPECTED_CODES or event.status == "Inactive":
            self.screen.order(symbol, event)

    def decided(self, decided: Decided, symbol: str) -> None:
        """Count and show a decision."""
        consensus = decided.decision.consensus
        self.ledger.add_decision(
            decided.side.value,
            decided.clock,
            quorum=consensus.probabilities is not None,
            budget_ns=int(self.budget_ms * 1e6),
        )
        restrained = decided.decision.restrained is not None
        vetoed = restrained and decided.decision.signal.purpose is None
        self.ledger.vision.vetoes += vetoed
        self.ledger.vision.shrinks += restrained and not vetoed
        answers: dict[str, Outcome[object]] = {**decided.reply.forecasts, NEIGHBORS: decided.reply.neighbors}
        for name, outcome in answers.items():
            if isinstance(outcome, Answer):
                self.ledger.add_answer(name, outcome.call.round_trip_ns)
                if self._away.pop(name, ""):
                    self.screen.attention(f"{name} answers again")
            elif outcome.reason is not Reason.OFF:
                self.ledger.add_missing(name, outcome.reason.value, outcome.detail)
                self._explain(name, outcome)
        for name, attempts in decided.reply.attempts.items():
            self.ledger.service(name).again.update(attempt.cause.value for attempt in attempts[1:])
        self.screen.decision(
            symbol,
            decided.bar.end_ns,
            decided.side,
            consensus,
            decided.reply,
            decided.clock,
            self.budget_ms,
            decided.reason,
        )
        for intent in self._sent.pop(decided.decision_id, ()):
            self.screen.intent(intent)
        if self.trace is not None:
            self.trace(decided, symbol)
        self.feed.add(
            DecisionView(
                decided.decision_id,
                decided.bar.con_id,
                symbol,
                decided.bar.end_ns,
                decided.side,
                consensus.probabilities,
                decided.reason,
                consensus.missing,
                decided.clock.total_ns / 1e6,
            )
        )

    def _explain(self, name: str, outcome: NoAnswer) -> None:
        """Say once why a service is away; a late answer is normal and stands in the decision's line."""
        if outcome.reason not in _PASSING and self._away.get(name) != outcome.reason.value:
            self._away[name] = outcome.reason.value
            self.screen.attention(f"{name} {outcome.reason}: {outcome.detail}")

    def bar_done(self, bar: Bar) -> None:
        """Show the account after a bar of all instruments."""
        recorded, waiting = self.rows()
        self.screen.summary(
            BarSummary(
                event_ns=bar.end_ns,
                positions={held.symbol: held.quantity for held in self.portfolio.open_positions()},
                pnl=self.portfolio.money().net,
                drawdown_pct=self.portfolio.drawdown_pct,
                rows_recorded=recorded,
                rows_waiting=waiting,
            )
        )
