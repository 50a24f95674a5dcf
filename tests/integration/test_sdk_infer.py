"""TritonClient.infer against real gRPC servers that change what they serve, and are slow, wrong, full or gone."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from fakes.fake_triton import SHA, FakeModel, FakeTriton
from fakes.waiting import client_tasks, until
from tradeserve_client.answers import Answer, NoAnswer, Outcome, Reason
from tradeserve_client.budget import Budget, Deadline
from tradeserve_client.channel import Transport
from tradeserve_client.contract import ExpectedModel, ModelContract, TensorSpec
from tradeserve_client.errors import TradeserveError
from tradeserve_client.inference import Inference
from tradeserve_client.metrics import CallMetrics
from tradeserve_client.replicas import ReplicaLimits
from tradeserve_client.resilience import Resilience
from tradeserve_client.triton import TritonClient

INPUTS = {"window": np.ones((1, 60, 5), np.float32)}
BUDGET_S = 10.0
PINNED = ExpectedModel(
    "lstm_cnn",
    0,
    SHA["lstm_cnn"],
    (TensorSpec("window", "FP32", (-1, 60, 5)),),
    (TensorSpec("probabilities", "FP32", (-1, 3)),),
)


@dataclass
class Cluster:
    """Two servers of the same models."""

    servers: tuple[FakeTriton, FakeTriton]

    @property
    def targets(self) -> list[str]:
        return [server.address for server in self.servers]

    @property
    def models(self) -> list[FakeModel]:
        return [server.models["lstm_cnn"] for server in self.servers]

    @property
    def calls(self) -> int:
        return sum(model.calls for model in self.models)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with FakeTriton() as first, FakeTriton() as second:
        yield Cluster((first, second))


@pytest.fixture
async def triton() -> AsyncIterator[FakeTriton]:
    async with FakeTriton() as server:
        yield server


@pytest.fixture
async def clients() -> AsyncIterator[list[TritonClient]]:
    """Clients that the test opens; closed and gone without a trace afterwards."""
    before = client_tasks()
    made: list[TritonClient] = []
    yield made
    for client in made:
        await client.close()
    await until(lambda: not client_tasks() - before)


async def infer(client: TritonClient, budget: Budget = BUDGET_S, **options: Any) -> Outcome[Inference]:
    return await client.infer("lstm_cnn", INPUTS, budget=budget, **options)


async def connected(client: TritonClient) -> TritonClient:
    assert await client.ready(BUDGET_S)
    await until(lambda: all(replica.link.is_ready for replica in client.replicas.replicas))
    return client


async def warm(client: TritonClient) -> None:
    """Have every replica's contract checked."""
    await connected(client)
    assert isinstance(await infer(client), Answer)
    replicas = client.replicas.replicas
    await until(lambda: all(client._watch.may_ask("lstm_cnn", 0, replica) for replica in replicas))


async def test_arrays_go_in_and_come_out(
    triton: FakeTriton, clients: list[TritonClient], transport: Transport
) -> None:
    client = TritonClient(triton.address, transport=transport)
    clients.append(client)
    outcome = await client.infer("gaf_resnet", {"window": np.ones((2, 60, 5), np.float32)}, budget=BUDGET_S)
    assert isinstance(outcome, Answer), outcome
    assert outcome.value.outputs["probabilities"].shape == (2, 3)
    assert outcome.value.outputs["embedding"].shape == (2, 128)
    assert outcome.call.artifact_sha256 == SHA["gaf_resnet"]
    only = await client.infer("gaf_resnet", INPUTS, budget=BUDGET_S, outputs=["embedding"])
    assert isinstance(only, Answer)
    assert list(only.value.outputs) == ["embedding"]


async def test_headers_of_the_client_and_of_the_call_reach_the_server(
    triton: FakeTriton, clients: list[TritonClient], transport: Transport
) -> None:
    tokens = iter(f"Bearer {number}" for number in range(1_000))
    client = TritonClient(
        triton.address, metadata=lambda: {"authorization": next(tokens)}, transport=transport
    )
    clients.append(client)
    assert isinstance(await infer(client, metadata={"x-desk": "rates"}), Answer)
    assert isinstance(await infer(client), Answer)
    first, second = triton.models["lstm_cnn"].headers
    assert first["x-desk"] == "rates"
    assert "x-desk" not in second
    assert first["authorization"] != second["authorization"]


