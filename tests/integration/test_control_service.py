"""StrategyService over a real socket, on an engine whose market and broker are in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from fakes.engine_world import World
from server_runtime.server import GrpcServer, ServerOptions, Transport
from strategy.adapters.control import SERVICE, StrategyServicer, register
from tradeserve.market.v1 import market_pb2
from tradeserve.strategy.v1 import strategy_service_pb2 as pb
from tradeserve.strategy.v1 import strategy_service_pb2_grpc as pb_grpc

TIMEOUT_S = 5.0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def stub(world: World, server_transport: Transport) -> AsyncIterator[pb_grpc.StrategyServiceAsyncStub]:
    server = GrpcServer(ServerOptions(transport=server_transport))
    server.add_service(SERVICE, register(StrategyServicer(world.engine)))
    address = await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        stub: pb_grpc.StrategyServiceAsyncStub = pb_grpc.StrategyServiceStub(channel)  # type: ignore[assignment]
        yield stub
    await server.stop()


async def test_status_and_positions_show_the_run(
    world: World, stub: pb_grpc.StrategyServiceAsyncStub
) -> None:
    await world.bar()
    status = await stub.GetStatus(pb.GetStatusRequest(), timeout=TIMEOUT_S)
    assert status.trading_state == pb.TRADING_STATE_TRADING
    assert (status.decision_count, status.order_count) == (1, 1)
    assert {service.name: service.in_time_count for service in status.services} == {
        "gaf_resnet": 1,
        "lstm_cnn": 1,
        "similarity": 0,
    }
    assert status.equity == pytest.approx(100_000, abs=20)
    (held,) = (await stub.ListPositions(pb.ListPositionsRequest(), timeout=TIMEOUT_S)).positions
    assert held.instrument.symbol == "ACME"
    assert held.quantity == world.held
    assert 0 < held.stop_price < held.average_price


async def test_the_stream_gives_recent_decisions_and_then_new_ones(
    world: World, stub: pb_grpc.StrategyServiceAsyncStub
) -> None:
    await world.bar()
    call = stub.StreamDecisions(pb.StreamDecisionsRequest(recent_count=10), timeout=TIMEOUT_S)
    first = (await call.read()).decision
    assert (first.side, first.instrument.symbol) == (market_pb2.SIDE_BUY, "ACME")
    assert first.up_probability == pytest.approx(0.6)
    assert any(text.startswith("similarity: down") for text in first.missing_answers)
    await world.bar()
    second = (await call.read()).decision
    assert second.event_time.ToNanoseconds() > first.event_time.ToNanoseconds()
    call.cancel()


async def test_pause_kill_and_reset(world: World, stub: pb_grpc.StrategyServiceAsyncStub) -> None:
    paused = await stub.Pause(pb.PauseRequest(reason="lunch"), timeout=TIMEOUT_S)
    assert paused.trading_state == pb.TRADING_STATE_PAUSED
    resumed = await stub.Resume(pb.ResumeRequest(), timeout=TIMEOUT_S)
    assert resumed.trading_state == pb.TRADING_STATE_TRADING
    await world.bar()
    killed = await stub.TriggerKillSwitch(pb.TriggerKillSwitchRequest(reason="drill"), timeout=TIMEOUT_S)
    assert (killed.trading_state, killed.cancel_requested_count) == (pb.TRADING_STATE_KILLED, 2)
    again = await stub.TriggerKillSwitch(pb.TriggerKillSwitchRequest(reason="again"), timeout=TIMEOUT_S)
    assert again.trading_state == pb.TRADING_STATE_KILLED
    with pytest.raises(grpc.aio.AioRpcError, match="reset the kill switch first") as refused:
        await stub.Resume(pb.ResumeRequest(), timeout=TIMEOUT_S)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    reset = await stub.ResetKillSwitch(pb.ResetKillSwitchRequest(reason="drill is over"), timeout=TIMEOUT_S)
    assert reset.trading_state == pb.TRADING_STATE_PAUSED


@pytest.mark.parametrize(
    ("call", "request_message", "words"),
    [
        ("ResetKillSwitch", pb.ResetKillSwitchRequest(), "reason: is empty"),
        ("Pause", pb.PauseRequest(reason="x" * 201), "reason: has 201 characters"),
    ],
)
async def test_bad_input_names_the_field(
    stub: pb_grpc.StrategyServiceAsyncStub, call: str, request_message: object, words: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=words) as refused:
        await getattr(stub, call)(request_message, timeout=TIMEOUT_S)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_wrong_count_of_recent_decisions_is_refused(stub: pb_grpc.StrategyServiceAsyncStub) -> None:
    call = stub.StreamDecisions(pb.StreamDecisionsRequest(recent_count=1001), timeout=TIMEOUT_S)
    with pytest.raises(grpc.aio.AioRpcError, match="recent_count: is 1001"):
        await call.read()
