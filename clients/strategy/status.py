"""What a running strategy shows to its control service; plain values."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from strategy.core.values import Position, Probabilities, Side
from strategy.ledger import RunLedger
from strategy.portfolio import Portfolio
from strategy.ports import VoterInfo
from strategy.situation import RunSettings
from strategy.trading_state import TradingGate, TradingState

_RECENT_DECISIONS = 1000
_MAX_FOLLOWERS = 16
_FOLLOWER_QUEUE = 1000


@dataclass(frozen=True, slots=True)
class DecisionView:
    """A decision as others see it."""

    decision_id: str
    con_id: int
    symbol: str
    event_ns: int
    side: Side
    probabilities: Probabilities | None
    reason: str
    missing: Mapping[str, str]
    latency_ms: float


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A service the strategy calls, as it sees it."""

    name: str
    target: str
    in_time: int
    missing: int
    last_missing: str


@dataclass(frozen=True, slots=True)
class StatusView:
    """The state of the run."""

    run_id: str
    mode: str
    state: TradingState
    reason: str
    equity: float
    pnl: float
    drawdown_bps: float
    decisions: int
    orders: int
    start_ns: int
    services: Sequence[ServiceView]


class TooManyFollowersError(Exception):
    """No more callers are admitted to the stream of decisions."""


class DecisionFeed:
    """The recent decisions, and a bounded stream of the new ones for each follower."""

    def __init__(self) -> None:
        self._recent: deque[DecisionView] = deque(maxlen=_RECENT_DECISIONS)
        self._followers: set[asyncio.Queue[DecisionView | None]] = set()

    def add(self, decision: DecisionView) -> None:
        """Publish a decision; a follower that does not keep up is cut off, never waited for."""
        self._recent.append(decision)
        for queue in tuple(self._followers):
            if queue.full():
                self._followers.discard(queue)
                queue.get_nowait()
                queue.put_nowait(None)
            else:
                queue.put_nowait(decision)

    async def follow(self, recent: int) -> AsyncIterator[DecisionView]:
        """Yield the last `recent` decisions, then each new one; end when too slow.

        Raises:
            TooManyFollowersError: All places are taken.
        """
        if len(self._followers) >= _MAX_FOLLOWERS:
            raise TooManyFollowersError(f"{_MAX_FOLLOWERS} callers follow the decisions already")
        queue: asyncio.Queue[DecisionView | None] = asyncio.Queue(_FOLLOWER_QUEUE)
        self._followers.add(queue)
        try:
            for decision in list(self._recent)[-recent:] if recent else []:
                yield decision
            while (decision_or_end := await queue.get()) is not None:
                yield decision_or_end
        finally:
            self._followers.discard(queue)


class Controlled(Protocol):
    """What the control service needs of the engine."""

    @property
    def decisions(self) -> DecisionFeed:
        """Decisions as they are made."""

    def status(self) -> StatusView:
        """Return the state of the run."""

    def open_positions(self) -> Sequence[tuple[Position, float]]:
        """Return the open positions, each with its stop price (0 for none)."""

    def pause(self, reason: str) -> TradingState:
        """Stop entries."""

    def resume(self, reason: str) -> TradingState:
        """Allow entries again.

        Raises:
            StateError: Halted or killed.
        """

    def kill(self, reason: str) -> int:
        """Cancel everything and latch; return how many orders were asked to cancel."""

    def reset_kill(self, reason: str) -> TradingState:
        """Unlatch.

        Raises:
            StateError: Not reconciled.
        """


def service_views(ledger: RunLedger, voters: Sequence[VoterInfo]) -> Sequence[ServiceView]:
    """Return what each service did in the run."""
    targets = {voter.name: voter.target for voter in voters}
    return [
        ServiceView(name, targets.get(name, ""), tally.in_time, tally.missing.total(), tally.last_missing)
        for name, tally in sorted(ledger.services.items())
    ]


def status_view(
    settings: RunSettings,
    gate: TradingGate,
    portfolio: Portfolio,
    ledger: RunLedger,
    voters: Sequence[VoterInfo],
    start_ns: int,
) -> StatusView:
    """Return the state of a run."""
    return StatusView(
        run_id=settings.run_id,
        mode=settings.trading_mode,
        state=gate.state,
        reason=gate.reason,
        equity=portfolio.equity,
        pnl=portfolio.money().net,
        drawdown_bps=portfolio.drawdown_pct * 100,
        decisions=ledger.decisions.total(),
        orders=ledger.orders,
        start_ns=start_ns,
        services=service_views(ledger, voters),
    )
