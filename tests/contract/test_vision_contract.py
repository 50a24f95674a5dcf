"""What the SDK relies on, asserted on the fake vision server and on the real one."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator

import pytest

from fakes.charts_to_read import chart_query
from fakes.fake_vision import FakeVision
from tradeserve_client.answers import Answer, NoAnswer, Reason
from tradeserve_client.channel import Transport
from tradeserve_client.chart_reading import ChartReadingClient
from tradeserve_client.strategy_service import Side

pytestmark = [pytest.mark.xdist_group("vision"), pytest.mark.timeout(300)]

BUDGET_S = 60.0


@pytest.fixture(params=["fake", "real"])
async def client(request: pytest.FixtureRequest, transport: Transport) -> AsyncIterator[ChartReadingClient]:
    if request.param == "real":
        client = ChartReadingClient(request.getfixturevalue("real_vision").address, transport=transport)
        yield client
        await client.close()
        return
    async with FakeVision() as server:
        client = ChartReadingClient(server.address, transport=transport)
        yield client
        await client.close()


async def test_a_reading_says_what_was_seen_by_whom_and_until_when(client: ChartReadingClient) -> None:
    query = chart_query(1, request_id="0197f0a0-0000-7000-8000-000000000001")
    outcome = await client.read_chart(query, budget=BUDGET_S)
    assert isinstance(outcome, Answer), outcome
    reading, call = outcome.value, outcome.call
    assert call.request_id == query.request_id
    assert reading.signal in (Side.BUY, Side.SELL, Side.HOLD)
    assert 0 <= reading.stated_confidence <= 1
    assert reading.reasoning
    assert reading.expire_ns > time.time_ns()
    assert len(bytes.fromhex(reading.model.artifact_sha256)) == 32
    assert reading.model.version >= 1
    assert call.queue_ns >= 0
    assert 0 < call.compute_ns <= call.round_trip_ns or call.compute_ns == 300_000_000  # the fake's word


async def test_a_reading_can_be_audited(client: ChartReadingClient) -> None:
    query = chart_query(2)
    outcome = await client.read_chart(query, budget=BUDGET_S)
    assert isinstance(outcome, Answer), outcome
    record = outcome.value.record
    assert record is not None
    assert record.chart_sha256 == hashlib.sha256(query.chart_png).hexdigest()
    assert len(bytes.fromhex(record.prompt_template_sha256)) == 32
    assert query.symbol in record.prompt
    assert record.raw_output
    assert record.prompt_tokens > 0
    assert record.output_tokens > 0
    assert record.sampling_json.startswith("{")


async def test_the_trust_falls_with_what_the_chart_contradicts_and_only_with_that(
    client: ChartReadingClient,
) -> None:
    for told in (True, False):
        outcome = await client.read_chart(chart_query(3, told=told), budget=BUDGET_S)
        assert isinstance(outcome, Answer), outcome
        reading = outcome.value
        assert (reading.trust == 1.0) is (not reading.contradictions)
        if not told:
            assert not [each for each in reading.contradictions if each.field == "key_levels"]


async def test_the_reader_is_the_one_that_answers(client: ChartReadingClient) -> None:
    reader = await client.reader(timeout_s=BUDGET_S)
    outcome = await client.read_chart(chart_query(4), budget=BUDGET_S)
    assert isinstance(outcome, Answer), outcome
    assert outcome.value.model == reader.model
    assert reader.prompt_names
    assert reader.statement
    assert reader.max_chart_bytes > len(chart_query(4).chart_png)
    assert reader.reading_lifetime_s > 0


async def test_charts_of_many_instruments_are_read_together(client: ChartReadingClient) -> None:
    outcomes = await asyncio.gather(
        *(client.read_chart(chart_query(30 + n), budget=BUDGET_S) for n in range(6))
    )
    assert all(isinstance(outcome, Answer) for outcome in outcomes), outcomes
    assert len({outcome.call.request_id for outcome in outcomes}) == 6


async def test_nothing_comes_after_the_deadline(client: ChartReadingClient) -> None:
    assert await client.ready(BUDGET_S)
    began = time.monotonic()
    outcome = await client.read_chart(chart_query(5), budget=0.0005)
    assert time.monotonic() - began < 5
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason in (Reason.LATE, Reason.NO_BUDGET)
