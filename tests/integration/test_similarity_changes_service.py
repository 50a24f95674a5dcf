"""Filters, outcome statistics, deletion and what the index says of itself, over gRPC."""

from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from fakes.similarity_index import HOUR_NS, START_NS, state_arrays, unit_vectors, write_index
from fakes.waiting import until
from server_runtime.server import GrpcServer, ServerOptions
from similarity_server.index import Limits
from similarity_server.keeper import IndexKeeper
from similarity_server.loading import load_index
from similarity_server.servicer import SERVICE_NAME, SimilarityServicer
from tradeserve.similarity.v1 import similarity_service_pb2 as pb
from tradeserve.similarity.v1 import similarity_service_pb2_grpc as pb_grpc
from tradeserve_client.errors import CallError
from tradeserve_client.similarity import NewState, SearchQuery, SimilarityClient

DIMENSION = 32
INDEX = "market_states"
QUERY = unit_vectors(np.random.default_rng(7), 1, DIMENSION)[0]
VECTORS = unit_vectors(np.random.default_rng(8), 300, DIMENSION)


class Served:
    def __init__(
        self, server: GrpcServer, keeper: IndexKeeper, client: SimilarityClient, arrays: Any
    ) -> None:
        self.server, self.keeper, self.client, self.arrays = server, keeper, client, arrays

    async def ids(self, count: int = 256, **query: Any) -> list[int]:
        answer = await self.client.search(SearchQuery(INDEX, QUERY, count, **query), timeout_s=20)
        return [match.state_id for match in answer.value.matches]


