"""The clients for code without asyncio, against servers in threads and processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.engine_world import World
from fakes.fake_similarity import INDEX, FakeSimilarity
from fakes.fake_triton import SHA, FakeTriton
from fakes.fake_vision import FakeVision
from server_runtime.server import GrpcServer, ServerOptions
from strategy.adapters.control import SERVICE, StrategyServicer, register
from tradeserve_client.answers import Answer, NoAnswer, Reason
from tradeserve_client.blocking import BlockingClients
from tradeserve_client.chart_reading import ChartQuery
from tradeserve_client.config import (
    ChartReadingSection,
    ClientConfig,
    SimilaritySection,
    StrategySection,
    TritonSection,
)
from tradeserve_client.errors import ConfigError, TooLateError, TradeserveError, WrongRequestError
from tradeserve_client.similarity import SearchQuery
from tradeserve_client.strategy_service import Side, TradingState

INPUTS = {"window": np.ones((1, 60, 5), np.float32)}
UNIT = np.eye(1, 128, dtype=np.float32)[0]
BUDGET_S = 10.0


class Servers:
    """Every service, on a loop in a thread of its own, as another process would be."""

    def __init__(self, folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self._folder = folder
        self.run(self._start)

    def run(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return asyncio.run_coroutine_threadsafe(make(), self.loop).result(30)

    async def _start(self) -> None:
        self.triton, self.similarity, self.vision = FakeTriton(), FakeSimilarity(), FakeVision()
        for server in (self.triton, self.similarity, self.vision):
            await server.start()
        self.world = World(self._folder)
        await self.world.start()
        self.control = GrpcServer(ServerOptions())
        self.control.add_service(SERVICE, register(StrategyServicer(self.world.engine)))
        self.control_address = await self.control.start()

    async def _stop(self) -> None:
        await self.control.stop()
        await self.world.stop()
        for server in (self.triton, self.similarity, self.vision):
            await server.stop()

    def close(self) -> None:
        self.run(self._stop)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(30)
        self.loop.close()

    @property
    def config(self) -> ClientConfig:
        return ClientConfig(
            TritonSection(target=self.triton.address),
            SimilaritySection(target=self.similarity.address),
            ChartReadingSection(target=self.vision.address),
            StrategySection(target=self.control_address),
        )


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(tmp_path)
    yield made
    made.close()


@pytest.fixture
def clients(servers: Servers) -> Iterator[BlockingClients]:
    with BlockingClients(servers.config) as made:
        yield made
    assert not [thread for thread in threading.enumerate() if thread.name == "tradeserve clients"]


def test_every_service_answers_without_asyncio(servers: Servers, clients: BlockingClients) -> None:
    inference = clients.triton.infer("lstm_cnn", INPUTS, budget=BUDGET_S)
    assert isinstance(inference, Answer), inference
    assert inference.call.artifact_sha256 == SHA["lstm_cnn"]
    assert clients.triton.ready()
    assert clients.triton.contract("gaf_resnet").inputs[0].shape == (-1, 60, 5)

    found = clients.similarity.search(SearchQuery(INDEX, UNIT, 5), budget=BUDGET_S)
    assert isinstance(found, Answer)
    assert len(found.value.matches) == 5
    assert clients.similarity.get_index(INDEX).dimension == 128

    chart = ChartQuery(1, "ACME", b"\x89PNG\r\n\x1a\n", 1)
    reading = clients.charts.read_chart(chart, budget=BUDGET_S)
    assert isinstance(reading, Answer)
    assert reading.value.signal is Side.BUY
    assert clients.charts.reader().model.name == "chart_reader"

    servers.run(servers.world.bar)
    assert clients.strategy.status().trading_state is TradingState.TRADING
    assert [position.symbol for position in clients.strategy.positions()] == ["ACME"]
    assert [decision.side for decision in clients.strategy.recent_decisions(5)] == [Side.BUY]
    assert clients.strategy.pause("lunch") is TradingState.PAUSED
    assert clients.strategy.resume("back") is TradingState.TRADING
    assert clients.strategy.kill("drill").trading_state is TradingState.KILLED
    assert clients.strategy.reset_kill("over") is TradingState.PAUSED


async def test_a_running_loop_as_in_a_notebook_is_not_in_the_way(clients: BlockingClients) -> None:
    outcome = clients.triton.infer("lstm_cnn", INPUTS, budget=BUDGET_S)
    assert isinstance(outcome, Answer)


def test_decisions_are_followed_and_left_at_will(servers: Servers, clients: BlockingClients) -> None:
    servers.run(servers.world.bar)
    decisions = clients.strategy.follow(5)
    first = next(decisions)
    servers.run(servers.world.bar)
    assert next(decisions).event_ns > first.event_ns
    decisions.close()
    with pytest.raises(TooLateError):
        next(clients.strategy.follow(0, wait_s=0.05))
    assert clients.strategy.status().decision_count == 2


def test_a_call_waits_no_longer_than_its_budget(servers: Servers, clients: BlockingClients) -> None:
    assert isinstance(clients.triton.infer("lstm_cnn", INPUTS, budget=BUDGET_S), Answer)
    servers.triton.models["lstm_cnn"].delay_s = lambda: 30.0
    start_s = time.monotonic()
    outcome = clients.triton.infer("lstm_cnn", INPUTS, budget=0.05)
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.LATE
    assert time.monotonic() - start_s < 5


def test_errors_reach_the_caller_as_they_are(clients: BlockingClients) -> None:
    with pytest.raises(WrongRequestError, match="no input named 'windows'; did you mean 'window'"):
        clients.triton.infer("lstm_cnn", {"windows": UNIT}, budget=BUDGET_S)
    with pytest.raises(ValueError, match="give seconds above 0"):
        clients.triton.infer("lstm_cnn", INPUTS, budget=-1.0)


def test_many_threads_share_one_set(clients: BlockingClients) -> None:
    outcomes: list[object] = []

    def work() -> None:
        for _ in range(20):
            outcomes.append(clients.triton.infer("lstm_cnn", INPUTS, budget=BUDGET_S))  # noqa: PERF401

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(outcomes) == 80
    assert all(isinstance(outcome, Answer) for outcome in outcomes)


def test_an_interrupt_from_the_keyboard_ends_a_call_and_only_that(
    servers: Servers, clients: BlockingClients
) -> None:
    assert isinstance(clients.triton.infer("lstm_cnn", INPUTS, budget=BUDGET_S), Answer)
    model = servers.triton.models["lstm_cnn"]
    model.delay_s = lambda: 30.0
    calls = model.calls

    def interrupt() -> None:
        until_s = time.monotonic() + 30
        while model.calls == calls and time.monotonic() < until_s:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        clients.triton.infer("lstm_cnn", INPUTS, budget=60.0)
    thread.join(30)
    model.delay_s = lambda: 0.0
    assert isinstance(clients.triton.infer("lstm_cnn", INPUTS, budget=BUDGET_S), Answer)


def test_closed_clients_say_so_and_can_be_closed_again(servers: Servers) -> None:
    clients = BlockingClients(servers.config)
    assert isinstance(clients.triton.infer("lstm_cnn", INPUTS, budget=BUDGET_S), Answer)
    clients.close()
    clients.close()
    with pytest.raises(TradeserveError, match="closed; make new ones"):
        clients.triton.infer("lstm_cnn", INPUTS, budget=BUDGET_S)


def test_a_file_is_enough(servers: Servers, tmp_path: Path) -> None:
    path = tmp_path / "clients.toml"
    path.write_text(f'[triton]\ntarget = "{servers.triton.address}"\n')
    with BlockingClients.from_toml(path) as clients:
        assert isinstance(clients.triton.infer("lstm_cnn", INPUTS, budget=BUDGET_S), Answer)
        with pytest.raises(ConfigError, match="similarity is off"):
            clients.similarity.get_index(INDEX)


def test_a_blocking_call_from_the_clients_own_thread_is_refused(clients: BlockingClients) -> None:
    async def call_back() -> None:  # as on_late is called
        clients.triton.ready()

    with pytest.raises(TradeserveError, match="would wait for itself"):
        clients._thread.call(call_back, 10)
