"""Readings of charts over a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from fakes.fake_vision import FakeVision
from fakes.waiting import client_tasks, until
from tradeserve.vision.v1 import chart_reading_service_pb2 as pb
from tradeserve_client.answers import Answer, NoAnswer, Reason
from tradeserve_client.channel import Transport
from tradeserve_client.chart_reading import (
    MAX_PNG_BYTES,
    ChartContext,
    ChartExtent,
    ChartQuery,
    ChartReadingClient,
    Contradiction,
    PastOutcome,
)
from tradeserve_client.errors import ServerDownError, WrongRequestError
from tradeserve_client.strategy_service import Side

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 64
NOW_NS = 1_700_000_000_123_456_789
QUERY = ChartQuery(4242, "ACME", PNG, NOW_NS, "swing")
BUDGET_S = 10.0


@pytest.fixture
async def vision() -> AsyncIterator[FakeVision]:
    async with FakeVision() as server:
        yield server


@pytest.fixture
async def client(vision: FakeVision, transport: Transport) -> AsyncIterator[ChartReadingClient]:
    before = client_tasks()
    client = ChartReadingClient(vision.address, transport=transport)
    yield client
    await client.close()
    await until(lambda: not client_tasks() - before)


async def test_a_reading_comes_with_its_model_and_times(
    vision: FakeVision, client: ChartReadingClient
) -> None:
    outcome = await client.read_chart(QUERY, budget=BUDGET_S)
    assert isinstance(outcome, Answer), outcome
    reading, call = outcome.value, outcome.call
    assert (reading.signal, reading.stated_confidence, reading.reasoning) == (Side.BUY, 0.75, "a higher low")
    assert (call.model_name, call.model_version, call.artifact_sha256) == ("chart_reader", 3, "ab" * 32)
    assert (call.queue_ns, call.compute_ns) == (2_000_000, 300_000_000)
    (asked,) = vision.charts
    assert (asked.chart_png, asked.prompt_name, asked.instrument.con_id) == (PNG, "swing", 4242)
    assert asked.as_of_time.ToNanoseconds() == NOW_NS
    assert asked.request_id == call.request_id


async def test_the_data_behind_a_chart_and_the_context_reach_the_server(
    vision: FakeVision, client: ChartReadingClient
) -> None:
    extent = ChartExtent(98.5, 101.5, 100.25, NOW_NS - 3_600_000_000_000, NOW_NS, 60)
    context = ChartContext({"rsi_14": 61.5}, 0.0, (PastOutcome(0.5, -12.0),))
    query = ChartQuery(1, "ACME", PNG, NOW_NS, extent=extent, context=context, request_id="of-the-caller")
    outcome = await client.read_chart(query, budget=BUDGET_S)
    assert isinstance(outcome, Answer), outcome
    (asked,) = vision.charts
    assert asked.request_id == outcome.call.request_id == "of-the-caller"
    assert (asked.extent.low_price, asked.extent.high_price, asked.extent.last_price) == (98.5, 101.5, 100.25)
    assert asked.extent.end_time.ToNanoseconds() - asked.extent.start_time.ToNanoseconds() == 3_600 * 10**9
    assert asked.extent.bar_duration.seconds == 60
    assert dict(asked.context.indicators) == {"rsi_14": 61.5}
    assert asked.context.HasField("volume_ratio_forecast")
    assert [(past.similarity, past.forward_return_bps) for past in asked.context.past_outcomes] == [
        (0.5, -12)
    ]
    reading = outcome.value
    assert (reading.patterns, reading.key_levels, reading.risks) == (
        ("double_bottom",),
        (99.5, 104.25),
        ("volume is thin",),
    )
    assert reading.contradictions == (Contradiction("key_levels", "104.25 lies outside the chart"),)
    assert reading.trust == 0.5
    assert reading.record is not None
    assert (reading.record.prompt_tokens, reading.record.first_token_ns) == (200, 120_000_000)


async def test_what_is_not_known_is_not_sent(vision: FakeVision, client: ChartReadingClient) -> None:
    await client.read_chart(QUERY, budget=BUDGET_S)
    await client.read_chart(ChartQuery(1, "A", PNG, NOW_NS, context=ChartContext()), budget=BUDGET_S)
    bare, told = vision.charts
    assert not bare.HasField("extent")
    assert not bare.HasField("context")
    assert not told.context.HasField("volume_ratio_forecast")


async def test_the_reader_says_what_it_is_and_what_it_takes(
    vision: FakeVision, client: ChartReadingClient
) -> None:
    reader = await client.reader(timeout_s=BUDGET_S)
    assert (reader.model.name, reader.model.version, reader.model.artifact_sha256) == (
        "chart_reader",
        3,
        "ab" * 32,
    )
    assert (reader.prompt_names, reader.reading_lifetime_s) == (("fake", "swing"), 60.0)
    await vision.stop()
    with pytest.raises(ServerDownError):
        await client.reader(timeout_s=BUDGET_S)


async def test_an_expired_reading_is_stale(vision: FakeVision, client: ChartReadingClient) -> None:
    vision.valid_s = -0.001
    outcome = await client.read_chart(QUERY, budget=BUDGET_S)
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.STALE


async def test_a_slow_reading_is_late(vision: FakeVision, client: ChartReadingClient) -> None:
    assert await client.ready(BUDGET_S)
    vision.delay_s = lambda: 30.0
    outcome = await client.read_chart(QUERY, budget=0.1)
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.LATE


async def test_a_full_server_is_busy_and_not_asked_again(
    vision: FakeVision, client: ChartReadingClient
) -> None:
    vision.error = (grpc.StatusCode.RESOURCE_EXHAUSTED, "8 charts wait")
    outcome = await client.read_chart(QUERY, budget=BUDGET_S)
    assert isinstance(outcome, NoAnswer)
    assert (outcome.reason, len(vision.charts)) == (Reason.BUSY, 1)


def other_id(response: pb.ReadChartResponse) -> None:
    response.request_id = "another"


def no_signal(response: pb.ReadChartResponse) -> None:
    response.ClearField("signal")


def no_expiry(response: pb.ReadChartResponse) -> None:
    response.ClearField("expire_time")


def no_number(response: pb.ReadChartResponse) -> None:
    response.stated_confidence = float("nan")


def too_sure(response: pb.ReadChartResponse) -> None:
    response.stated_confidence = 1.5


def too_long(response: pb.ReadChartResponse) -> None:
    response.reasoning = "x" * 1001


def too_many_levels(response: pb.ReadChartResponse) -> None:
    response.key_levels.extend([1.0] * 8)


def no_level(response: pb.ReadChartResponse) -> None:
    response.key_levels.append(float("inf"))


def too_trusted(response: pb.ReadChartResponse) -> None:
    response.trust = 1.5


@pytest.mark.parametrize(
    "mangle",
    [
        other_id,
        no_signal,
        no_expiry,
        no_number,
        too_sure,
        too_long,
        too_many_levels,
        no_level,
        too_trusted,
    ],
)
async def test_a_malformed_reading_is_a_failure(
    vision: FakeVision, client: ChartReadingClient, mangle: Callable[[Any], None]
) -> None:
    vision.mangle = mangle
    outcome = await client.read_chart(QUERY, budget=BUDGET_S)
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.FAILED
    assert "malformed answer" in outcome.detail


@pytest.mark.parametrize("image", [b"", b"GIF89a", PNG + b"\0" * MAX_PNG_BYTES], ids=["empty", "GIF", "huge"])
async def test_what_is_no_png_or_too_large_is_not_sent(
    vision: FakeVision, client: ChartReadingClient, image: bytes
) -> None:
    with pytest.raises(WrongRequestError, match="chart_png"):
        await client.read_chart(ChartQuery(1, "A", image, NOW_NS), budget=BUDGET_S)
    assert not vision.charts
