"""Searches, one by one and over the stream, against a real gRPC server that is slow, wrong or gone."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.fake_similarity import INDEX, FakeSimilarity
from fakes.fake_triton import SHA
from fakes.waiting import client_tasks, until
from tradeserve.similarity.v1 import similarity_service_pb2 as pb
from tradeserve_client.answers import Answer, NoAnswer, Outcome, Reason
from tradeserve_client.breaker import BreakerState, CircuitBreaker
from tradeserve_client.channel import Transport
from tradeserve_client.errors import CallError, MalformedResponseError, ServerDownError, TooLateError
from tradeserve_client.search_stream import SearchStream
from tradeserve_client.similarity import Matches, SearchQuery, SimilarityClient

MS = 1_000_000
NOW_NS = 1_700_000_000_123_456_789
UNIT = np.eye(1, 128, dtype=np.float32)[0]
QUERY = SearchQuery(INDEX, UNIT, 5, before_ns=NOW_NS, index_version=1)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[FakeSimilarity]:
    async with FakeSimilarity(f"unix:{tmp_path}/similarity.sock") as server:
        yield server


@pytest.fixture
async def client(server: FakeSimilarity, transport: Transport) -> AsyncIterator[SimilarityClient]:
    before = client_tasks()
    client = SimilarityClient(server.address, transport=transport)
    assert await client.link.ready(10)
    yield client
    await client.close()
    await until(lambda: not client_tasks() - before)


@pytest.fixture
async def late() -> list[tuple[str, int]]:
    return []


@pytest.fixture
async def stream(client: SimilarityClient, late: list[tuple[str, int]]) -> AsyncIterator[SearchStream]:
    stream = SearchStream(
        client,
        on_late=lambda _service, request_id, late_ns: late.append((request_id, late_ns)),
        max_in_flight=64,
        breaker=CircuitBreaker(time.monotonic_ns, failure_count=1_000_000),
    )
    assert await stream.ready(10)
    yield stream
    await stream.close()


async def search(
    stream: SearchStream, timeout_ms: float = 2_000, query: SearchQuery = QUERY
) -> Outcome[Matches]:
    return await stream.start(query, time.monotonic_ns() + int(timeout_ms * MS)).outcome()


async def test_the_index_tells_what_it_holds(client: SimilarityClient) -> None:
    info = await client.get_index(INDEX, timeout_s=5)
    assert (info.index.name, info.index.version, info.index.artifact_sha256) == (INDEX, 1, "d4" * 32)
    assert (info.embedding_model.name, info.embedding_model.artifact_sha256) == (
        "gaf_resnet",
        SHA["gaf_resnet"],
    )
    assert (info.dimension, info.as_of_ns) == (128, 1_700_000_000 * 10**9)


async def test_an_unknown_index_is_a_contract_mismatch(client: SimilarityClient) -> None:
    with pytest.raises(CallError, match="no index 'other' is loaded") as caught:
        await client.get_index("other", timeout_s=5)
    assert caught.value.reason is Reason.CONTRACT_MISMATCH


@pytest.mark.parametrize("way", ["unary", "stream"])
async def test_neighbours_come_nearest_first_with_timing_and_provenance(
    server: FakeSimilarity, client: SimilarityClient, stream: SearchStream, way: str
) -> None:
    outcome: Outcome[Matches] = await (
        client.search(QUERY, timeout_s=5) if way == "unary" else search(stream)
    )
    assert isinstance(outcome, Answer)
    assert [match.state_id for match in outcome.value.matches] == [1, 2, 3, 4, 5]
    first = outcome.value.matches[0]
    assert (first.con_id, first.symbol, first.bar_size_s, first.similarity) == (4242, "TEST", 60, 1.0)
    assert first.event_ns < NOW_NS
    assert (outcome.call.queue_ns, outcome.call.compute_ns) == (10_000, 90_000)
    assert 0 < outcome.call.sent_ns < outcome.call.received_ns <= outcome.call.deadline_ns
    (asked,) = server.searches
    assert asked.request_id == outcome.call.request_id
    assert (asked.before_time.seconds, asked.before_time.nanos) == divmod(NOW_NS, 10**9)
    assert asked.embedding_f32 == UNIT.tobytes()


async def test_a_late_unary_search_raises(server: FakeSimilarity, client: SimilarityClient) -> None:
    server.delay_s = lambda: 30.0
    with pytest.raises(TooLateError):
        await client.search(QUERY, timeout_s=0.02)


async def test_each_search_carries_the_time_it_has_left(server: FakeSimilarity, stream: SearchStream) -> None:
    await search(stream, timeout_ms=500)
    (remaining_ns,) = server.remaining_ns
    assert 300 * MS < remaining_ns <= 500 * MS


async def test_no_late_answer_of_the_stream_is_ever_returned_and_each_is_reported(
    server: FakeSimilarity, stream: SearchStream, late: list[tuple[str, int]]
) -> None:
    dice = random.Random(11)
    share_ms = 8.0
    server.delay_s = lambda: dice.uniform(0.1, 1.5) * share_ms / 1e3
    outcomes: list[Outcome[Matches]] = []
    for _ in range(500):
        outcomes.append(await search(stream, share_ms))
        # Answers come in order: without this one late answer would delay all that follow.
        await until(lambda: stream.in_flight == 0)
    answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
    missing = [outcome for outcome in outcomes if isinstance(outcome, NoAnswer)]
    assert all(answer.call.received_ns <= answer.call.deadline_ns for answer in answers)
    sent = {no_answer.call.request_id for no_answer in missing if no_answer.call.sent_ns}
    assert {request_id for request_id, _ in late} == sent
    assert len(late) == len(sent)
    assert {no_answer.reason for no_answer in missing} <= {Reason.LATE, Reason.NO_BUDGET}
    assert answers
    assert missing


async def test_searches_beyond_the_bound_are_shed(server: FakeSimilarity, client: SimilarityClient) -> None:
    server.delay_s = lambda: 0.02
    stream = SearchStream(client, max_in_flight=2)
    assert await stream.ready(10)
    deadline_ns = time.monotonic_ns() + 5_000 * MS
    pending = [stream.start(QUERY, deadline_ns) for _ in range(4)]
    outcomes = [await one.outcome() for one in pending]
    await stream.close()
    assert [type(outcome) for outcome in outcomes] == [Answer, Answer, NoAnswer, NoAnswer]
    assert isinstance(outcomes[3], NoAnswer)
    assert outcomes[3].reason is Reason.BUSY


async def test_a_status_inside_the_stream_becomes_a_reason_and_the_stream_stays(
    server: FakeSimilarity, stream: SearchStream
) -> None:
    server.status = (8, "queue is full")
    outcome = await search(stream)
    assert isinstance(outcome, NoAnswer)
    assert (outcome.reason, outcome.detail) == (Reason.BUSY, "queue is full")
    server.status = None
    assert isinstance(await search(stream), Answer)
    assert server.streams == 1


def from_the_future(response: pb.SearchNeighborsResponse) -> None:
    response.neighbors[2].event_time.FromNanoseconds(NOW_NS)


def other_index(response: pb.SearchNeighborsResponse) -> None:
    response.provenance.model_name = "other"


def other_version(response: pb.SearchNeighborsResponse) -> None:
    response.provenance.model_version = 2


def not_a_number(response: pb.SearchNeighborsResponse) -> None:
    response.neighbors[0].similarity = float("nan")


def too_many(response: pb.SearchNeighborsResponse) -> None:
    response.neighbors.add().CopyFrom(response.neighbors[0])


@pytest.mark.parametrize("mangle", [from_the_future, other_index, other_version, not_a_number, too_many])
async def test_a_malformed_answer_is_a_failure(
    server: FakeSimilarity, client: SimilarityClient, stream: SearchStream, mangle: Callable[[Any], None]
) -> None:
    server.mangle = mangle
    outcome = await search(stream)
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.FAILED
    with pytest.raises(MalformedResponseError):
        await client.search(QUERY, timeout_s=5)


async def test_the_stream_survives_a_restart_of_the_server(
    server: FakeSimilarity, stream: SearchStream
) -> None:
    assert isinstance(await search(stream), Answer)
    for _ in range(3):
        await server.stop()
        await until(lambda: not stream.is_open)
        outcome = await search(stream)
        assert isinstance(outcome, NoAnswer)
        assert outcome.reason is Reason.DOWN
        await server.start()
        assert await stream.ready(10)
        assert isinstance(await search(stream), Answer)
    assert server.streams == 4


async def test_a_search_under_way_when_the_server_dies_is_down(
    server: FakeSimilarity, stream: SearchStream
) -> None:
    server.delay_s = lambda: 30.0
    pending = stream.start(QUERY, time.monotonic_ns() + 20_000 * MS)
    await until(lambda: len(server.searches) == 1)
    await server.stop()
    outcome = await pending.outcome()
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.DOWN


async def test_closing_the_stream_ends_what_is_under_way(
    server: FakeSimilarity, client: SimilarityClient
) -> None:
    server.delay_s = lambda: 30.0
    stream = SearchStream(client)
    assert await stream.ready(10)
    pending = stream.start(QUERY, time.monotonic_ns() + 20_000 * MS)
    await stream.close()
    outcome = await pending.outcome()
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.DOWN
    assert stream.in_flight == 0


async def test_without_a_server_searches_are_down_and_nothing_hangs(
    tmp_path: Path, transport: Transport
) -> None:
    before = client_tasks()
    client = SimilarityClient(f"unix:{tmp_path}/nobody.sock", transport=transport)
    with pytest.raises(ServerDownError):
        await client.get_index(INDEX, timeout_s=5)
    stream = SearchStream(client)
    assert not await stream.ready(0.1)
    outcome = await search(stream)
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.DOWN
    await stream.close()
    await client.close()
    await until(lambda: not client_tasks() - before)


async def test_without_budget_nothing_is_sent(server: FakeSimilarity, stream: SearchStream) -> None:
    outcome = await search(stream, timeout_ms=0.1)
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.NO_BUDGET
    assert server.searches == []


async def test_lateness_in_a_row_opens_the_breaker(server: FakeSimilarity, client: SimilarityClient) -> None:
    server.delay_s = lambda: 0.2
    breaker = CircuitBreaker(time.monotonic_ns, failure_count=2, open_ns=60_000 * MS, max_open_ns=60_000 * MS)
    stream = SearchStream(client, breaker=breaker)
    assert await stream.ready(10)
    for _ in range(2):
        await search(stream, timeout_ms=10)
    outcome = await search(stream)
    await stream.close()
    assert breaker.state is BreakerState.OPEN
    assert isinstance(outcome, NoAnswer)
    assert "breaker" in outcome.detail


async def test_a_stalled_stream_is_opened_anew(server: FakeSimilarity, client: SimilarityClient) -> None:
    stalls = [30.0]
    server.delay_s = lambda: stalls.pop() if stalls else 0.0
    stream = SearchStream(client, stall_ns=20 * MS)
    assert await stream.ready(10)
    assert isinstance(await search(stream, timeout_ms=10), NoAnswer)

    async def answers() -> bool:
        return isinstance(await search(stream, timeout_ms=200), Answer)

    async with asyncio.timeout(10):
        while not await answers():  # noqa: ASYNC110 - asks until the new stream stands
            await asyncio.sleep(0.01)
    assert server.streams == 2
    await stream.close()


async def test_a_cancelled_caller_gives_its_place_back(server: FakeSimilarity, stream: SearchStream) -> None:
    server.delay_s = lambda: 0.02
    caller = asyncio.create_task(search(stream, timeout_ms=5_000))
    await until(lambda: len(server.searches) == 1)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await until(lambda: stream.in_flight == 0)
    assert isinstance(await search(stream), Answer)
