"""The gRPC face of a running strategy: status, positions, decisions, pause, kill switch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import grpc

from server_runtime import errors
from server_runtime.server import ServerOptions, Transport
from strategy.core.values import Position, Side
from strategy.status import Controlled, DecisionView, StatusView, TooManyFollowersError
from strategy.trading_state import StateError, TradingState
from tradeserve.market.v1 import market_pb2
from tradeserve.strategy.v1 import strategy_service_pb2 as pb
from tradeserve.strategy.v1 import strategy_service_pb2_grpc as pb_grpc

SERVICE = pb.DESCRIPTOR.services_by_name["StrategyService"].full_name

# The service shares the strategy's event loop: who asks more often is refused, so that decisions are made.
MAX_CALLS_PER_S = 200
_ALWAYS = ("Pause", "TriggerKillSwitch")
_MAX_REASON_CHARACTERS = 200
_MAX_RECENT = 1000

_STATES = {
    TradingState.STARTING: pb.TRADING_STATE_STARTING,
    TradingState.TRADING: pb.TRADING_STATE_TRADING,
    TradingState.PAUSED: pb.TRADING_STATE_PAUSED,
    TradingState.HALTED: pb.TRADING_STATE_HALTED,
    TradingState.KILLED: pb.TRADING_STATE_KILLED,
    TradingState.DISCONNECTED: pb.TRADING_STATE_DISCONNECTED,
}
_SIDES = {
    Side.BUY: market_pb2.SIDE_BUY,
    Side.SELL: market_pb2.SIDE_SELL,
    Side.HOLD: market_pb2.SIDE_HOLD,
}


class StrategyServicer(pb_grpc.StrategyServiceServicer):
    """Serves `tradeserve.strategy.v1.StrategyService` for one engine."""

    def __init__(self, engine: Controlled) -> None:
        self._engine = engine

    async def GetStatus(
        self, request: pb.GetStatusRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetStatusResponse:
        """Return the state of the run."""
        return _status(self._engine.status())

    async def ListPositions(
        self, request: pb.ListPositionsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListPositionsResponse:
        """Return the open positions."""
        positions = sorted(self._engine.open_positions(), key=lambda item: item[0].con_id)
        return pb.ListPositionsResponse(positions=[_position(*item) for item in positions])

    async def StreamDecisions(
        self, request: pb.StreamDecisionsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.StreamDecisionsResponse]:
        """Stream decisions until the caller leaves or falls behind."""
        if not 0 <= request.recent_count <= _MAX_RECENT:
            raise errors.InvalidFieldError(
                "recent_count", f"is {request.recent_count}; give 0 to {_MAX_RECENT}"
            )
        try:
            async for decision in self._engine.decisions.follow(request.recent_count):
                yield pb.StreamDecisionsResponse(decision=_decision(decision))
        except TooManyFollowersError as e:
            raise errors.OverloadedError(str(e)) from e
        raise errors.OverloadedError("the caller reads decisions too slowly; connect again")

    async def Pause(self, request: pb.PauseRequest, context: grpc.aio.ServicerContext) -> pb.PauseResponse:
        """Stop entries."""
        return pb.PauseResponse(trading_state=_STATES[self._engine.pause(_reason(request.reason))])

    async def Resume(self, request: pb.ResumeRequest, context: grpc.aio.ServicerContext) -> pb.ResumeResponse:
        """Allow entries again."""
        try:
            return pb.ResumeResponse(trading_state=_STATES[self._engine.resume(_reason(request.reason))])
        except StateError as e:
            raise errors.RefusedError(str(e)) from e

    async def TriggerKillSwitch(
        self, request: pb.TriggerKillSwitchRequest, context: grpc.aio.ServicerContext
    ) -> pb.TriggerKillSwitchResponse:
        """Cancel everything and latch."""
        cancelled = self._engine.kill(_reason(request.reason))
        state = _STATES[self._engine.status().state]
        return pb.TriggerKillSwitchResponse(trading_state=state, cancel_requested_count=cancelled)

    async def ResetKillSwitch(
        self, request: pb.ResetKillSwitchRequest, context: grpc.aio.ServicerContext
    ) -> pb.ResetKillSwitchResponse:
        """Unlatch; the strategy is paused afterwards."""
        reason = _reason(request.reason)
        if not reason:
            raise errors.InvalidFieldError("reason", "is empty; say why trading may go on")
        try:
            return pb.ResetKillSwitchResponse(trading_state=_STATES[self._engine.reset_kill(reason)])
        except StateError as e:
            raise errors.RefusedError(str(e)) from e


def control_options(host: str, port: int, transport: str = Transport.HTTP2) -> ServerOptions:
    """Return how the service listens and what it bounds; what stops trading is let in always."""
    return ServerOptions(
        host=host,
        port=port,
        max_calls_per_s=MAX_CALLS_PER_S,
        urgent=frozenset(f"/{SERVICE}/{name}" for name in _ALWAYS),
        transport=Transport(transport),
    )


def register(servicer: StrategyServicer) -> Callable[[grpc.aio.Server], None]:
    """Return what adds the servicer to a server."""

    def add(server: grpc.aio.Server) -> None:
        pb_grpc.add_StrategyServiceServicer_to_server(servicer, server)

    return add


def _reason(text: str) -> str:
    if len(text) > _MAX_REASON_CHARACTERS:
        raise errors.InvalidFieldError(
            "reason", f"has {len(text)} characters; at most {_MAX_REASON_CHARACTERS}"
        )
    return text


def _status(status: StatusView) -> pb.GetStatusResponse:
    response = pb.GetStatusResponse(
        run_id=status.run_id,
        trading_mode=status.mode,
        trading_state=_STATES[status.state],
        state_reason=status.reason,
        equity=status.equity,
        run_pnl=status.pnl,
        drawdown_bps=status.drawdown_bps,
        decision_count=status.decisions,
        order_count=status.orders,
        services=[
            pb.ServiceStatus(
                name=service.name,
                target=service.target,
                in_time_count=service.in_time,
                missing_count=service.missing,
                last_missing_reason=service.last_missing,
            )
            for service in status.services
        ],
    )
    response.start_time.FromNanoseconds(status.start_ns)
    return response


def _position(position: Position, stop_price: float) -> pb.Position:
    return pb.Position(
        instrument=market_pb2.Instrument(con_id=position.con_id, symbol=position.symbol),
        quantity=float(position.quantity),
        average_price=position.average_price,
        stop_price=stop_price,
    )


def _decision(decision: DecisionView) -> pb.Decision:
    message = pb.Decision(
        decision_id=decision.decision_id,
        instrument=market_pb2.Instrument(con_id=decision.con_id, symbol=decision.symbol),
        side=_SIDES[decision.side],
        reason=decision.reason,
        missing_answers=[f"{name}: {why}" for name, why in sorted(decision.missing.items())],
        latency_ms=decision.latency_ms,
    )
    message.event_time.FromNanoseconds(decision.event_ns)
    if decision.probabilities is not None:
        message.down_probability = decision.probabilities.down
        message.flat_probability = decision.probabilities.flat
        message.up_probability = decision.probabilities.up
    return message
