"""Steps of sequences on several replicas: one of them has the state, and no step may run twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest

from fakes.fake_triton import FakeModel, FakeTriton
from fakes.waiting import until
from tradeserve_client.answers import Answer, NoAnswer, Outcome, Reason
from tradeserve_client.channel import Transport
from tradeserve_client.errors import WrongRequestError
from tradeserve_client.inference import Inference
from tradeserve_client.replicas import ReplicaLimits
from tradeserve_client.resilience import Resilience
from tradeserve_client.sequence import SequenceStep
from tradeserve_client.triton import TritonClient

INPUTS = {"window": np.ones((1, 60, 5), np.float32)}
BUDGET_S = 10.0


@pytest.fixture
async def servers() -> AsyncIterator[tuple[FakeTriton, FakeTriton]]:
    async with FakeTriton() as first, FakeTriton() as second:
        for server in (first, second):
            server.models["lstm_cnn"].has_sequences = True
        yield first, second


@pytest.fixture
async def client(servers: tuple[FakeTriton, FakeTriton], transport: Transport) -> AsyncIterator[TritonClient]:
    client = TritonClient(
        [server.address for server in servers],
        resilience=Resilience(hedge=True, hedge_share=0.5),
        limits=ReplicaLimits(breaker_failure_count=100),
        transport=transport,
    )
    yield client
    await client.close()


async def infer(client: TritonClient, step: SequenceStep) -> Outcome[Inference]:
    return await client.infer("lstm_cnn", INPUTS, budget=BUDGET_S, sequence=step)


def models(servers: tuple[FakeTriton, FakeTriton]) -> list[FakeModel]:
    return [server.models["lstm_cnn"] for server in servers]


def step_at(index: int) -> SequenceStep:
    """Return a step of a sequence that belongs to one of two servers."""
    return next(step for step in map(SequenceStep, range(1, 100)) if step.replica_index(2) == index)


async def test_every_step_of_a_sequence_goes_to_one_replica_and_sequences_to_all(
    client: TritonClient, servers: tuple[FakeTriton, FakeTriton]
) -> None:
    ids = [*range(1, 11), *(f"S{number}" for number in range(10))]
    for turn in range(3):
        for sequence_id in ids:
            step = SequenceStep(sequence_id, start=turn == 0, end=turn == 2)
            assert isinstance(await infer(client, step), Answer)
    seen = [set(model.sequence_ids) for model in models(servers)]
    assert all(seen)
    assert not seen[0] & seen[1]
    assert seen[0] | seen[1] == set(ids)
    assert [len(model.sequence_ids) for model in models(servers)] == [3 * len(ids) for ids in seen]


async def test_a_step_whose_replica_is_away_goes_nowhere_else(
    client: TritonClient, servers: tuple[FakeTriton, FakeTriton]
) -> None:
    for index in (0, 1):
        assert isinstance(await infer(client, step_at(index)), Answer)
    await servers[1].stop()
    await until(lambda: not client.replicas.replicas[1].link.is_ready)
    calls = models(servers)[0].calls
    outcome = await client.infer("lstm_cnn", INPUTS, budget=0.5, sequence=step_at(1))
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.DOWN
    assert isinstance(await infer(client, step_at(0)), Answer)
    assert models(servers)[0].calls == calls + 1


async def test_a_step_that_got_no_answer_is_not_sent_again(
    client: TritonClient, servers: tuple[FakeTriton, FakeTriton]
) -> None:
    assert isinstance(await infer(client, step_at(0)), Answer)
    for model in [*models(servers), *(server.models["gaf_resnet"] for server in servers)]:
        model.error = (grpc.StatusCode.UNAVAILABLE, "the connection was lost")
    before = sum(model.calls for model in models(servers))
    outcome = await infer(client, step_at(0))
    assert isinstance(outcome, NoAnswer)
    assert sum(model.calls for model in models(servers)) == before + 1
    assert client.counts.retries == 0
    await client.infer("gaf_resnet", INPUTS, budget=BUDGET_S)
    assert client.counts.retries == 1  # as other calls are


async def test_a_slow_step_gets_no_hedge(
    client: TritonClient, servers: tuple[FakeTriton, FakeTriton]
) -> None:
    for _ in range(64):  # from so many on it is known what is usual
        assert isinstance(await infer(client, step_at(0)), Answer)
    hedges = client.counts.hedges
    for model in models(servers):
        model.delay_s = lambda: 0.3
    before = sum(model.calls for model in models(servers))
    assert isinstance(await infer(client, step_at(0)), Answer)
    assert sum(model.calls for model in models(servers)) == before + 1
    assert client.counts.hedges == hedges


async def test_a_sequence_is_not_tried_on_a_canary(
    client: TritonClient, servers: tuple[FakeTriton, FakeTriton]
) -> None:
    for model in models(servers):
        model.versions = (1, 2)
        model.parameters |= {"promoted_version": "1", "canary_version": "2", "canary_share": "0.5"}
    for _ in range(30):
        outcome = await infer(client, step_at(0))
        assert isinstance(outcome, Answer)
        assert outcome.call.model_version == 1


async def test_a_call_that_does_not_fit_the_model_is_refused_by_name(
    client: TritonClient, servers: tuple[FakeTriton, FakeTriton]
) -> None:
    with pytest.raises(WrongRequestError, match=r"the model has sequences: say which with sequence="):
        await client.infer("lstm_cnn", INPUTS, budget=BUDGET_S)
    with pytest.raises(WrongRequestError, match=r"the model has no sequences"):
        await client.infer("gaf_resnet", INPUTS, budget=BUDGET_S, sequence=SequenceStep(1, start=True))


@pytest.mark.parametrize("wrong", [0, -1, 2**63, True, "", "x" * 129, "é" * 65])
def test_an_id_that_triton_does_not_take_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="a sequence's id"):
        SequenceStep(wrong)
