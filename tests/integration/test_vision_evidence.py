"""An engine that has charts read over real gRPC: no decision depends on whether, when or how that ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from fakes.engine_world import World
from fakes.fake_reader import LIMITS
from fakes.fake_vision import FakeVision
from fakes.waiting import client_tasks, until
from journal.rows import DecisionRow, OrderIntentRow, VisionReadingRow
from strategy.adapters.chart_reader import GrpcChartReader
from strategy.core.values import Probabilities
from strategy.vision import VisionPlan
from tradeserve.market.v1 import market_pb2
from tradeserve.vision.v1 import chart_reading_service_pb2 as pb
from tradeserve_client.channel import Transport
from vision_server.png import PngLimits, read_png, shows_nothing
from vision_server.requests import parse_read

UPS = (0.7, 0.1, 0.6, 0.34, 0.2, 0.75)
NEUTRAL = Probabilities(0.3, 0.4, 0.3)
BULLISH = Probabilities(0.1, 0.2, 0.7)


@pytest.fixture
async def vision() -> AsyncIterator[FakeVision]:
    async with FakeVision() as server:
        yield server


@pytest.fixture
async def reader(vision: FakeVision, transport: Transport) -> AsyncIterator[GrpcChartReader]:
    before = client_tasks()
    made = GrpcChartReader(vision.address, deadline_s=5.0, max_in_flight=4, transport=transport)
    yield made
    await made.close()
    await until(lambda: not client_tasks() - before)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    if made.task is not None and not made.task.done():
        await made.stop()


def rows(world: World, kind: type[Any]) -> list[Any]:
    return [row for row in world.journal.rows if isinstance(row, kind)]


async def heard(world: World, count: int) -> VisionReadingRow:
    async with asyncio.timeout(20):
        while len(rows(world, VisionReadingRow)) < count:  # noqa: ASYNC110 - has no event
            await asyncio.sleep(0.002)
    row: VisionReadingRow = rows(world, VisionReadingRow)[-1]
    return row


def what_was_done(world: World) -> Sequence[object]:
    decided = [replace(row, decision_id="") for row in rows(world, DecisionRow)]
    placed = [replace(order, intent_id="", decision_id="") for order in world.broker.placed]
    intents = [
        replace(row, intent_id="", decision_id="")
        for row in world.journal.durable
        if isinstance(row, OrderIntentRow)
    ]
    return [decided, placed, intents, len(world.broker.cancelled)]


async def session(world: World, between: Callable[[int], Awaitable[None]]) -> World:
    await world.start()
    for count, up in enumerate(UPS):
        world.forecaster.probabilities = Probabilities(0.8 - up, 0.2, up)
        await world.bar()
        await between(count)
    await world.stop()
    return world


async def nothing(_: int) -> None:
    return None


def sell(response: pb.ReadChartResponse) -> None:
    response.signal = market_pb2.SIDE_SELL
    response.stated_confidence = 0.9
    response.trust = 1.0


def far_off(response: pb.ReadChartResponse) -> None:
    sell(response)
    response.trust = 0.1
    response.contradictions.add(field="key_levels", detail="1e9 lies outside the chart")


@pytest.mark.parametrize("trouble", ["absent", "hanging", "erroring", "late", "contradicted", "killed"])
async def test_decisions_and_orders_are_those_of_a_run_without_vision(
    tmp_path: Path, vision: FakeVision, trouble: str
) -> None:
    for name in ("without", "with"):
        (tmp_path / name).mkdir()
    without = await session(World(tmp_path / "without"), nothing)
    vision.mangle = far_off if trouble == "contradicted" else sell
    if trouble in ("hanging", "late", "killed"):
        vision.delay_s = lambda: 30.0
    if trouble == "erroring":
        vision.error = (grpc.StatusCode.INTERNAL, "the engine broke")
    if trouble == "absent":
        await vision.stop()
    deadline_s = 0.05 if trouble == "late" else 5.0
    made = GrpcChartReader(vision.address, deadline_s=deadline_s, max_in_flight=4, transport=Transport.HTTP2)
    world = World(tmp_path / "with", vision=VisionPlan(made, LIMITS))

    async def between(count: int) -> None:
        if count == 0 and trouble != "absent":
            await until(lambda: bool(vision.charts), timeout_s=10)
        if count == 1 and trouble == "killed":
            await vision.stop()
        if trouble in ("late", "erroring", "contradicted"):
            await heard(world, count + 1)

    await session(world, between)
    await made.close()
    assert what_was_done(world) == what_was_done(without)
    assert len(without.broker.placed) > 2
    if trouble != "contradicted":
        assert "in time" not in {row.outcome for row in rows(world, VisionReadingRow)}


async def test_a_server_that_is_killed_in_mid_request_loses_no_decision_and_is_asked_again(
    world: World, vision: FakeVision, reader: GrpcChartReader
) -> None:
    world.vision = VisionPlan(reader, LIMITS)
    world.forecaster.probabilities = NEUTRAL
    await world.start()
    vision.delay_s = lambda: 30.0
    await world.bar()
    await until(lambda: bool(vision.charts), timeout_s=10)
    await vision.stop()
    lost = await heard(world, 1)
    assert (lost.outcome, lost.signal) == ("down", None)
    assert lost.chart_sha256, "what was asked is recorded although nobody answered"
    await world.bar()
    await heard(world, 2)
    vision.delay_s = lambda: 0.0
    await vision.start()
    readings = 2
    async with asyncio.timeout(20):
        while True:  # the breaker may be open for a moment
            await world.bar()
            readings += 1
            if (await heard(world, readings)).outcome == "in time":
                break
            await asyncio.sleep(0.05)
    assert world.engine.ledger.decisions.total() == readings
    assert len(rows(world, DecisionRow)) == readings
    await world.stop()


async def test_the_real_server_takes_the_question(
    world: World, vision: FakeVision, reader: GrpcChartReader
) -> None:
    world.vision = VisionPlan(reader, LIMITS)
    await world.start()
    await world.bar()
    await heard(world, 1)
    await world.stop()
    (asked,) = vision.charts
    task = parse_read(asked)
    picture = read_png(task.chart_png, PngLimits())
    assert not shows_nothing(picture.pixels)
    assert not task.prompt.left_out
    assert "rsi_14" in task.prompt.after_chart


async def test_a_reading_over_the_wire_vetoes_the_next_entry_against_it(
    world: World, vision: FakeVision, reader: GrpcChartReader
) -> None:
    vision.mangle = sell
    world.vision = VisionPlan(reader, LIMITS)
    world.forecaster.probabilities = NEUTRAL
    await world.start()
    await world.bar()
    read = await heard(world, 1)
    assert (read.outcome, read.signal, read.model_name) == ("in time", "SELL", "chart_reader")
    (asked,) = vision.charts
    assert asked.request_id == read.request_id
    assert asked.extent.end_time.ToNanoseconds() == read.as_of_ns == asked.as_of_time.ToNanoseconds()
    assert asked.context.indicators["rsi_14"] == read.question["indicators"]["rsi_14"]
    assert not asked.context.HasField("volume_ratio_forecast")
    assert read.raw_output == '{"signal": "BUY"}'
    assert read.prompt == "Read the chart of ACME."
    assert read.compute_ns == 300_000_000
    vision.error = (grpc.StatusCode.UNAVAILABLE, "away")
    world.forecaster.probabilities = BULLISH
    for _ in range(LIMITS.lifetime_bars):
        await world.bar()
        assert not world.broker.placed
    await world.bar()
    assert [order.side.value for order in world.broker.placed] == ["BUY"]
    await world.stop()
