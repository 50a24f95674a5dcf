"""StrategyClient against the real control service, on an engine whose market and broker are in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from fakes.engine_world import World
from fakes.waiting import client_tasks, until
from server_runtime.server import GrpcServer, ServerOptions
from strategy.adapters.control import SERVICE, StrategyServicer, register
from tradeserve_client.answers import Reason
from tradeserve_client.errors import CallError, ServerDownError, WrongRequestError
from tradeserve_client.strategy_service import Side, StrategyClient, StrategyDecision, TradingState


class ControlServer:
    """The control service of a world; goes and comes back on the same port."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._server: GrpcServer | None = None
        self.address = "127.0.0.1:0"

    async def start(self) -> None:
        host, _, port = self.address.rpartition(":")
        server = GrpcServer(ServerOptions(host=host, port=int(port)))
        server.add_service(SERVICE, register(StrategyServicer(self._world.engine)))
        self.address = await server.start()
        self._server = server

    async def stop(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def server(world: World) -> AsyncIterator[ControlServer]:
    made = ControlServer(world)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def client(server: ControlServer) -> AsyncIterator[StrategyClient]:
    before = client_tasks()
    client = StrategyClient(server.address)
    assert await client.ready(10)
    yield client
    await client.close()
    await until(lambda: not client_tasks() - before)


async def test_status_positions_and_decisions_are_plain_values(world: World, client: StrategyClient) -> None:
    assert await client.recent_decisions(10) == []
    await world.bar()
    status = await client.status()
    assert status.trading_state is TradingState.TRADING
    assert (status.decision_count, status.order_count, status.state_reason) == (1, 1, "")
    assert {service.name for service in status.services} == {"gaf_resnet", "lstm_cnn", "similarity"}
    assert status.start_ns > 0
    (position,) = await client.positions()
    assert (position.symbol, position.quantity) == ("ACME", world.held)
    (decision,) = await client.recent_decisions(10)
    assert (decision.side, decision.symbol) == (Side.BUY, "ACME")
    assert sum(decision.probabilities) == pytest.approx(1)


async def test_decisions_are_followed_as_they_are_made(world: World, client: StrategyClient) -> None:
    await world.bar()
    async with aclosing(client.follow(10)) as decisions:
        first = await anext(decisions)
        await world.bar()
        second = await anext(decisions)
    assert second.event_ns > first.event_ns


async def test_a_lost_connection_ends_the_following_unless_it_may_reconnect(
    world: World, server: ControlServer, client: StrategyClient
) -> None:
    await world.bar()
    got: list[StrategyDecision] = []

    async def follow() -> None:
        async for decision in client.follow(1, reconnect=True):
            got.append(decision)  # noqa: PERF401 - looked at while it grows

    following = asyncio.create_task(follow())
    async with aclosing(client.follow(1)) as decisions:
        await anext(decisions)
        await until(lambda: len(got) == 1)
        await server.stop()
        with pytest.raises(ServerDownError):
            await anext(decisions)
    await world.bar()  # made while nobody could see it
    await server.start()
    await until(lambda: len(got) == 2)
    await world.bar()
    await until(lambda: len(got) == 3)
    assert len({decision.decision_id for decision in got}) == 3
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following


async def test_the_switches_work_and_refuse_in_words(world: World, client: StrategyClient) -> None:
    assert await client.pause("lunch") is TradingState.PAUSED
    assert await client.resume("back") is TradingState.TRADING
    await world.bar()
    killed = await client.kill("drill")
    assert (killed.trading_state, killed.cancel_requested_count) == (TradingState.KILLED, 2)
    with pytest.raises(CallError, match="reset the kill switch first"):
        await client.resume("too early")
    assert await client.reset_kill("drill is over") is TradingState.PAUSED


async def test_bad_input_is_a_bug_of_the_caller(client: StrategyClient) -> None:
    with pytest.raises(WrongRequestError, match="reason: is empty"):
        await client.reset_kill("")
    for count in (0, 1001):
        with pytest.raises(WrongRequestError, match="give 1 to 1000"):
            await client.recent_decisions(count)
    with pytest.raises(WrongRequestError, match="give 0 to 1000"):
        await anext(client.follow(-1))


async def test_a_strategy_that_is_not_there_is_down(server: ControlServer, client: StrategyClient) -> None:
    await server.stop()
    with pytest.raises(CallError) as caught:
        await client.status(timeout_s=0.5)
    assert caught.value.reason in (Reason.DOWN, Reason.LATE)
