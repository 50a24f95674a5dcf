import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2, error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from numpy.typing import NDArray

from fakes.similarity_index import HOUR_NS, START_NS, state_arrays, unit_vectors, write_index
from server_runtime.server import GrpcServer, ServerOptions, Transport
from similarity_server.index import Limits
from similarity_server.keeper import IndexKeeper
from similarity_server.loading import load_index
from similarity_server.servicer import SERVICE_NAME, SimilarityServicer
from tradeserve.similarity.v1 import similarity_service_pb2 as pb
from tradeserve.similarity.v1 import similarity_service_pb2_grpc as pb_grpc

DIMENSION = 128
NS = 10**9


Vectors = NDArray[np.float32]
Serve = Callable[..., Awaitable["Served"]]


class Served:
    def __init__(
        self, server: GrpcServer, channel: grpc.aio.Channel, arrays: dict[str, NDArray[Any]]
    ) -> None:
        self.server, self.channel, self.arrays = server, channel, arrays
        self.stub: Any = pb_grpc.SimilarityServiceStub(channel)
        embedding = arrays["embedding"].astype(np.float32)
        self.embedding: Vectors = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)

    def brute_force(
        self, query: Vectors, count: int, before_ns: int | None = None
    ) -> tuple[NDArray[np.int64], Vectors]:
        cosines = self.embedding @ query
        known = np.flatnonzero(
            self.arrays["outcome_ns"] < (np.iinfo(np.int64).max if before_ns is None else before_ns)
        )
        rows = known[np.argsort(-cosines[known], kind="stable")[:count]]
        return rows, cosines[rows]

    def assert_equal(
        self, response: pb.SearchNeighborsResponse, query: Vectors, count: int, before_ns: int | None = None
    ) -> None:
        rows, cosines = self.brute_force(query, count, before_ns)
        found = response.neighbors
        assert [n.state_id for n in found] == self.arrays["state_id"][rows].tolist()
        assert [n.similarity for n in found] == pytest.approx(cosines.tolist(), abs=1e-5)
        assert [n.instrument.con_id for n in found] == self.arrays["con_id"][rows].tolist()
        assert [n.event_time.ToNanoseconds() for n in found] == self.arrays["event_ns"][rows].tolist()
        assert {n.bar_duration.seconds for n in found} <= {3600}
        returns = self.arrays["forward_return_bps"][rows].tolist()
        assert [n.forward_return_bps for n in found] == pytest.approx(returns)
        symbols = self.arrays["symbols"][self.arrays["symbol_id"][rows]].tolist()
        assert [n.instrument.symbol for n in found] == symbols


@pytest.fixture
async def serve(tmp_path: Path, server_transport: Transport) -> AsyncIterator[Serve]:
    started: list[Served] = []
    keepers: list[IndexKeeper] = []

    async def start(max_added: int = 1000, count: int = 2000, **options: Any) -> Served:
        arrays = write_index(tmp_path / str(len(started)), state_arrays(count, DIMENSION))
        index, _ = load_index(tmp_path / str(len(started)), "market_states", limits=Limits(max_added))
        keeper = IndexKeeper(index)
        await keeper.start()
        listen = {"unix_path": tmp_path / f"s{len(started)}", "transport": server_transport}
        server = GrpcServer(ServerOptions(**{**listen, **options}))
        servicer = SimilarityServicer(keeper, server.metrics, server.turns)
        server.add_service(
            SERVICE_NAME, lambda target: pb_grpc.add_SimilarityServiceServicer_to_server(servicer, target)
        )
        channel = grpc.aio.insecure_channel(await server.start())
        started.append(Served(server, channel, arrays))
        keepers.append(keeper)
        return started[-1]

    yield start
    for one in started:
        await one.channel.close()
        await one.server.stop()
    for keeper in keepers:
        await keeper.close()


@pytest.fixture
def queries() -> Vectors:
    return unit_vectors(np.random.default_rng(99), 20, DIMENSION)


def search(
    query: Vectors, count: int = 10, before_ns: int | None = None, **changes: object
) -> pb.SearchNeighborsRequest:
    request = pb.SearchNeighborsRequest(
        request_id=str(uuid.uuid4()),
        index_name="market_states",
        embedding_f32=query.astype("<f4").tobytes(),
        neighbor_count=count,
    )
    if before_ns is not None:
        request.before_time.FromNanoseconds(int(before_ns))
    for key, value in changes.items():
        setattr(request, key, value)
    return request


