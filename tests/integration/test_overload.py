"""More than a server can answer: nobody waits in vain, and afterwards everybody is answered.

No test here asserts a time; `tests/bench/overload.py` measures them.
"""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from bench.overload_control import IdleEngine
from fakes.similarity_index import state_arrays, unit_vectors, write_index
from server_runtime.server import GrpcServer, ServerOptions, Transport
from similarity_server.index import Match
from similarity_server.keeper import IndexKeeper
from similarity_server.loading import load_index
from similarity_server.servicer import SERVICE_NAME, SimilarityServicer
from strategy.adapters.control import (
    SERVICE,
    StrategyServicer,
    control_options,
    register,
)
from tradeserve.similarity.v1 import similarity_service_pb2 as pb
from tradeserve.similarity.v1 import similarity_service_pb2_grpc as pb_grpc
from tradeserve.strategy.v1 import strategy_service_pb2 as strategy_pb
from tradeserve.strategy.v1 import strategy_service_pb2_grpc as strategy_grpc

DIMENSION = 16
SEARCH_S = 0.02
CALLS = 30
DEADLINE_S = 0.3


class Slow:
    """Searches of the index take as long as on a large one; counts them."""

    def __init__(self, keeper: IndexKeeper, monkeypatch: pytest.MonkeyPatch) -> None:
        self.searches = 0
        search = keeper.index.search

        def slowly(*arguments: object) -> list[Match]:
            self.searches += 1
            time.sleep(SEARCH_S)
            return search(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(keeper.index, "search", slowly)


@pytest.fixture
async def served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server_transport: Transport
) -> AsyncIterator[tuple[pb_grpc.SimilarityServiceAsyncStub, Slow]]:
    write_index(tmp_path, state_arrays(500, DIMENSION))
    index, _ = load_index(tmp_path, "market_states")
    keeper = IndexKeeper(index)
    await keeper.start()
    slow = Slow(keeper, monkeypatch)
    server = GrpcServer(ServerOptions(transport=server_transport))
    servicer = SimilarityServicer(keeper, server.metrics, server.turns)
    server.add_service(
        SERVICE_NAME, lambda target: pb_grpc.add_SimilarityServiceServicer_to_server(servicer, target)
    )
    async with grpc.aio.insecure_channel(await server.start()) as channel:
        stub: pb_grpc.SimilarityServiceAsyncStub = pb_grpc.SimilarityServiceStub(channel)  # type: ignore[assignment]
        yield stub, slow
    await server.stop()
    await keeper.close()


def search(number: int) -> pb.SearchNeighborsRequest:
    query = unit_vectors(np.random.default_rng(number), 1, DIMENSION)[0]
    return pb.SearchNeighborsRequest(
        request_id=f"search {number}",
        index_name="market_states",
        embedding_f32=query.astype("<f4").tobytes(),
        neighbor_count=5,
    )


def retry_of(error: grpc.aio.AioRpcError) -> error_details_pb2.RetryInfo:
    status = rpc_status.from_call(error)
    (retry,) = (d for d in status.details if d.Is(error_details_pb2.RetryInfo.DESCRIPTOR))
    return error_details_pb2.RetryInfo.FromString(retry.value)


async def test_every_search_is_answered_refused_or_told_that_it_is_too_late(
    served: tuple[pb_grpc.SimilarityServiceAsyncStub, Slow],
) -> None:
    stub, slow = served
    await stub.SearchNeighbors(search(0), timeout=10.0)
    answers = await asyncio.gather(
        *(stub.SearchNeighbors(search(number), timeout=DEADLINE_S) for number in range(CALLS)),
        return_exceptions=True,
    )
    outcomes: collections.Counter[grpc.StatusCode] = collections.Counter()
    for number, answer in enumerate(answers):
        if isinstance(answer, pb.SearchNeighborsResponse):
            assert answer.request_id == f"search {number}"
            outcomes[grpc.StatusCode.OK] += 1
            continue
        assert isinstance(answer, grpc.aio.AioRpcError)
        outcomes[answer.code()] += 1
        if answer.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            assert retry_of(answer).retry_delay.ToMilliseconds() > 0
    assert set(outcomes) <= {
        grpc.StatusCode.OK,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
    assert outcomes[grpc.StatusCode.RESOURCE_EXHAUSTED] > 0, outcomes
    assert slow.searches <= 1 + CALLS - outcomes[grpc.StatusCode.RESOURCE_EXHAUSTED]
    for number in range(5):  # afterwards
        answer = await stub.SearchNeighbors(search(number), timeout=10.0)
        assert answer.request_id == f"search {number}"


async def test_a_flooded_stream_stays_open_and_every_search_on_it_hears_something(
    served: tuple[pb_grpc.SimilarityServiceAsyncStub, Slow],
) -> None:
    stub, slow = served
    call = stub.StreamSearchNeighbors()
    for number in range(CALLS):
        request = pb.StreamSearchNeighborsRequest(search=search(number))
        request.remaining_duration.FromNanoseconds(int(DEADLINE_S * 1e9))
        await call.write(request)
    codes: dict[str, int] = {}
    for _ in range(CALLS):
        response = await call.read()
        assert isinstance(response, pb.StreamSearchNeighborsResponse)
        codes[response.search.request_id] = response.status_code
    assert codes.keys() == {f"search {number}" for number in range(CALLS)}
    counts = collections.Counter(codes.values())
    exhausted, late = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert set(counts) <= {0, exhausted, late}
    assert counts[exhausted] > 0
    assert slow.searches <= CALLS - counts[exhausted], "what is refused is not searched"
    await call.write(pb.StreamSearchNeighborsRequest(search=search(99)))
    answer = await call.read()
    assert isinstance(answer, pb.StreamSearchNeighborsResponse)
    assert (answer.search.request_id, answer.status_code) == ("search 99", 0)
    await call.done_writing()
    assert await call.read() == grpc.aio.EOF


async def test_who_floods_the_control_service_does_not_keep_others_from_stopping_the_strategy(
    server_transport: Transport,
) -> None:
    options = control_options("127.0.0.1", 0)
    server = GrpcServer(replace(options, max_calls_per_s=1, transport=server_transport))
    server.add_service(SERVICE, register(StrategyServicer(IdleEngine())))
    async with grpc.aio.insecure_channel(await server.start()) as channel:
        stub: strategy_grpc.StrategyServiceAsyncStub = strategy_grpc.StrategyServiceStub(channel)  # type: ignore[assignment]
        answers = await asyncio.gather(
            *(stub.GetStatus(strategy_pb.GetStatusRequest(), timeout=10.0) for _ in range(20)),
            return_exceptions=True,
        )
        refused = next(answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError))
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert retry_of(refused).retry_delay.ToMilliseconds() > 0
        killed = await stub.TriggerKillSwitch(strategy_pb.TriggerKillSwitchRequest(reason="x"), timeout=10.0)
        assert killed.trading_state == strategy_pb.TRADING_STATE_PAUSED
        paused = await stub.Pause(strategy_pb.PauseRequest(reason="x"), timeout=10.0)
        assert paused.trading_state == strategy_pb.TRADING_STATE_PAUSED
    await server.stop()