async def test_headers_that_can_not_be_made_are_the_callers_error_and_leave_nothing(
    triton: FakeTriton, clients: list[TritonClient]
) -> None:
    tokens: list[str] = []
    client = TritonClient(
        triton.address,
        metadata=lambda: {"authorization": tokens[0]},
        limits=ReplicaLimits(max_in_flight=2),
        recheck_s=0.05,
    )
    clients.append(client)
    outcome = await infer(client)
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.REFUSED
    assert "what gives them failed: IndexError" in outcome.detail
    tokens.append("Bearer x")
    assert isinstance(await infer(client), Answer)
    tokens.clear()
    for _ in range(3):
        with pytest.raises(TradeserveError, match="what gives them failed"):
            await infer(client)
    tokens.append("Bearer y")
    await until(lambda: client._watch.may_ask("lstm_cnn", 0, client.replicas.replicas[0]))
    assert isinstance(await infer(client), Answer)


async def test_a_replica_that_hangs_does_not_hold_up_the_first_call(
    cluster: Cluster, clients: list[TritonClient]
) -> None:
    cluster.servers[0].metadata_delay_s = 30.0
    client = TritonClient(cluster.targets)
    clients.append(client)
    await connected(client)
    assert isinstance(await infer(client, 1.5), Answer)


async def test_a_server_that_is_away_is_down_and_used_when_it_comes(
    triton: FakeTriton, clients: list[TritonClient]
) -> None:
    await triton.stop()
    client = TritonClient(triton.address)
    clients.append(client)
    outcome = await infer(client, 0.2)
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.DOWN
    assert triton.address in outcome.detail
    await triton.start()
    assert isinstance(await infer(client), Answer)


async def test_a_model_that_is_not_loaded_is_down_in_the_servers_words(
    triton: FakeTriton, clients: list[TritonClient]
) -> None:
    client = TritonClient(triton.address)
    clients.append(client)
    outcome = await client.infer("nope", INPUTS, budget=BUDGET_S)
    assert isinstance(outcome, NoAnswer)
    assert (outcome.reason, outcome.call.sent_ns) == (Reason.DOWN, 0)
    assert "unknown model: 'nope'" in outcome.detail
    triton.models["nope"] = FakeModel("nope")
    assert isinstance(await client.infer("nope", INPUTS, budget=BUDGET_S), Answer)


async def test_a_model_that_differs_from_the_expected_is_not_asked(
    triton: FakeTriton, clients: list[TritonClient]
) -> None:
    triton.models["lstm_cnn"].parameters["artifact_sha256"] = "ee" * 32
    client = TritonClient(triton.address, expected=[PINNED])
    clients.append(client)
    outcome = await infer(client)
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.CONTRACT_MISMATCH
    assert "expected artifact sha256 a1a1a1a1a1a1…, served: eeeeeeeeeeee…" in outcome.detail
    assert triton.models["lstm_cnn"].calls == 0


async def test_a_pinned_model_that_is_replaced_in_place_is_not_asked_any_more(
    triton: FakeTriton, clients: list[TritonClient]
) -> None:
    """Same version, same connection: only looking again finds it."""
    client = TritonClient(triton.address, expected=[PINNED], recheck_s=0.05)
    clients.append(client)
    assert isinstance(await infer(client), Answer)
    triton.models["lstm_cnn"].parameters["artifact_sha256"] = "ee" * 32
    await until(lambda: not client._watch.may_ask("lstm_cnn", 0, client.replicas.replicas[0]))
    outcome = await infer(client)
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.CONTRACT_MISMATCH
    triton.models["lstm_cnn"].parameters["artifact_sha256"] = SHA["lstm_cnn"]
    await until(lambda: client._watch.may_ask("lstm_cnn", 0, client.replicas.replicas[0]))
    assert isinstance(await infer(client), Answer)


async def test_a_model_without_a_pin_is_followed_and_the_change_is_told(
    triton: FakeTriton, clients: list[TritonClient]
) -> None:
    changes: list[tuple[str, ModelContract, ModelContract]] = []
    client = TritonClient(
        triton.address, recheck_s=0.05, on_contract_change=lambda *change: changes.append(change)
    )
    clients.append(client)
    assert isinstance(await infer(client), Answer)
    triton.models["lstm_cnn"].parameters["artifact_sha256"] = "ee" * 32
    await until(lambda: bool(changes))
    target, before, after = changes[0]
    assert target == triton.address
    assert (before.artifact_sha256, after.artifact_sha256) == (SHA["lstm_cnn"], "ee" * 32)
    outcome = await infer(client)
    assert isinstance(outcome, Answer)
    assert outcome.call.artifact_sha256 == "ee" * 32