@pytest.fixture
async def one(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    arrays = state_arrays(200, DIMENSION)
    arrays["bar_size_s"][::4] = 60
    write_index(tmp_path / "indexes", arrays)
    limits = getattr(request, "param", Limits())
    index, sequence = load_index(tmp_path / "indexes", INDEX, limits=limits)
    keeper = IndexKeeper(index, sequence=sequence)
    await keeper.start()
    server = GrpcServer(ServerOptions(unix_path=tmp_path / "s"))
    servicer = SimilarityServicer(keeper, server.metrics, server.turns)
    server.add_service(
        SERVICE_NAME, lambda target: pb_grpc.add_SimilarityServiceServicer_to_server(servicer, target)
    )
    client = SimilarityClient(await server.start())
    yield Served(server, keeper, client, arrays)
    await client.close()
    await server.stop()
    await keeper.close()


def new_states(first: int, count: int) -> list[NewState]:
    return [
        NewState(i, 9, "NEW", START_NS, START_NS + HOUR_NS, 60, 5.0, VECTORS[i % 300])
        for i in range(first, first + count)
    ]


async def test_a_search_filters_by_instrument_and_length_of_a_bar(one: Served) -> None:
    con_id, bar, state_id = (one.arrays[name] for name in ("con_id", "bar_size_s", "state_id"))
    assert set(await one.ids(con_ids=(2,))) == set(state_id[con_id == 2].tolist())
    assert set(await one.ids(con_ids=(1, 3))) == set(state_id[(con_id == 1) | (con_id == 3)].tolist())
    assert set(await one.ids(bar_size_s=60)) == set(state_id[bar == 60].tolist())
    both = (con_id == 2) & (bar == 60) & (one.arrays["outcome_ns"] < START_NS + 100 * HOUR_NS)
    found = await one.ids(con_ids=(2,), bar_size_s=60, before_ns=START_NS + 100 * HOUR_NS)
    assert set(found) == set(state_id[both].tolist())
    assert await one.ids(con_ids=(77,)) == []
    assert await one.ids(bar_size_s=86_400) == []


async def test_outcome_statistics_are_those_of_the_neighbours_in_the_answer(one: Served) -> None:
    answer = await one.client.search(SearchQuery(INDEX, QUERY, 20), timeout_s=20)
    weight = np.array([max(0.0, match.similarity) for match in answer.value.matches])
    returns = np.array([match.forward_return_bps for match in answer.value.matches])
    outcomes = answer.value.outcomes
    assert outcomes is not None
    mean = float(weight @ returns / weight.sum())
    assert outcomes.neighbor_count == 20
    assert outcomes.mean_return_bps == pytest.approx(mean, rel=1e-5)
    assert outcomes.hit_rate == pytest.approx(weight[returns > 0].sum() / weight.sum(), rel=1e-5)
    assert outcomes.dispersion_bps == pytest.approx(
        float(np.sqrt(weight @ (returns - mean) ** 2 / weight.sum())), rel=1e-5
    )
    assert outcomes.effective_count == pytest.approx(weight.sum() ** 2 / (weight @ weight), rel=1e-5)
    nothing = await one.client.search(SearchQuery(INDEX, QUERY, 5, con_ids=(77,)), timeout_s=20)
    assert nothing.value.outcomes is None


async def test_deleted_states_are_not_found_any_more(one: Served) -> None:
    before = await one.ids()
    await one.client.add_states(INDEX, new_states(5_001, 3), timeout_s=20)
    assert await one.client.delete_states(INDEX, [before[0], 5_002, 123_456], timeout_s=20) == 2
    after = await one.ids()
    assert not {before[0], 5_002} & set(after)
    assert {5_001, 5_003} <= set(after)
    info = await one.client.get_index(INDEX, timeout_s=20)
    assert (info.state_count, info.deleted_count, info.unmerged_count) == (201, 2, 2)


async def test_the_index_says_how_it_searches_and_what_is_not_durable(one: Served) -> None:
    info = await one.client.get_index(INDEX, timeout_s=20)
    assert (info.index_kind, info.recall_at_10, info.recall_query_count) == ("Flat", 1.0, 0)
    assert not info.durable


@pytest.mark.parametrize("one", [Limits(max_added=60, merge_at=50)], indirect=True)
async def test_what_is_added_is_merged_in_the_background_and_makes_room(one: Served) -> None:
    async def added(first: int) -> bool:
        try:
            return await one.client.add_states(INDEX, new_states(first, 50), timeout_s=20) == 50
        except CallError as e:
            assert "not merged yet: try again when they are" in str(e)
            return False

    for first in range(5_001, 5_301, 50):
        while not await added(first):
            await until(lambda: one.keeper.index.added_count == 0)
    await until(lambda: one.keeper.index.added_count == 0)
    assert (await one.client.get_index(INDEX, timeout_s=20)).state_count == 500
    answer = await one.client.search(SearchQuery(INDEX, VECTORS[5_300 % 300], 1), timeout_s=20)
    assert answer.value.matches[0].state_id == 5_300


@pytest.mark.parametrize("one", [Limits(max_added=60, merge_at=50)], indirect=True)
async def test_states_that_do_not_fit_now_are_refused_with_a_time_to_retry(one: Served) -> None:
    request = pb.AddStatesRequest(request_id="r", index_name=INDEX)
    for state in new_states(5_001, 61):
        message = request.states.add(state_id=state.state_id, embedding_f32=state.embedding.tobytes())
        message.instrument.con_id = 1
        message.event_time.FromNanoseconds(state.event_ns)
        message.outcome_time.FromNanoseconds(state.outcome_ns)
        message.bar_duration.FromSeconds(60)
    error = await failure_of(one.client.stub.AddStates(request))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    details = rpc_status.from_call(error).details
    assert error_details_pb2.ErrorInfo.FromString(details[0].value).metadata["field"] == "states"
    assert error_details_pb2.RetryInfo.FromString(details[1].value).retry_delay.ToMilliseconds() > 0
    assert len(one.keeper.index) == 200


async def failure_of(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def a_search(**fields: Any) -> pb.SearchNeighborsRequest:
    return pb.SearchNeighborsRequest(
        request_id="r", index_name=INDEX, neighbor_count=3, embedding_f32=QUERY.tobytes(), **fields
    )


BAD_BAR = a_search()
BAD_BAR.bar_duration.seconds = -1
BAD_TIME = a_search()
BAD_TIME.before_time.nanos = -1


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (a_search(con_ids=list(range(1, 258))), "con_ids"),
        (a_search(con_ids=[4, 0]), "con_ids"),
        (BAD_BAR, "bar_duration"),
        (BAD_TIME, "before_time"),
    ],
)
async def test_a_bad_filter_is_refused_with_its_field_on_both_ways(
    one: Served, request_: pb.SearchNeighborsRequest, field: str
) -> None:
    error = await failure_of(one.client.stub.SearchNeighbors(request_))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    info = error_details_pb2.ErrorInfo.FromString(rpc_status.from_call(error).details[0].value)
    assert info.metadata["field"] == field
    stream = one.client.stub.StreamSearchNeighbors()
    await stream.write(pb.StreamSearchNeighborsRequest(search=request_))
    answer = await stream.read()
    assert (answer.status_code, answer.status_field) == (3, field)
    await stream.done_writing()


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (pb.DeleteStatesRequest(request_id="", index_name=INDEX), "INVALID_ARGUMENT", "request_id"),
        (pb.DeleteStatesRequest(request_id="r", index_name="other"), "NOT_FOUND", "index_name"),
        (
            pb.DeleteStatesRequest(request_id="r", index_name=INDEX, state_ids=[10, 0]),
            "INVALID_ARGUMENT",
            "state_ids[1]",
        ),
        (
            pb.DeleteStatesRequest(request_id="r", index_name=INDEX, state_ids=range(1, 1002)),
            "INVALID_ARGUMENT",
            "state_ids",
        ),
    ],
)
async def test_a_bad_deletion_is_refused_with_its_field_and_deletes_nothing(
    one: Served, request_: Any, code: str, field: str
) -> None:
    error = await failure_of(one.client.stub.DeleteStates(request_))
    assert error.code().name == code
    info = error_details_pb2.ErrorInfo.FromString(rpc_status.from_call(error).details[0].value)
    assert info.metadata["field"] == field
    assert len(one.keeper.index) == 200
