"""Calls in parallel against a real gRPC server that is slow, wrong, full or gone."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from fakes.fake_triton import SHA, FakeTriton
from fakes.waiting import client_tasks, until
from tradeserve_client.answers import Answer, NoAnswer, Outcome, Reason
from tradeserve_client.breaker import BreakerState, CircuitBreaker
from tradeserve_client.channel import Transport
from tradeserve_client.contract import TensorSpec
from tradeserve_client.fan_out import FanOut
from tradeserve_client.inference import Inference, PreparedModel
from tradeserve_client.lane import Lane
from tradeserve_client.triton import TritonClient

OUTPUTS = (TensorSpec("probabilities", "FP32", (-1, 3)),)
WINDOW = np.ones((60, 5), np.float32)
MS = 1_000_000


@pytest.fixture
async def triton(tmp_path: Path) -> AsyncIterator[FakeTriton]:
    async with FakeTriton(address=f"unix:{tmp_path}/triton.sock") as server:
        yield server


@pytest.fixture
async def client(triton: FakeTriton, transport: Transport) -> AsyncIterator[TritonClient]:
    before = client_tasks()
    client = TritonClient(triton.address, transport=transport)
    assert await client.link.ready(10)
    yield client
    await client.close()
    await until(lambda: not client_tasks() - before)


def lane(client: TritonClient, *, max_in_flight: int = 32, failure_count: int = 1_000_000) -> Lane:
    breaker = CircuitBreaker(time.monotonic_ns, failure_count=failure_count, open_ns=50 * MS)
    return client.lane("lstm_cnn", breaker=breaker, max_in_flight=max_in_flight)


def prepared(version: int = 1) -> PreparedModel:
    return PreparedModel("lstm_cnn", version, "window", (1, 60, 5), OUTPUTS, artifact_sha256=SHA["lstm_cnn"])


async def ask(fan_out: FanOut, way: Lane, timeout_ms: float = 2_000) -> Outcome[Inference]:
    with fan_out.group(time.monotonic_ns() + int(timeout_ms * MS)) as group:
        return await group.start(way, prepared().request(WINDOW)).outcome()


async def test_an_answer_in_time_carries_its_record(triton: FakeTriton, client: TritonClient) -> None:
    outcome = await ask(FanOut(), lane(client))
    assert isinstance(outcome, Answer)
    assert outcome.value.outputs["probabilities"][0].tolist() == pytest.approx([0.2, 0.3, 0.5])
    call = outcome.call
    assert 0 < call.sent_ns < call.received_ns <= call.deadline_ns
    assert [call.request_id] == triton.models["lstm_cnn"].request_ids
    assert (call.model_name, call.model_version, call.artifact_sha256) == ("lstm_cnn", 1, SHA["lstm_cnn"])


@pytest.mark.parametrize("alarm_lead_ms", [1.2, -50.0], ids=["with the alarm", "with only the clock"])
async def test_no_late_answer_is_ever_returned_and_each_is_reported(
    triton: FakeTriton, client: TritonClient, alarm_lead_ms: float
) -> None:
    """The second case sets the alarm after the deadline, so that late answers do arrive as OK."""
    dice = random.Random(7)
    share_ms = 20.0
    triton.models["lstm_cnn"].delay_s = lambda: dice.uniform(0.2, 2.0) * share_ms / 1e3
    reported: dict[str, int] = {}
    fan_out = FanOut(
        on_late=lambda _service, request_id, late_ns: reported.update({request_id: late_ns}),
        alarm_lead_ns=int(alarm_lead_ms * MS),
    )
    way = lane(client, max_in_flight=1_000)
    outcomes: list[Outcome[Inference]] = []
    for _ in range(60):
        with fan_out.group(time.monotonic_ns() + int(share_ms * MS)) as group:
            pending = [group.start(way, prepared().request(WINDOW)) for _ in range(9)]
            outcomes += [await call.outcome() for call in pending]
    assert len(outcomes) == 540
    answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
    missing = [outcome for outcome in outcomes if isinstance(outcome, NoAnswer)]
    assert all(answer.call.received_ns <= answer.call.deadline_ns for answer in answers)
    assert {no_answer.reason for no_answer in missing} <= {Reason.LATE, Reason.NO_BUDGET}
    arrived_late = {n.call.request_id: n.call for n in missing if n.call.received_ns}
    assert all(reported[i] == call.received_ns - call.deadline_ns > 0 for i, call in arrived_late.items())
    # Given up by the alarm, answered afterwards: by Triton, which is left to finish.
    given_up = {n.call.request_id for n in missing if n.call.sent_ns and not n.call.received_ns}
    assert reported.keys() - arrived_late.keys() <= given_up
    assert not reported.keys() & {answer.call.request_id for answer in answers}
    assert answers
    assert missing
    assert reported or alarm_lead_ms > 0


async def test_a_hung_server_costs_no_more_than_the_deadline(
    triton: FakeTriton, client: TritonClient
) -> None:
    triton.models["lstm_cnn"].delay_s = lambda: 30.0
    start_ns = time.monotonic_ns()
    outcome = await ask(FanOut(), lane(client), timeout_ms=30)
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.LATE
    assert outcome.call.received_ns == 0
    assert time.monotonic_ns() - start_ns < 1_000 * MS


async def test_slow_and_fast_calls_of_a_group_are_told_apart(
    triton: FakeTriton, client: TritonClient
) -> None:
    triton.models["gaf_resnet"].delay_s = lambda: 30.0
    fan_out, way = FanOut(), lane(client)
    slow_model = PreparedModel("gaf_resnet", 1, "window", (1, 60, 5), OUTPUTS)
    with fan_out.group(time.monotonic_ns() + 200 * MS) as group:
        slow = group.start(way, slow_model.request(WINDOW))
        fast = group.start(way, prepared().request(WINDOW))
        # The slow one is awaited first: the other's time of arrival must not suffer from it.
        slow_outcome, fast_outcome = await slow.outcome(), await fast.outcome()
    assert isinstance(slow_outcome, NoAnswer)
    assert isinstance(fast_outcome, Answer)
    assert fast_outcome.call.round_trip_ns < 150 * MS


async def test_without_budget_nothing_is_sent(triton: FakeTriton, client: TritonClient) -> None:
    outcome = await ask(FanOut(), lane(client), timeout_ms=0.2)
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.NO_BUDGET
    assert (outcome.call.request_id, outcome.call.sent_ns) == ("", 0)
    assert triton.models["lstm_cnn"].calls == 0


async def test_calls_beyond_the_bound_in_flight_are_shed(triton: FakeTriton, client: TritonClient) -> None:
    triton.models["lstm_cnn"].delay_s = lambda: 0.05
    way = lane(client, max_in_flight=3)
    with FanOut().group(time.monotonic_ns() + 5_000 * MS) as group:
        pending = [group.start(way, prepared().request(WINDOW)) for _ in range(5)]
        outcomes = [await call.outcome() for call in pending]
    assert [isinstance(outcome, Answer) for outcome in outcomes] == [True, True, True, False, False]
    shed = outcomes[-1]
    assert isinstance(shed, NoAnswer)
    assert shed.reason is Reason.BUSY
    assert "3 calls in flight" in shed.detail
    assert way.in_flight == 0


async def test_a_call_that_is_given_up_is_never_cancelled_at_triton_and_its_answer_is_reported(
    triton: FakeTriton, client: TritonClient
) -> None:
    """Cancelled and expired requests crash Triton: see Lane.lets_run."""
    model = triton.models["lstm_cnn"]
    model.delay_s = lambda: 0.2
    late: list[str] = []
    fan_out = FanOut(on_late=lambda _service, request_id, _late_ns: late.append(request_id))
    way = lane(client)
    outcome = await ask(fan_out, way, timeout_ms=20)
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.LATE
    assert (way.in_flight, late) == (0, [])
    await until(lambda: late == [outcome.call.request_id])
    assert (model.calls, model.cancelled) == (1, 0)
    assert model.time_left_s[0] > 1.0


async def test_closing_a_client_lets_given_up_calls_run_out_at_triton(
    triton: FakeTriton, transport: Transport
) -> None:
    model = triton.models["lstm_cnn"]
    model.delay_s = lambda: 0.2
    client = TritonClient(triton.address, transport=transport)
    assert await client.link.ready(10)
    late: list[str] = []
    outcome = await ask(
        FanOut(on_late=lambda _service, id_, _late: late.append(id_)), lane(client), timeout_ms=20
    )
    assert isinstance(outcome, NoAnswer)
    await client.close()
    assert (model.calls, model.cancelled) == (1, 0)
    assert late == [outcome.call.request_id]


async def test_given_up_calls_free_their_places_until_too_many_are_unfinished(
    triton: FakeTriton, client: TritonClient
) -> None:
    triton.models["lstm_cnn"].delay_s = lambda: 30.0
    way = lane(client, max_in_flight=2)

    async def reason() -> Reason | None:
        outcome = await ask(FanOut(), way, timeout_ms=20)
        return outcome.reason if isinstance(outcome, NoAnswer) else None

    assert [await reason() for _ in range(9)] == [Reason.LATE] * 8 + [Reason.BUSY]
    assert (way.in_flight, way.unfinished) == (0, 8)
    await triton.stop()
    await until(lambda: way.unfinished == 0)


@pytest.mark.parametrize(
    ("code", "words", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Request timeout expired", Reason.BUSY),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many", Reason.BUSY),
        (grpc.StatusCode.INTERNAL, "Stub process 'x' is not healthy", Reason.FAILED),
        (grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape", Reason.REFUSED),
    ],
)
async def test_an_error_of_the_server_becomes_its_reason(
    triton: FakeTriton, client: TritonClient, code: grpc.StatusCode, words: str, reason: Reason
) -> None:
    triton.models["lstm_cnn"].error = (code, words)
    outcome = await ask(FanOut(), lane(client))
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is reason
    assert words in outcome.detail


async def test_a_malformed_answer_is_a_failure(triton: FakeTriton, client: TritonClient) -> None:
    triton.models["lstm_cnn"].mangle = lambda response: response.ClearField("raw_output_contents")
    outcome = await ask(FanOut(), lane(client))
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.FAILED
    assert "malformed" in outcome.detail


async def test_an_open_breaker_sends_nothing_and_a_probe_closes_it(
    triton: FakeTriton, client: TritonClient
) -> None:
    model = triton.models["lstm_cnn"]
    model.error = (grpc.StatusCode.INTERNAL, "broken")
    way = lane(client, failure_count=3)
    for _ in range(3):
        await ask(FanOut(), way)
    assert way.breaker.state.value == "open"
    calls = model.calls
    outcome = await ask(FanOut(), way)
    assert isinstance(outcome, NoAnswer)
    assert (outcome.reason, model.calls) == (Reason.DOWN, calls)
    assert "breaker" in outcome.detail
    model.error = None
    await until(lambda: way.breaker.state is BreakerState.HALF_OPEN)
    assert isinstance(await ask(FanOut(), way), Answer)
    assert way.breaker.state.value == "closed"


async def test_a_cancelled_caller_leaves_nothing_behind(triton: FakeTriton, client: TritonClient) -> None:
    triton.models["lstm_cnn"].delay_s = lambda: 0.5  # Triton finishes what it began
    way = lane(client, failure_count=1)
    before = client_tasks()
    caller = asyncio.create_task(ask(FanOut(), way, timeout_ms=20_000))
    await until(lambda: triton.models["lstm_cnn"].calls == 1)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await until(lambda: way.in_flight == 0 and not client_tasks() - before)
    assert way.breaker.state is BreakerState.CLOSED  # a caller that leaves says nothing about the server


@pytest.mark.parametrize("socket", ["tcp", "unix"])
async def test_a_killed_server_is_down_at_once_and_picked_up_when_it_returns(
    socket: str, transport: Transport, tmp_path: Path
) -> None:
    address = "127.0.0.1:0" if socket == "tcp" else f"unix:{tmp_path}/back.sock"
    async with FakeTriton(address=address) as triton:
        client = TritonClient(triton.address, transport=transport)
        try:
            assert await client.link.ready(10)
            way = lane(client)
            assert isinstance(await ask(FanOut(), way), Answer)
            epoch = client.link.epoch
            await triton.stop()
            await until(lambda: client.link.epoch > epoch)
            outcome = await ask(FanOut(), way, timeout_ms=500)
            assert isinstance(outcome, NoAnswer)
            assert outcome.reason is Reason.DOWN
            await triton.start()
            back_ns = time.monotonic_ns()
            await until(lambda: client.link.is_ready)
            assert time.monotonic_ns() - back_ns < 5_000 * MS
            assert isinstance(await ask(FanOut(), way), Answer)
        finally:
            await client.close()


async def test_a_call_that_is_running_when_the_server_dies_is_down(
    triton: FakeTriton, client: TritonClient
) -> None:
    triton.models["lstm_cnn"].delay_s = lambda: 30.0
    asked = asyncio.create_task(ask(FanOut(), lane(client), timeout_ms=20_000))
    await until(lambda: triton.models["lstm_cnn"].calls == 1)
    await triton.stop()
    outcome = await asked
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason in (Reason.DOWN, Reason.LATE)  # CANCELLED by a server that still had time to say so