async def test_an_answer_of_a_new_version_has_the_contract_read_again_at_once(
    triton: FakeTriton, clients: list[TritonClient]
) -> None:
    client = TritonClient(triton.address, recheck_s=3600)
    clients.append(client)
    assert isinstance(await infer(client), Answer)
    model = triton.models["lstm_cnn"]
    model.versions = (1, 2)
    model.parameters["artifact_sha256"] = "ee" * 32
    first = await infer(client)
    assert isinstance(first, Answer)
    # It is not known yet whose bytes answered, and the record does not pretend to know.
    assert (first.call.model_version, first.call.artifact_sha256) == (2, "")
    await until(lambda: client._watch.contract("lstm_cnn", 0).version == 2)  # type: ignore[union-attr]
    second = await infer(client)
    assert isinstance(second, Answer)
    assert (second.call.model_version, second.call.artifact_sha256) == (2, "ee" * 32)


async def test_a_pinned_model_answering_with_an_unchecked_version_is_a_mismatch(
    triton: FakeTriton, clients: list[TritonClient]
) -> None:
    client = TritonClient(triton.address, expected=[PINNED], recheck_s=3600)
    clients.append(client)
    assert isinstance(await infer(client), Answer)
    triton.models["lstm_cnn"].versions = (1, 2)
    outcome = await infer(client)
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.CONTRACT_MISMATCH
    assert "version 2" in outcome.detail


async def test_a_version_unloaded_on_one_replica_is_asked_of_the_other(
    cluster: Cluster, clients: list[TritonClient]
) -> None:
    client = TritonClient(cluster.targets, recheck_s=3600)
    clients.append(client)
    await warm(client)
    del cluster.servers[0].models["lstm_cnn"]
    outcomes = [await infer(client) for _ in range(10)]
    assert all(isinstance(outcome, Answer) for outcome in outcomes)


# --- replicas -------------------------------------------------------------------------------------


async def test_calls_are_spread_over_the_replicas(
    cluster: Cluster, clients: list[TritonClient], transport: Transport
) -> None:
    client = TritonClient(",".join(cluster.targets), transport=transport)
    clients.append(client)
    await warm(client)
    await asyncio.gather(*(infer(client) for _ in range(40)))
    assert [10 <= model.calls <= 31 for model in cluster.models] == [True, True]


async def test_a_call_whose_server_dies_is_answered_by_the_other(
    cluster: Cluster, clients: list[TritonClient], transport: Transport
) -> None:
    client = TritonClient(cluster.targets, transport=transport)
    clients.append(client)
    await warm(client)
    for model in cluster.models:
        model.delay_s = lambda: 0.2
    before = cluster.calls
    calls = [asyncio.create_task(infer(client)) for _ in range(10)]
    await until(lambda: cluster.calls >= before + 10)
    await cluster.servers[0].stop()
    outcomes = await asyncio.gather(*calls)
    assert all(isinstance(outcome, Answer) for outcome in outcomes), outcomes
    assert 1 <= client.counts.retries <= 10
    assert all([isinstance(await infer(client), Answer) for _ in range(10)])


async def test_a_connection_that_comes_back_at_once_is_used_for_the_retry(
    triton: FakeTriton, clients: list[TritonClient], transport: Transport
) -> None:
    client = TritonClient(
        triton.address, resilience=Resilience(reconnect_wait_s=4), recheck_s=0.05, transport=transport
    )
    clients.append(client)
    await warm(client)
    model = triton.models["lstm_cnn"]
    model.delay_s = lambda: 30.0
    call = asyncio.create_task(infer(client))
    await until(lambda: model.calls == 2)
    model.delay_s = lambda: 0.0
    await triton.stop()
    await triton.start()
    # What came up may be something else: the retry waits for its contract, or there is no answer.
    outcome = await call
    assert isinstance(outcome, Answer) or outcome.reason is Reason.DOWN
    assert isinstance(await infer(client), Answer)


@pytest.mark.parametrize("words", ["Request timeout expired", "Exceeds maximum queue size"])
async def test_a_full_queue_is_never_sent_a_second_request(
    cluster: Cluster, clients: list[TritonClient], words: str
) -> None:
    client = TritonClient(cluster.targets)
    clients.append(client)
    await warm(client)
    for model in cluster.models:
        model.error = (grpc.StatusCode.UNAVAILABLE, words)
    before = cluster.calls
    outcome = await infer(client)
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.BUSY
    assert (cluster.calls - before, client.counts.retries) == (1, 0)