def on_stream(
    request: pb.SearchNeighborsRequest, remaining_ms: float | None = None
) -> pb.StreamSearchNeighborsRequest:
    message = pb.StreamSearchNeighborsRequest(search=request)
    if remaining_ms is not None:
        message.remaining_duration.FromNanoseconds(round(remaining_ms * 1e6))
    return message


def state(state_id: int, vector: Vectors, outcome_ns: int = START_NS) -> pb.State:
    message = pb.State(
        state_id=state_id, embedding_f32=vector.astype("<f4").tobytes(), forward_return_bps=state_id / 10
    )
    message.instrument.con_id = 42
    message.instrument.symbol = "NEW"
    message.event_time.FromNanoseconds(outcome_ns - HOUR_NS)
    message.outcome_time.FromNanoseconds(outcome_ns)
    message.bar_duration.FromSeconds(3600)
    return message


def add(
    states: list[pb.State], request_id: str = "r", index_name: str = "market_states"
) -> pb.AddStatesRequest:
    return pb.AddStatesRequest(request_id=request_id, index_name=index_name, states=states)


async def failure_of(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def info_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo.FromString(rpc_status.from_call(error).details[0].value)


async def test_the_index_describes_itself(serve: Serve) -> None:
    one = await serve()
    answer = await one.stub.GetIndex(pb.GetIndexRequest(index_name="market_states"))
    assert (answer.dimension, answer.state_count, answer.horizon_bars) == (DIMENSION, 2000, 6)
    assert answer.provenance.model_name == "market_states"
    assert answer.provenance.model_version == 1
    assert len(answer.provenance.artifact_sha256) == 32
    assert answer.embedding_model.model_name == "gaf_resnet"
    assert answer.embedding_model.artifact_sha256.hex() == "ab" * 32
    assert answer.as_of_time.ToNanoseconds() == one.arrays["event_ns"].max()


@pytest.mark.parametrize("listen", ["unix", "tcp"])
async def test_unary_searches_equal_a_brute_force_search(serve: Serve, queries: Vectors, listen: str) -> None:
    one = await serve(**({"unix_path": None} if listen == "tcp" else {}))
    for count, query in zip((1, 10, 256), queries, strict=False):
        request = search(query, count)
        response = await one.stub.SearchNeighbors(request, timeout=10)
        one.assert_equal(response, query, count)
        assert response.request_id == request.request_id
        assert response.provenance.model_name == "market_states"
        assert response.timing.compute_duration.ToNanoseconds() > 0
        assert response.timing.queue_duration.ToNanoseconds() >= 0


async def test_searches_on_one_stream_come_back_in_order_and_equal_a_brute_force_search(
    serve: Serve, queries: Vectors
) -> None:
    one = await serve()
    stream = one.stub.StreamSearchNeighbors()
    requests = [search(query, 16) for query in queries]
    for request in requests:
        await stream.write(on_stream(request, 10_000))
    for request, query in zip(requests, queries, strict=True):
        answer = await stream.read()
        assert (answer.status_code, answer.status_message) == (0, "")
        assert answer.search.request_id == request.request_id
        one.assert_equal(answer.search, query, 16)
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


async def test_before_time_leaves_out_exactly_what_was_not_known(serve: Serve, queries: Vectors) -> None:
    one = await serve()
    outcomes = np.sort(one.arrays["outcome_ns"])
    for place in (0, 1, 700, 1999):
        for before_ns in (outcomes[place] - 1, outcomes[place], outcomes[place] + 1):
            response = await one.stub.SearchNeighbors(search(queries[0], 256, before_ns))
            one.assert_equal(response, queries[0], 256, before_ns)
    assert not (await one.stub.SearchNeighbors(search(queries[0], 5, outcomes[0]))).neighbors


async def test_an_added_state_is_found_by_the_next_search_and_only_after_its_outcome(
    serve: Serve, queries: Vectors
) -> None:
    one = await serve()
    answer = await one.stub.AddStates(add([state(7, queries[0])]))
    assert (answer.request_id, answer.added_count, answer.state_count) == ("r", 1, 2001)
    best = (await one.stub.SearchNeighbors(search(queries[0], 1))).neighbors[0]
    assert (best.state_id, best.instrument.symbol, best.forward_return_bps) == (7, "NEW", pytest.approx(0.7))
    assert best.similarity == pytest.approx(1.0, abs=1e-6)
    assert (await one.stub.GetIndex(pb.GetIndexRequest(index_name="market_states"))).state_count == 2001
    early = await one.stub.SearchNeighbors(search(queries[0], 256, START_NS))
    assert 7 not in {n.state_id for n in early.neighbors}


async def test_adding_twice_changes_nothing(serve: Serve, queries: Vectors) -> None:
    one = await serve()
    there = int(one.arrays["state_id"][3])
    states = [state(7, queries[0]), state(7, queries[1]), state(there, queries[2])]
    assert (await one.stub.AddStates(add(states))).added_count == 1
    again = await one.stub.AddStates(add(states))
    assert (again.added_count, again.state_count) == (0, 2001)
    best = (await one.stub.SearchNeighbors(search(queries[1], 1))).neighbors[0]
    assert best.similarity < 0.9, "the first of two states with one id counts"


async def test_searches_stay_right_while_states_are_added(serve: Serve) -> None:
    one = await serve(max_added=1000)
    vectors = unit_vectors(np.random.default_rng(5), 1000, DIMENSION)
    known = dict(zip(one.arrays["state_id"].tolist(), one.embedding, strict=True))
    known.update({100_000 + i: vector for i, vector in enumerate(vectors)})
    finished = asyncio.Event()

    async def write() -> None:
        for first in range(0, 1000, 100):
            batch = [state(100_000 + i, vectors[i]) for i in range(first, first + 100)]
            await one.stub.AddStates(add(batch))
            # Found by searches that start after the response.
            best = (await one.stub.SearchNeighbors(search(vectors[first + 99], 1))).neighbors[0]
            assert best.state_id == 100_000 + first + 99
        finished.set()

    async def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not finished.is_set():
            query = unit_vectors(rng, 1, DIMENSION)[0]
            found = (await one.stub.SearchNeighbors(search(query, 20))).neighbors
            assert [n.similarity for n in found] == pytest.approx(
                [float(known[n.state_id] @ query) for n in found], abs=1e-5
            )
            assert len({n.state_id for n in found}) == 20
            one_is_better = sum(
                float(one.embedding[i] @ query) > found[-1].similarity + 1e-5 for i in range(2000)
            )
            assert one_is_better < 20

    await asyncio.wait_for(asyncio.gather(write(), read(1), read(2)), 60)


async def test_a_full_index_refuses_more_states_and_adds_none_of_them(serve: Serve, queries: Vectors) -> None:
    one = await serve(max_added=2)
    error = await failure_of(one.stub.AddStates(add([state(i + 1, queries[i]) for i in range(3)])))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert info_of(error).metadata["field"] == "states"
    assert (await one.stub.GetIndex(pb.GetIndexRequest(index_name="market_states"))).state_count == 2000


UNIT = np.full(DIMENSION, DIMENSION**-0.5, dtype=np.float32)
BAD_SEARCHES = [
    (search(UNIT[:64]), "INVALID_ARGUMENT", "embedding_f32"),
    (search(UNIT * 2), "INVALID_ARGUMENT", "embedding_f32"),
    (search(UNIT * np.nan), "INVALID_ARGUMENT", "embedding_f32"),
    (search(UNIT, 0), "INVALID_ARGUMENT", "neighbor_count"),
    (search(UNIT, 257), "INVALID_ARGUMENT", "neighbor_count"),
    (search(UNIT, request_id=""), "INVALID_ARGUMENT", "request_id"),
    (search(UNIT, request_id="x" * 65), "INVALID_ARGUMENT", "request_id"),
    (search(UNIT, index_version=-1), "INVALID_ARGUMENT", "index_version"),
    (search(UNIT, index_version=2), "FAILED_PRECONDITION", "index_version"),
    (search(UNIT, index_name="other"), "NOT_FOUND", "index_name"),
    (search(UNIT, index_name=""), "NOT_FOUND", "index_name"),
]


@pytest.mark.parametrize(("request_", "code", "field"), BAD_SEARCHES)
async def test_a_bad_search_is_refused_with_its_field(
    serve: Serve, request_: Any, code: str, field: str
) -> None:
    one = await serve(count=50)
    error = await failure_of(one.stub.SearchNeighbors(request_))
    assert error.code().name == code
    assert info_of(error).metadata["field"] == field
    assert info_of(error).domain == "tradeserve"
    assert error.details().startswith(f"{field}: ")


async def test_bad_searches_on_a_stream_are_answered_one_by_one_and_the_stream_stays_open(
    serve: Serve, queries: Vectors
) -> None:
    one = await serve()
    stream = one.stub.StreamSearchNeighbors()
    for bad, code, field in BAD_SEARCHES:
        await stream.write(on_stream(bad))
        answer = await stream.read()
        assert code_pb2.Code.Name(answer.status_code) == code
        assert answer.status_message.startswith(f"{field}: ")
        assert answer.search.request_id == bad.request_id[:64]
        assert not answer.search.neighbors
    await stream.write(on_stream(search(queries[0])))
    one.assert_equal((await stream.read()).search, queries[0], 10)
    await stream.done_writing()


async def test_a_search_on_a_stream_without_time_left_is_refused_at_once(
    serve: Serve, queries: Vectors
) -> None:
    one = await serve(answer_margin_s=0.005)
    stream = one.stub.StreamSearchNeighbors()
    for remaining_ms in (-1, 0, 4.9):
        await stream.write(on_stream(search(queries[0]), remaining_ms))
        answer = await stream.read()
        assert answer.status_code == code_pb2.DEADLINE_EXCEEDED
        assert "ms are left of the deadline" in answer.status_message
    await stream.write(on_stream(search(queries[0]), 10_000))
    assert (await stream.read()).status_code == 0
    await stream.done_writing()


async def test_a_unary_search_without_time_left_is_refused_by_the_server(
    serve: Serve, queries: Vectors
) -> None:
    one = await serve(answer_margin_s=60.0)
    error = await failure_of(one.stub.SearchNeighbors(search(queries[0]), timeout=30.0))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert info_of(error).reason == "TOO_LATE"


async def test_a_pinned_version_that_is_loaded_is_served(serve: Serve, queries: Vectors) -> None:
    one = await serve()
    one.assert_equal(await one.stub.SearchNeighbors(search(queries[0], index_version=1)), queries[0], 10)


BAD_STATE = state(1, UNIT)
BAD_STATE.forward_return_bps = float("inf")


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (add([state(1, UNIT), state(0, UNIT)]), "INVALID_ARGUMENT", "states[1].state_id"),
        (add([state(1, UNIT * 3)]), "INVALID_ARGUMENT", "states[0].embedding_f32"),
        (add([BAD_STATE]), "INVALID_ARGUMENT", "states[0].forward_return_bps"),
        (add([state(i + 1, UNIT) for i in range(1001)]), "INVALID_ARGUMENT", "states"),
        (add([], request_id=""), "INVALID_ARGUMENT", "request_id"),
        (add([], index_name="other"), "NOT_FOUND", "index_name"),
    ],
)
async def test_states_that_are_wrong_are_refused_all_together(
    serve: Serve, request_: Any, code: str, field: str
) -> None:
    one = await serve(count=50)
    error = await failure_of(one.stub.AddStates(request_))
    assert error.code().name == code
    assert info_of(error).metadata["field"] == field
    assert (await one.stub.GetIndex(pb.GetIndexRequest(index_name="market_states"))).state_count == 50


