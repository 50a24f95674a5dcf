"""TritonClient.infer with one server, where a call goes straight to it: nothing that is promised is lost by that."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import grpc
import numpy as np
import pytest

from fakes.fake_triton import SHA, FakeModel, FakeTriton
from fakes.waiting import client_tasks, until
from tradeserve_client.answer_reader import AnswerReader
from tradeserve_client.answers import Answer, NoAnswer, Outcome, Reason
from tradeserve_client.breaker import BreakerState
from tradeserve_client.budget import Budget, Deadline
from tradeserve_client.channel import Transport
from tradeserve_client.errors import WrongRequestError
from tradeserve_client.inference import Inference
from tradeserve_client.replicas import ReplicaLimits
from tradeserve_client.resilience import Resilience
from tradeserve_client.triton import INFER_METHOD, TritonClient

BUDGET_S = 10.0
MS = 1_000_000
DOWN = (grpc.StatusCode.UNAVAILABLE, "Socket closed")


class Served:
    """A fake Triton and what opens clients of it that went straight to it once."""

    def __init__(self, triton: FakeTriton, transport: Transport) -> None:
        self.triton = triton
        self.transport = transport
        self.clients: list[TritonClient] = []

    @property
    def model(self) -> FakeModel:
        return self.triton.models["lstm_cnn"]

    async def client(self, **options: Any) -> TritonClient:
        client = TritonClient(self.triton.address, transport=self.transport, **options)
        self.clients.append(client)
        checks = 0
        while checks < 2 or not self.goes_straight(client):  # the contract is read twice at first
            checks = self.triton.metadata_calls
            assert isinstance(await infer(client), Answer)
        self.model.calls = client.counts.calls = 0
        return client

    def goes_straight(self, client: TritonClient) -> bool:
        route = client._routes.get(("lstm_cnn", 0))
        return route is not None and route.holds


@pytest.fixture
async def served(transport: Transport) -> AsyncIterator[Served]:
    before = client_tasks()
    async with FakeTriton() as triton:
        served = Served(triton, transport)
        yield served
        for client in served.clients:
            await client.close()
    await until(lambda: not client_tasks() - before)


async def infer(
    client: TritonClient, budget: Budget = BUDGET_S, batch: int = 1, **options: Any
) -> Outcome[Inference]:
    window = np.ones((batch, 60, 5), np.float32)
    return await client.infer("lstm_cnn", {"window": window}, budget=budget, **options)


def is_ours(work: object) -> bool:
    code = getattr(work, "cr_code", None) or getattr(work, "__code__", None)
    return "tradeserve_client" in getattr(code, "co_filename", "")


def reason(outcome: Outcome[Inference]) -> Reason | None:
    return outcome.reason if isinstance(outcome, NoAnswer) else None


async def test_answers_are_those_of_the_first_call_whatever_shape_is_asked(served: Served) -> None:
    client = await served.client()
    for number, batch in enumerate((1, 3, 1, 2, 3, 1)):
        served.model.probabilities = (0.1, 0.1 * number, 0.9 - 0.1 * number)
        outcome = await infer(client, batch=batch, outputs=("probabilities",) if number % 2 else ())
        assert isinstance(outcome, Answer)
        wanted = np.tile(np.array(served.model.probabilities, np.float32), (batch, 1))
        assert np.array_equal(outcome.value.outputs["probabilities"], wanted)
        call = outcome.call
        assert 0 < call.sent_ns < call.received_ns < call.deadline_ns
        assert call.request_id == served.model.request_ids[-1]
        assert (call.service, call.model_name, call.model_version) == ("lstm_cnn", "lstm_cnn", 1)
        assert call.artifact_sha256 == SHA["lstm_cnn"]


async def test_a_wrong_input_is_still_refused_by_name(served: Served) -> None:
    client = await served.client()
    window = np.ones((1, 60, 5), np.float32)
    for inputs, words in (
        ({"window": window.astype(np.float64)}, "wants FP32, got float64"),
        ({"window": window[0]}, "wants shape"),
        ({"window": window, "candles": window}, "no input named 'candles'"),
        ({}, "is missing"),
    ):
        with pytest.raises(WrongRequestError, match=words):
            await client.infer("lstm_cnn", inputs, budget=BUDGET_S)
    with pytest.raises(WrongRequestError, match="no output named 'x'"):
        await infer(client, outputs=["x"])
    assert served.model.calls == 0


async def test_a_lost_connection_is_retried_once_and_no_more(served: Served) -> None:
    client = await served.client()
    served.model.error = DOWN
    assert reason(await infer(client)) is Reason.DOWN
    assert (served.model.calls, client.counts.retries, client.counts.calls) == (2, 1, 1)


async def test_without_retry_a_lost_connection_is_an_answer_lost(served: Served) -> None:
    client = await served.client(resilience=Resilience(retry=False))
    served.model.error = DOWN
    assert reason(await infer(client)) is Reason.DOWN
    assert served.model.calls == 1


async def test_what_the_server_refuses_for_load_is_not_sent_again(served: Served) -> None:
    client = await served.client()
    served.model.error = (grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")
    assert reason(await infer(client)) is Reason.BUSY
    assert (served.model.calls, client.counts.retries) == (1, 0)


async def test_calls_beyond_the_bound_in_flight_are_shed(served: Served) -> None:
    client = await served.client(limits=ReplicaLimits(max_in_flight=2))
    served.model.delay_s = lambda: 0.3
    outcomes = await asyncio.gather(*(infer(client) for _ in range(7)))
    assert [reason(outcome) for outcome in outcomes] == [None] * 2 + [Reason.BUSY] * 5
    assert client.replicas.replicas[0].in_flight == 0


async def test_the_breaker_opens_and_a_probe_closes_it(served: Served) -> None:
    client = await served.client(limits=ReplicaLimits(breaker_failure_count=3))
    served.model.error = (grpc.StatusCode.INTERNAL, "broken")
    assert [reason(await infer(client)) for _ in range(5)] == [Reason.FAILED] * 3 + [Reason.DOWN] * 2
    assert served.model.calls == 3
    served.model.error = None
    breaker = client.replicas.replicas[0].lane("lstm_cnn", INFER_METHOD).breaker
    await until(lambda: breaker.state is BreakerState.HALF_OPEN)
    assert isinstance(await infer(client), Answer)
    assert breaker.state is BreakerState.CLOSED


async def test_an_answer_that_can_not_be_read_for_a_fault_of_ours_leaves_no_probe_out(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await served.client(limits=ReplicaLimits(breaker_failure_count=1))
    breaker = client.replicas.replicas[0].lane("lstm_cnn", INFER_METHOD).breaker

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    with monkeypatch.context() as patched:
        patched.setattr(AnswerReader, "read", broken)
        for _ in range(2):  # the first opens the breaker, the second is the probe
            with pytest.raises(RuntimeError, match="broken"):
                await infer(client)
            await until(lambda: breaker.state is BreakerState.HALF_OPEN)
    assert isinstance(await infer(client), Answer)
    assert breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize("alarm_lead_ms", [1.2, -50.0], ids=["with the alarm", "with only the clock"])
async def test_no_late_answer_is_returned_and_each_is_reported(served: Served, alarm_lead_ms: float) -> None:
    late: list[str] = []
    client = await served.client(
        on_late=lambda _service, request_id, _late_ns: late.append(request_id),
        limits=ReplicaLimits(max_in_flight=64, breaker_failure_count=1_000_000),
    )
    client._caller._fan_out.alarm.lead_ns = int(alarm_lead_ms * MS)
    dice = random.Random(3)
    served.model.delay_s = lambda: dice.uniform(0.1, 2.0) * 0.02
    outcomes: list[Outcome[Inference]] = []
    for _ in range(30):
        deadline = Deadline(time.monotonic_ns() + 20 * MS)
        outcomes += await asyncio.gather(*(infer(client, deadline) for _ in range(8)))
    answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
    assert all(answer.call.received_ns <= answer.call.deadline_ns for answer in answers)
    assert {reason(outcome) for outcome in outcomes} <= {None, Reason.LATE, Reason.NO_BUDGET}
    sent_in_vain = {
        outcome.call.request_id
        for outcome in outcomes
        if isinstance(outcome, NoAnswer) and outcome.call.sent_ns
    }
    assert answers
    assert sent_in_vain
    # Those that were given up are left to Triton, and reported when they come.
    await until(lambda: set(late) == sent_in_vain)
    assert (len(late), served.model.cancelled) == (len(set(late)), 0)


async def test_the_deadline_goes_with_the_call_and_a_cancelled_caller_leaves_nothing(served: Served) -> None:
    client = await served.client()
    assert BUDGET_S / 2 < served.model.time_left_s[-1] < BUDGET_S + 6.0  # given up, it may run out
    served.model.delay_s = lambda: 0.2
    call = asyncio.create_task(infer(client))
    await until(lambda: served.model.calls == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    lane = client.replicas.replicas[0].lane("lstm_cnn", INFER_METHOD)
    assert (lane.in_flight, client._caller._fan_out.alarm._due) == (0, {})
    await until(lambda: lane.unfinished == 0)
    assert lane.breaker.state is BreakerState.CLOSED


async def test_a_model_that_is_replaced_is_followed_and_one_that_is_gone_is_down(served: Served) -> None:
    client = await served.client(recheck_s=3600)
    served.model.versions = (3,)
    first = await infer(client)
    assert isinstance(first, Answer)
    assert (first.call.model_version, first.call.artifact_sha256) == (3, "")
    await until(lambda: client._watch.contract("lstm_cnn", 0).version == 3)  # type: ignore[union-attr]
    second = await infer(client)
    assert isinstance(second, Answer)
    assert (second.call.model_version, second.call.artifact_sha256) == (3, SHA["lstm_cnn"])
    del served.triton.models["lstm_cnn"]
    gone = await infer(client)
    assert isinstance(gone, NoAnswer)
    assert gone.reason is Reason.DOWN
    assert "not found" in gone.detail


async def test_a_canary_that_comes_up_gets_its_share(served: Served) -> None:
    client = await served.client(recheck_s=0.05)
    served.model.versions = (1, 2)
    served.model.parameters |= {"promoted_version": "1", "canary_version": "2", "canary_share": "0.5"}
    await until(lambda: client._watch.contract("lstm_cnn", 0).versions == (1, 2))  # type: ignore[union-attr]
    versions = [outcome.call.model_version for outcome in [await infer(client) for _ in range(60)]]
    assert set(versions) == {1, 2}


async def test_calls_make_no_tasks_and_no_timers_of_their_own(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would cost every call some microseconds; the transports' own are not counted."""
    client = await served.client(recheck_s=3600)
    loop = asyncio.get_running_loop()
    made: list[str] = []
    create_task, call_at = loop.create_task, loop.call_at

    def noted_task(work: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        if is_ours(work):
            made.append(f"task {work}")
        return create_task(work, **options)

    def noted_timer(when: float, callback: Any, *args: Any, **options: Any) -> asyncio.TimerHandle:
        if is_ours(callback):
            made.append(f"timer {callback}")
        return call_at(when, callback, *args, **options)

    monkeypatch.setattr(loop, "create_task", noted_task)
    monkeypatch.setattr(loop, "call_at", noted_timer)
    for _ in range(50):
        assert isinstance(await infer(client, 1000.0), Answer)
    assert len(made) <= 2, made