async def test_without_retry_a_lost_connection_is_an_answer_lost(
    cluster: Cluster, clients: list[TritonClient]
) -> None:
    client = TritonClient(cluster.targets, resilience=Resilience(retry=False))
    clients.append(client)
    await warm(client)
    for model in cluster.models:
        model.error = (grpc.StatusCode.UNAVAILABLE, "Socket closed")
    before = cluster.calls
    outcome = await infer(client)
    assert isinstance(outcome, NoAnswer)
    assert (outcome.reason, cluster.calls - before) == (Reason.DOWN, 1)


async def test_a_lost_connection_is_retried_once_and_no_more(
    cluster: Cluster, clients: list[TritonClient]
) -> None:
    client = TritonClient(cluster.targets)
    clients.append(client)
    await warm(client)
    for model in cluster.models:
        model.error = (grpc.StatusCode.UNAVAILABLE, "Socket closed")
    before = cluster.calls
    outcome = await infer(client)
    assert isinstance(outcome, NoAnswer)
    assert (outcome.reason, cluster.calls - before) == (Reason.DOWN, 2)


async def test_calls_beyond_the_bound_of_every_replica_are_shed(
    cluster: Cluster, clients: list[TritonClient]
) -> None:
    client = TritonClient(cluster.targets, limits=ReplicaLimits(max_in_flight=2))
    clients.append(client)
    await warm(client)
    for model in cluster.models:
        model.delay_s = lambda: 0.3
    outcomes = await asyncio.gather(*(infer(client) for _ in range(7)))
    shed = [outcome.reason for outcome in outcomes if isinstance(outcome, NoAnswer)]
    assert shed == [Reason.BUSY] * 3


async def test_a_failing_replica_is_left_alone_and_probed_with_copies_only(
    cluster: Cluster, clients: list[TritonClient]
) -> None:
    client = TritonClient(cluster.targets, limits=ReplicaLimits(breaker_failure_count=3))
    clients.append(client)
    await warm(client)
    sick = cluster.models[0]
    sick.error = (grpc.StatusCode.INTERNAL, "broken")
    outcomes = [await infer(client) for _ in range(20)]
    assert sum(isinstance(outcome, NoAnswer) for outcome in outcomes) == 3
    lane = client.replicas.replicas[0].lane("lstm_cnn", client._caller.method)
    await until(lambda: lane.breaker.state.value == "half open")
    # While it is still sick the probe fails, and the call that caused it is answered by the other.
    assert isinstance(await infer(client), Answer)
    await until(lambda: lane.breaker.state.value == "open")
    sick.error = None
    await until(lambda: lane.breaker.state.value == "half open")
    assert isinstance(await infer(client), Answer)
    await until(lambda: lane.breaker.state.value == "closed")
    assert client.counts.probes == 2


# --- hedges ---------------------------------------------------------------------------------------


async def test_a_slow_answer_is_overtaken_by_a_hedge_within_its_share_of_load(
    cluster: Cluster, clients: list[TritonClient], transport: Transport
) -> None:
    client = TritonClient(
        cluster.targets, resilience=Resilience(hedge=True, hedge_share=0.05), transport=transport
    )
    clients.append(client)
    await warm(client)
    for _ in range(2_000):  # a busy machine is slow by itself, and hedges for that are spent too
        assert isinstance(await infer(client), Answer)
        if client.counts.calls > 60 and client._caller._hedging.budget._saved >= 2:
            break
    cluster.models[0].delay_s = lambda: 30.0
    overtaken = [
        outcome for outcome in [await infer(client) for _ in range(2)] if isinstance(outcome, Answer)
    ]
    assert len(overtaken) == 2
    assert client.counts.hedge_wins >= 1
    assert client.counts.hedges <= 0.05 * client.counts.calls + 1e-9
    lane = client.replicas.replicas[0].lane("lstm_cnn", client._caller.method)
    await until(lambda: lane.in_flight == 0)  # who lost was cancelled


async def test_an_overtaken_call_is_remembered_once(cluster: Cluster, clients: list[TritonClient]) -> None:
    """With the hedge's own short wait beside it, the sample would hedge ever sooner."""
    client = TritonClient(cluster.targets, resilience=Resilience(hedge=True, hedge_share=0.5))
    clients.append(client)
    await warm(client)
    for _ in range(60):
        assert isinstance(await infer(client), Answer)
    cluster.models[0].delay_s = lambda: 30.0
    wins = client.counts.hedge_wins
    for _ in range(4):
        assert isinstance(await infer(client), Answer)
    assert client.counts.hedge_wins > wins
    assert len(client._caller._hedging._samples["lstm_cnn"]._recent) == client.counts.calls


