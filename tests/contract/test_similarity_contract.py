"""What the SDK relies on, asserted on the fake similarity server and on the real one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import numpy as np
import pytest
from numpy.typing import NDArray

from fakes.fake_similarity import FakeSimilarity
from tradeserve_client.answers import Answer, NoAnswer, Outcome, Reason
from tradeserve_client.channel import Transport
from tradeserve_client.errors import CallError
from tradeserve_client.search_stream import SearchStream
from tradeserve_client.similarity import Matches, SearchQuery, SimilarityClient

INDEX = "market_states"
FUTURE_NS = 4_000_000_000_000_000_000


def unit(seed: int = 1) -> NDArray[np.float32]:
    vector = np.random.default_rng(seed).normal(size=128)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@pytest.fixture(params=["fake", "real"])
async def client(request: pytest.FixtureRequest, transport: Transport) -> AsyncIterator[SimilarityClient]:
    if request.param == "real":
        client = SimilarityClient(request.getfixturevalue("real_similarity"), transport=transport)
        yield client
        await client.close()
        return
    async with FakeSimilarity() as server:
        client = SimilarityClient(server.address, transport=transport)
        yield client
        await client.close()


@pytest.fixture
async def stream(client: SimilarityClient) -> AsyncIterator[SearchStream]:
    stream = SearchStream(client)
    assert await stream.ready(20)
    yield stream
    await stream.close()


async def ask(stream: SearchStream, query: SearchQuery) -> Outcome[Matches]:
    return await stream.start(query, time.monotonic_ns() + 20_000_000_000).outcome()


async def test_the_index_tells_what_it_holds(client: SimilarityClient) -> None:
    info = await client.get_index(INDEX, timeout_s=20)
    assert (info.index.name, info.dimension) == (INDEX, 128)
    assert info.index.version >= 1
    assert info.embedding_model.name == "gaf_resnet"
    for digest in (info.index.artifact_sha256, info.embedding_model.artifact_sha256):
        assert len(bytes.fromhex(digest)) == 32
    assert info.state_count > 0
    assert info.horizon_bars == 6


async def test_an_index_that_is_not_loaded_is_a_contract_mismatch(client: SimilarityClient) -> None:
    with pytest.raises(CallError) as caught:
        await client.get_index("no_such_index", timeout_s=20)
    assert caught.value.reason is Reason.CONTRACT_MISMATCH


async def test_neighbours_come_nearest_first(client: SimilarityClient, stream: SearchStream) -> None:
    query = SearchQuery(INDEX, unit(), 7, before_ns=FUTURE_NS)
    by_stream = await ask(stream, query)
    assert isinstance(by_stream, Answer), by_stream
    similarities = [match.similarity for match in by_stream.value.matches]
    assert len(similarities) == 7
    assert similarities == sorted(similarities, reverse=True)
    assert by_stream.call.queue_ns >= 0
    assert by_stream.call.compute_ns >= 0
    by_call = await client.search(query, timeout_s=20)
    assert by_call.value == by_stream.value


async def test_no_neighbour_is_from_after_the_query(client: SimilarityClient, stream: SearchStream) -> None:
    info = await client.get_index(INDEX, timeout_s=20)
    year_ns = 365 * 86_400 * 10**9
    before_ns = info.as_of_ns - year_ns
    outcome = await ask(stream, SearchQuery(INDEX, unit(2), 20, before_ns=before_ns))
    assert isinstance(outcome, Answer), outcome
    assert all(match.event_ns < before_ns for match in outcome.value.matches)


async def test_a_wrong_search_is_refused_and_the_stream_goes_on(
    client: SimilarityClient, stream: SearchStream
) -> None:
    outcome = await ask(stream, SearchQuery(INDEX, unit()[:64], 5))
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.REFUSED, outcome
    assert isinstance(await ask(stream, SearchQuery(INDEX, unit(), 5)), Answer)


async def test_another_version_than_the_loaded_is_a_contract_mismatch(
    client: SimilarityClient, stream: SearchStream
) -> None:
    outcome = await ask(stream, SearchQuery(INDEX, unit(), 5, index_version=99))
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.CONTRACT_MISMATCH, outcome


async def test_searches_that_overlap_get_their_own_answers(
    client: SimilarityClient, stream: SearchStream
) -> None:
    deadline_ns = time.monotonic_ns() + 20_000_000_000
    counts = [1, 9, 3, 7, 5]
    pending = [stream.start(SearchQuery(INDEX, unit(n), n, before_ns=FUTURE_NS), deadline_ns) for n in counts]
    for count, one in zip(counts, pending, strict=True):
        outcome = await one.outcome()
        assert isinstance(outcome, Answer), outcome
        assert len(outcome.value.matches) == count
        assert outcome.call.request_id == one.request_id