async def test_a_burst_beyond_the_bound_is_refused_with_a_time_to_retry_and_the_rest_is_right(
    serve: Serve, queries: Vectors
) -> None:
    one = await serve(max_in_flight=1, max_unaccepted=64)
    requests = [search(queries[i % 20], 256) for i in range(60)]
    answers = await asyncio.gather(*map(one.stub.SearchNeighbors, requests), return_exceptions=True)
    refused = 0
    for answer, query in zip(answers, np.tile(queries, (3, 1)), strict=True):
        if isinstance(answer, pb.SearchNeighborsResponse):
            one.assert_equal(answer, query, 256)
            continue
        assert isinstance(answer, grpc.aio.AioRpcError)
        assert answer.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        retry = error_details_pb2.RetryInfo.FromString(rpc_status.from_call(answer).details[1].value)
        assert retry.retry_delay.ToMilliseconds() > 0
        refused += 1
    assert 0 < refused < 60


async def test_health_and_reflection_know_the_service(serve: Serve) -> None:
    one = await serve()
    health = health_pb2_grpc.HealthStub(one.channel)
    status = (await health.Check(health_pb2.HealthCheckRequest(service=SERVICE_NAME))).status
    assert status == health_pb2.HealthCheckResponse.SERVING
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE_NAME)
    call = reflection_pb2_grpc.ServerReflectionStub(one.channel).ServerReflectionInfo(iter([request]))
    assert (await call.read()).file_descriptor_response.file_descriptor_proto
    call.cancel()


async def test_messages_of_a_stream_are_counted_by_their_outcome(serve: Serve, queries: Vectors) -> None:
    one = await serve()
    stream = one.stub.StreamSearchNeighbors()
    for request in (search(queries[0]), search(queries[0], 0)):
        await stream.write(on_stream(request))
        await stream.read()
    await stream.done_writing()

    def count_of(code: str) -> float | None:
        labels = {"method": f"/{SERVICE_NAME}/StreamSearchNeighbors message", "code": code}
        return one.server.metrics.registry.get_sample_value("tradeserve_calls_total", labels)

    assert (count_of("OK"), count_of("INVALID_ARGUMENT")) == (1.0, 1.0)
