"""The control service of a running strategy: its state, its decisions as they are made, its switches."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from tradeserve.market.v1 import market_pb2
from tradeserve.strategy.v1 import strategy_service_pb2 as pb
from tradeserve.strategy.v1 import strategy_service_pb2_grpc as rpc
from tradeserve_client.channel import TlsFiles
from tradeserve_client.errors import MalformedResponseError, ServerDownError, WrongRequestError, error_of
from tradeserve_client.metadata import MetadataSource
from tradeserve_client.replicas import ReplicaSet

T = TypeVar("T")

SERVICE = "strategy"
MAX_RECENT = 1000
TIMEOUT_S = 5.0
_REMEMBERED_IDS = 2 * MAX_RECENT
_FIRST_PAUSE_S = 0.1
_MAX_PAUSE_S = 5.0


class TradingState(StrEnum):
    """Whether a strategy may send orders."""

    STARTING = "starting"
    """Waits for the gateway, the history or the reconciliation."""
    TRADING = "trading"
    """Decides and sends orders."""
    PAUSED = "paused"
    """Paused by a person: decides, sends no entries."""
    HALTED = "halted"
    """Halted by a risk limit until the next session."""
    KILLED = "killed"
    """Killed: latched until a person resets it."""
    DISCONNECTED = "disconnected"
    """The gateway is away or not reconciled: no orders."""


class Side(StrEnum):
    """What a decision, or a reading of a chart, says."""

    BUY = "buy"
    SELL = "sell"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class ServiceState:
    """What a strategy sees of one service that it calls.

    Attributes:
        name: Example: "lstm_cnn".
        target: host:port or unix path.
        in_time_count: Answers in time in this run.
        missing_count: Calls without one.
        last_missing_reason: Why the latest was missing; "" when none was.
    """

    name: str
    target: str
    in_time_count: int
    missing_count: int
    last_missing_reason: str


@dataclass(frozen=True, slots=True)
class StrategyStatus:
    """The state of a run.

    Attributes:
        run_id: UUIDv7, as in the journal.
        trading_mode: "paper" or "live".
        trading_state: Whether orders may be sent.
        state_reason: Why, when it is not TRADING.
        equity: Net liquidation in the account's currency.
        run_pnl: Since the start of the run, after commission, in the account's currency.
        drawdown_bps: From the highest equity of the run.
        decision_count: In this run.
        order_count: In this run.
        start_ns: When the run began, nanoseconds UTC.
        services: Each service that the strategy calls.
    """

    run_id: str
    trading_mode: str
    trading_state: TradingState
    state_reason: str
    equity: float
    run_pnl: float
    drawdown_bps: float
    decision_count: int
    order_count: int
    start_ns: int
    services: Sequence[ServiceState]


@dataclass(frozen=True, slots=True)
class OpenPosition:
    """What the account holds of one instrument.

    Attributes:
        con_id: Interactive Brokers contract id.
        symbol: For people.
        quantity: Signed; negative is short.
        average_price: Per unit in the instrument's currency, without commission.
        stop_price: Of the stop that protects it; 0 when there is none.
    """

    con_id: int
    symbol: str
    quantity: float
    average_price: float
    stop_price: float


@dataclass(frozen=True, slots=True)
class StrategyDecision:
    """What a strategy decided on one closed bar.

    Attributes:
        decision_id: UUIDv7, as in the journal.
        con_id: Interactive Brokers contract id.
        symbol: For people.
        event_ns: Close of the bar, exchange time in nanoseconds UTC.
        side: What was decided.
        probabilities: That the price falls, stays, rises; all 0 when no forecast had a quorum.
        reason: In one sentence.
        missing_answers: "name: reason" of each.
        latency_ms: From the bar on the socket to the decision.
    """

    decision_id: str
    con_id: int
    symbol: str
    event_ns: int
    side: Side
    probabilities: tuple[float, float, float]
    reason: str
    missing_answers: Sequence[str]
    latency_ms: float


@dataclass(frozen=True, slots=True)
class KillResult:
    """What the kill switch did.

    Attributes:
        trading_state: Afterwards.
        cancel_requested_count: Working orders whose cancellation was requested.
    """

    trading_state: TradingState
    cancel_requested_count: int


class StrategyClient:
    """One running strategy. Every method raises a CallError when there is no answer in time.

    Attributes:
        link: Its channel, watched.
    """

    def __init__(
        self, target: str, *, tls: TlsFiles | None = None, metadata: MetadataSource | None = None
    ) -> None:
        replicas = ReplicaSet([target], tls=tls, metadata=metadata, clock_ns=time.monotonic_ns)
        self.link = replicas.replicas[0].link
        self._stub: Any = rpc.StrategyServiceStub(replicas.replicas[0].channel)

    @property
    def target(self) -> str:
        """Where it is."""
        return self.link.target

    async def ready(self, timeout_s: float) -> bool:
        """Connect, bounded; return whether there is a connection."""
        return await self.link.ready(timeout_s)

    async def status(self, *, timeout_s: float = TIMEOUT_S) -> StrategyStatus:
        """Return the state of the run."""
        response = await _answer(self._stub.GetStatus(pb.GetStatusRequest(), timeout=timeout_s))
        return StrategyStatus(
            run_id=response.run_id,
            trading_mode=response.trading_mode,
            trading_state=_state(response.trading_state),
            state_reason=response.state_reason,
            equity=response.equity,
            run_pnl=response.run_pnl,
            drawdown_bps=response.drawdown_bps,
            decision_count=response.decision_count,
            order_count=response.order_count,
            start_ns=_ns(response.start_time),
            services=tuple(
                ServiceState(
                    service.name,
                    service.target,
                    service.in_time_count,
                    service.missing_count,
                    service.last_missing_reason,
                )
                for service in response.services
            ),
        )

    async def positions(self, *, timeout_s: float = TIMEOUT_S) -> Sequence[OpenPosition]:
        """Return the open positions, by con_id."""
        response = await _answer(self._stub.ListPositions(pb.ListPositionsRequest(), timeout=timeout_s))
        return tuple(
            OpenPosition(
                position.instrument.con_id,
                position.instrument.symbol,
                position.quantity,
                position.average_price,
                position.stop_price,
            )
            for position in response.positions
        )

    async def recent_decisions(
        self, count: int, *, timeout_s: float = TIMEOUT_S
    ) -> Sequence[StrategyDecision]:
        """Return up to `count` decisions made so far, the oldest first.

        Raises:
            CallError: No answer; WrongRequestError when count is not 1 to 1,000.
        """
        if not 1 <= count <= MAX_RECENT:
            raise WrongRequestError(SERVICE, f"count is {count}; give 1 to {MAX_RECENT}")
        # The stream never ends by itself: how many there are is asked first.
        made = (await self.status(timeout_s=timeout_s)).decision_count
        wanted = min(count, made, MAX_RECENT)
        decisions: list[StrategyDecision] = []
        if wanted:
            async for decision in self._stream(wanted, timeout_s):
                decisions.append(decision)
                if len(decisions) == wanted:
                    break
        return decisions

    async def follow(
        self, recent_count: int = 0, *, reconnect: bool = False
    ) -> AsyncGenerator[StrategyDecision, None]:
        """Yield the last decisions, the oldest first, and then each new one as it is made.

        Args:
            recent_count: How many past ones to begin with, 0 to 1,000.
            reconnect: Go on after a lost connection, without a decision twice and, up to 1,000
                missed ones, without a gap; else ServerDownError ends it.

        Raises:
            CallError: No connection; ServerBusyError when read too slowly, or too many follow.
        """
        if not 0 <= recent_count <= MAX_RECENT:
            raise WrongRequestError(SERVICE, f"recent_count is {recent_count}; give 0 to {MAX_RECENT}")
        seen: OrderedDict[str, None] = OrderedDict()
        first_id = ""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                async for decision in self._stream(MAX_RECENT if first_id else recent_count, None):
                    pause_s = _FIRST_PAUSE_S
                    # Ids are UUIDv7: a smaller one was made before what this caller began with.
                    if decision.decision_id in seen or decision.decision_id < first_id:
                        continue
                    first_id = first_id or decision.decision_id
                    seen[decision.decision_id] = None
                    if len(seen) > _REMEMBERED_IDS:
                        first_id, _ = seen.popitem(last=False)
                    yield decision
                if not reconnect:
                    return
            except ServerDownError:
                if not reconnect:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)

    async def pause(self, reason: str, *, timeout_s: float = TIMEOUT_S) -> TradingState:
        """Stop new entries; open positions keep their stops. Idempotent."""
        response = await _answer(self._stub.Pause(pb.PauseRequest(reason=reason), timeout=timeout_s))
        return _state(response.trading_state)

    async def resume(self, reason: str, *, timeout_s: float = TIMEOUT_S) -> TradingState:
        """Allow entries again; refused (CallError) while halted or killed."""
        response = await _answer(self._stub.Resume(pb.ResumeRequest(reason=reason), timeout=timeout_s))
        return _state(response.trading_state)

    async def kill(self, reason: str, *, timeout_s: float = TIMEOUT_S) -> KillResult:
        """Cancel every working order and stop trading until a person resets it. Idempotent."""
        response = await _answer(
            self._stub.TriggerKillSwitch(pb.TriggerKillSwitchRequest(reason=reason), timeout=timeout_s)
        )
        return KillResult(_state(response.trading_state), response.cancel_requested_count)

    async def reset_kill(self, reason: str, *, timeout_s: float = TIMEOUT_S) -> TradingState:
        """Reset the kill switch; refused (CallError) unless the broker's state is reconciled."""
        response = await _answer(
            self._stub.ResetKillSwitch(pb.ResetKillSwitchRequest(reason=reason), timeout=timeout_s)
        )
        return _state(response.trading_state)

    async def close(self) -> None:
        """Close the channel."""
        await self.link.close()

    async def _stream(
        self, recent_count: int, timeout_s: float | None
    ) -> AsyncGenerator[StrategyDecision, None]:
        call = self._stub.StreamDecisions(
            pb.StreamDecisionsRequest(recent_count=recent_count), timeout=timeout_s
        )
        try:
            async for response in call:
                yield _decision(response.decision)
        except grpc.aio.AioRpcError as error:
            raise error_of(SERVICE, error) from error
        finally:
            call.cancel()