async def test_hedges_need_another_replica_and_a_budget(
    triton: FakeTriton, clients: list[TritonClient]
) -> None:
    client = TritonClient(triton.address, resilience=Resilience(hedge=True, hedge_share=0.5))
    clients.append(client)
    for _ in range(60):
        assert isinstance(await infer(client), Answer)
    assert client.counts.hedges == 0


async def test_both_answers_late_is_late_and_leaves_nothing(
    cluster: Cluster, clients: list[TritonClient]
) -> None:
    client = TritonClient(cluster.targets, resilience=Resilience(hedge=True, hedge_share=0.5))
    clients.append(client)
    await warm(client)
    for _ in range(60):
        await infer(client)
    for model in cluster.models:
        model.delay_s = lambda: 30.0
    outcome = await infer(client, 0.1)
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.LATE
    assert client.counts.hedges >= 1
    await until(lambda: all(replica.in_flight == 0 for replica in client.replicas.replicas))


async def test_a_cancelled_caller_leaves_nothing_running(
    cluster: Cluster, clients: list[TritonClient]
) -> None:
    client = TritonClient(cluster.targets, resilience=Resilience(hedge=True, hedge_share=0.5))
    clients.append(client)
    await warm(client)
    for _ in range(60):
        await infer(client)
    for model in cluster.models:
        model.delay_s = lambda: 30.0
    hedges = client.counts.hedges
    call = asyncio.create_task(infer(client, 60.0))
    await until(lambda: client.counts.hedges > hedges)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: all(replica.in_flight == 0 for replica in client.replicas.replicas))


@pytest.mark.parametrize("alarm", ["with the alarm", "with only the clock"])
async def test_no_late_answer_is_returned_whatever_is_retried_and_hedged(
    cluster: Cluster, clients: list[TritonClient], transport: Transport, alarm: str
) -> None:
    dice = random.Random(11)
    client = TritonClient(
        cluster.targets,
        resilience=Resilience(hedge=True, hedge_share=0.5),
        limits=ReplicaLimits(max_in_flight=64, breaker_failure_count=1_000_000),
        transport=transport,
    )
    clients.append(client)
    if alarm == "with only the clock":
        client._caller._fan_out.alarm.lead_ns = -50_000_000  # late answers do arrive as OK then
    await warm(client)
    for _ in range(60):  # so that hedges begin at what is usual when nothing is slow
        await infer(client)
    for model in cluster.models:
        model.delay_s = lambda: dice.uniform(0.1, 2.0) * 0.02
    answers = late = 0
    for _ in range(40):
        deadline = Deadline(time.monotonic_ns() + 20_000_000)
        for outcome in await asyncio.gather(*(infer(client, deadline) for _ in range(8))):
            if isinstance(outcome, Answer):
                answers += 1
                assert outcome.call.received_ns <= outcome.call.deadline_ns == deadline.at_ns
            else:
                late += 1
                assert outcome.reason in (Reason.LATE, Reason.NO_BUDGET)
    assert answers
    assert late
    assert client.counts.hedges


async def test_every_call_is_counted_with_its_outcome_and_times(
    triton: FakeTriton, clients: list[TritonClient]
) -> None:
    registry = CollectorRegistry()
    client = TritonClient(triton.address, on_outcome=CallMetrics(registry).observe)
    clients.append(client)
    assert isinstance(await infer(client), Answer)
    triton.models["lstm_cnn"].error = (grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
    assert isinstance(await infer(client), NoAnswer)

    def counted(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"service": "lstm_cnn", **labels})

    assert counted("tradeserve_client_calls_total", outcome="answer") == 1
    assert counted("tradeserve_client_calls_total", outcome="busy") == 1
    assert counted("tradeserve_client_call_seconds_count", stage="round trip") == 2
    assert counted("tradeserve_client_call_seconds_count", stage="queue") is None  # Triton does not tell


async def test_a_hung_replica_costs_what_its_breaker_allows_and_then_nothing(
    cluster: Cluster, clients: list[TritonClient], transport: Transport
) -> None:
    client = TritonClient(cluster.targets, limits=ReplicaLimits(breaker_failure_count=3), transport=transport)
    clients.append(client)
    await warm(client)
    cluster.models[0].delay_s = lambda: 30.0
    lane = client.replicas.replicas[0].lane("lstm_cnn", client._caller.method)
    lost = 0
    while lane.breaker.state.value == "closed":
        lost += isinstance(await infer(client, 0.3), NoAnswer)
    assert lost == 3
    await until(lambda: lane.breaker.state.value == "half open")
    outcomes = [await infer(client, 2.0) for _ in range(50)]
    assert all(isinstance(outcome, Answer) for outcome in outcomes)
    assert client.counts.probes >= 1