_STATES: Mapping[int, TradingState] = {
    pb.TRADING_STATE_STARTING: TradingState.STARTING,
    pb.TRADING_STATE_TRADING: TradingState.TRADING,
    pb.TRADING_STATE_PAUSED: TradingState.PAUSED,
    pb.TRADING_STATE_HALTED: TradingState.HALTED,
    pb.TRADING_STATE_KILLED: TradingState.KILLED,
    pb.TRADING_STATE_DISCONNECTED: TradingState.DISCONNECTED,
}
_SIDES: Mapping[int, Side] = {
    market_pb2.SIDE_BUY: Side.BUY,
    market_pb2.SIDE_SELL: Side.SELL,
    market_pb2.SIDE_HOLD: Side.HOLD,
}


async def _answer(call: Awaitable[T]) -> T:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise error_of(SERVICE, error) from error


def _state(number: int) -> TradingState:
    state = _STATES.get(number)
    if state is None:
        raise MalformedResponseError(SERVICE, f"malformed answer: unknown trading state {number}")
    return state


def _decision(message: pb.Decision) -> StrategyDecision:
    side = _SIDES.get(message.side)
    if side is None:
        raise MalformedResponseError(SERVICE, f"malformed answer: unknown side {message.side}")
    return StrategyDecision(
        decision_id=message.decision_id,
        con_id=message.instrument.con_id,
        symbol=message.instrument.symbol,
        event_ns=_ns(message.event_time),
        side=side,
        probabilities=(message.down_probability, message.flat_probability, message.up_probability),
        reason=message.reason,
        missing_answers=tuple(message.missing_answers),
        latency_ms=message.latency_ms,
    )


def _ns(timestamp: Timestamp) -> int:
    return timestamp.seconds * 1_000_000_000 + timestamp.nanos
