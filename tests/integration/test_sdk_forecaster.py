"""The forecaster against real gRPC servers: complete replies, contracts, losses and returns."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from uuid_utils import uuid7

from fakes.fake_similarity import FakeSimilarity
from fakes.fake_triton import SHA, FakeTriton
from fakes.waiting import client_tasks, until
from strategy.adapters.forecaster_specs import ForecasterSpec, IndexSpec, VoterSpec
from strategy.adapters.grpc_forecaster import GrpcForecaster
from strategy.core.values import Neighbor
from strategy.ports import Forecast, Forecaster, ForecastReply, ForecastRequest, LateAnswer
from tradeserve_client.answers import Answer, NoAnswer, Outcome, Reason
from tradeserve_client.errors import ContractError

MS = 1_000_000
EVENT_NS = 1_700_000_000_000_000_000
WINDOW = np.full((60, 5), 100.0, np.float32)
LSTM = VoterSpec("lstm_cnn", 1, SHA["lstm_cnn"])
GAF = VoterSpec("gaf_resnet", 1, SHA["gaf_resnet"], embedding_dimension=128)


@pytest.fixture
async def triton() -> AsyncIterator[FakeTriton]:
    async with FakeTriton() as server:
        yield server


@pytest.fixture
async def similarity() -> AsyncIterator[FakeSimilarity]:
    async with FakeSimilarity() as server:
        yield server


@pytest.fixture
async def started() -> AsyncIterator[list[GrpcForecaster]]:
    before = client_tasks()
    forecasters: list[GrpcForecaster] = []
    yield forecasters
    for forecaster in forecasters:
        await forecaster.close()
    await until(lambda: not client_tasks() - before)


def plan(triton: FakeTriton, similarity: FakeSimilarity | None = None, **changes: object) -> ForecasterSpec:
    settings: dict[str, object] = {
        "triton_target": triton.address,
        "voters": (LSTM, GAF),
        "index": IndexSpec(similarity.address if similarity else "", version=1, neighbor_count=5),
        "forecast_share_ns": 2_000 * MS,
        "search_share_ns": 2_000 * MS,
        "total_ns": 4_000 * MS,
        "connect_timeout_s": 5.0,
        "recheck_s": 0.1,
    }
    return ForecasterSpec(**(settings | changes))  # type: ignore[arg-type]


def request(decision_id: str = "d1", window: NDArray[np.float32] = WINDOW) -> ForecastRequest:
    return ForecastRequest(decision_id, 1, window, EVENT_NS, time.monotonic_ns())


def reason(outcome: Outcome[Forecast] | Outcome[Sequence[Neighbor]]) -> Reason | None:
    return outcome.reason if isinstance(outcome, NoAnswer) else None


def reasons(reply: ForecastReply) -> list[Reason | None]:
    return [*(reason(outcome) for outcome in reply.forecasts.values()), reason(reply.neighbors)]


async def test_everything_answers(
    triton: FakeTriton, similarity: FakeSimilarity, started: list[GrpcForecaster]
) -> None:
    forecaster = GrpcForecaster(plan(triton, similarity, bar_size_s=60))
    started.append(forecaster)
    port: Forecaster = forecaster
    *voters, index = await port.start()
    assert [(voter.name, voter.version, voter.artifact_sha256, voter.problem) for voter in voters] == [
        ("lstm_cnn", 1, SHA["lstm_cnn"], ""),
        ("gaf_resnet", 1, SHA["gaf_resnet"], ""),
    ]
    assert (index.name, index.version, index.problem, index.statement) == ("similarity", 1, "", "no skill")
    assert not voters[0].demonstrated_skill
    assert voters[0].statement == "no skill demonstrated"
    reply = await forecaster.forecast(request())
    assert list(reply.forecasts) == ["lstm_cnn", "gaf_resnet"]
    assert reasons(reply) == [None, None, None]
    lstm, neighbors = reply.forecasts["lstm_cnn"], reply.neighbors
    assert isinstance(lstm, Answer)
    assert lstm.value.probabilities.up == pytest.approx(0.5)
    assert lstm.value.embedding is None
    assert lstm.call.artifact_sha256 == SHA["lstm_cnn"]
    assert isinstance(neighbors, Answer)
    assert len(neighbors.value) == 5
    assert isinstance(neighbors.value[0], Neighbor)
    assert similarity.searches[-1].before_time.seconds == EVENT_NS // 10**9


async def test_without_a_similarity_target_the_search_is_off(
    triton: FakeTriton, started: list[GrpcForecaster]
) -> None:
    forecaster = GrpcForecaster(plan(triton))
    started.append(forecaster)
    await forecaster.start()
    assert reasons(await forecaster.forecast(request())) == [None, None, Reason.OFF]
    assert forecaster.similarity.problem == "off"


async def test_a_traced_decision_is_named_as_the_parent_of_its_model_calls(
    triton: FakeTriton, similarity: FakeSimilarity, started: list[GrpcForecaster]
) -> None:
    for traced in (True, False):
        forecaster = GrpcForecaster(plan(triton, similarity, traced=traced))
        started.append(forecaster)
        await forecaster.start()
        decision_id = uuid7().hex
        assert reasons(await forecaster.forecast(request(decision_id))) == [None, None, None]
        sent = [model.headers[-1].get("traceparent") for model in triton.models.values()]
        assert set(sent) == {f"00-{decision_id}-{decision_id[16:]}-01" if traced else None}


async def test_the_search_starts_while_another_voter_is_still_awaited(
    triton: FakeTriton, similarity: FakeSimilarity, started: list[GrpcForecaster]
) -> None:
    forecaster = GrpcForecaster(plan(triton, similarity))
    started.append(forecaster)
    await forecaster.start()
    triton.models["lstm_cnn"].delay_s = lambda: 0.5
    asked = asyncio.create_task(forecaster.forecast(request()))
    await until(lambda: bool(similarity.searches))
    assert not asked.done()
    assert reasons(await asked) == [None, None, None]


async def test_a_missing_embedding_leaves_the_search_without_input(
    triton: FakeTriton, similarity: FakeSimilarity, started: list[GrpcForecaster]
) -> None:
    forecaster = GrpcForecaster(plan(triton, similarity))
    started.append(forecaster)
    await forecaster.start()
    triton.models["gaf_resnet"].error = (grpc.StatusCode.INTERNAL, "broken")
    reply = await forecaster.forecast(request())
    assert reasons(reply) == [None, Reason.FAILED, Reason.NO_INPUT]
    assert similarity.searches == []


async def test_hung_servers_cost_no_more_than_their_shares(
    triton: FakeTriton, similarity: FakeSimilarity, started: list[GrpcForecaster]
) -> None:
    forecaster = GrpcForecaster(plan(triton, similarity, forecast_share_ns=200 * MS, search_share_ns=50 * MS))
    started.append(forecaster)
    await forecaster.start()
    triton.models["lstm_cnn"].delay_s = lambda: 30.0
    similarity.delay_s = lambda: 30.0
    start_ns = time.monotonic_ns()
    reply = await forecaster.forecast(request())
    assert reasons(reply) == [Reason.LATE, None, Reason.LATE]
    assert time.monotonic_ns() - start_ns < 1_500 * MS


async def test_the_search_has_what_the_embedding_leaves_of_its_share(
    triton: FakeTriton, similarity: FakeSimilarity, started: list[GrpcForecaster]
) -> None:
    shares = {"forecast_share_ns": 2_000 * MS, "search_share_ns": 10 * MS, "total_ns": 5_000 * MS}
    forecaster = GrpcForecaster(plan(triton, similarity, **shares))
    started.append(forecaster)
    await forecaster.start()
    similarity.delay_s = lambda: 0.1
    asked = request()
    reply = await forecaster.forecast(asked)
    assert reasons(reply) == [None, None, None]
    assert reply.neighbors.call.deadline_ns - asked.start_ns <= 2_100 * MS


async def test_a_spent_budget_sends_nothing(
    triton: FakeTriton, similarity: FakeSimilarity, started: list[GrpcForecaster]
) -> None:
    forecaster = GrpcForecaster(plan(triton, similarity, total_ns=10 * MS))
    started.append(forecaster)
    await forecaster.start()
    calls = triton.models["lstm_cnn"].calls
    late = ForecastRequest("d", 1, WINDOW, EVENT_NS, time.monotonic_ns() - 20 * MS)
    reply = await forecaster.forecast(late)
    assert reasons(reply) == [Reason.NO_BUDGET, Reason.NO_BUDGET, Reason.NO_INPUT]
    assert triton.models["lstm_cnn"].calls == calls


async def test_no_decision_gets_a_late_answer_however_the_servers_are_delayed(
    triton: FakeTriton, similarity: FakeSimilarity, started: list[GrpcForecaster]
) -> None:
    late: list[LateAnswer] = []
    settings = {"forecast_share_ns": 15 * MS, "search_share_ns": 8 * MS, "total_ns": 30 * MS}
    spec = plan(triton, similarity, max_in_flight=200, breaker_failure_count=1_000_000, **settings)
    forecaster = GrpcForecaster(spec, on_late=late.append)
    started.append(forecaster)
    await forecaster.start()
    dice = random.Random(3)
    for model in triton.models.values():
        model.delay_s = lambda: dice.uniform(0.0, 0.022)
    similarity.delay_s = lambda: dice.uniform(0.0, 0.012)
    outcomes: list[Outcome[Forecast] | Outcome[Sequence[Neighbor]]] = []
    for number in range(170):
        asked = request(f"decision {number}")
        reply = await forecaster.forecast(asked)
        assert len(reply.forecasts) == 2
        outcomes += [*reply.forecasts.values(), reply.neighbors]
        for outcome in outcomes[-3:]:
            assert outcome.call.deadline_ns <= asked.start_ns + 30 * MS
    assert len(outcomes) >= 500
    answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
    assert answers
    assert all(0 < answer.call.received_ns <= answer.call.deadline_ns for answer in answers)
    used = {answer.call.request_id for answer in answers}
    assert not used & {one.request_id for one in late}
    arrived_late = {
        outcome.call.request_id
        for outcome in outcomes
        if isinstance(outcome, NoAnswer) and outcome.reason is Reason.LATE and outcome.call.received_ns
    }
    assert arrived_late <= {one.request_id for one in late}
    assert arrived_late or late
    assert all(one.decision_id.startswith("decision ") and one.late_ns >= 0 for one in late)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t, _s: setattr(t.models["lstm_cnn"], "versions", (2,)),
            "lstm_cnn: expected version 1, served: 2",
        ),
        (
            lambda t, _s: t.models["lstm_cnn"].parameters.update(artifact_sha256="ee" * 32),
            "lstm_cnn: expected artifact sha256 a1a1a1a1a1a1…, served: eeeeeeeeeeee…",
        ),
        (
            lambda t, _s: setattr(t.models["lstm_cnn"], "input_shape", (-1, 30, 5)),
            r"lstm_cnn: input 'window': expected shape \[-1, 60, 5\], served \[-1, 30, 5\]",
        ),
        (
            lambda t, _s: setattr(t.models["gaf_resnet"], "embedding_dimension", 64),
            r"gaf_resnet: output 'embedding': expected shape \[-1, 128\], served \[-1, 64\]",
        ),
        (
            lambda t, _s: t.models["lstm_cnn"].parameters.update(bar_sizes_s="300"),
            "lstm_cnn: the strategy trades bars of 60 s, the served model was trained for bars of 300 s",
        ),
        (lambda _t, s: setattr(s, "index_version", 7), "index market_states: expected version 1, served: 7"),
        (lambda _t, s: setattr(s, "dimension", 64), "holds embeddings of length 64, gaf_resnet makes 128"),
        (
            lambda _t, s: setattr(s, "embedding_sha256", "99" * 32),
            "built from gaf_resnet 999999999999…, but gaf_resnet b2b2b2b2b2b2… is served",
        ),
    ],
)
async def test_a_server_with_something_else_stops_the_start_and_says_what(
    triton: FakeTriton,
    similarity: FakeSimilarity,
    started: list[GrpcForecaster],
    change: Callable[[FakeTriton, FakeSimilarity], None],
    words: str,
) -> None:
    change(triton, similarity)
    forecaster = GrpcForecaster(plan(triton, similarity, bar_size_s=60))
    started.append(forecaster)
    with pytest.raises(ContractError, match=words):
        await forecaster.start()


async def test_servers_away_at_the_start_are_reported_and_picked_up_later(
    triton: FakeTriton, similarity: FakeSimilarity, started: list[GrpcForecaster]
) -> None:
    await triton.stop()
    await similarity.stop()
    forecaster = GrpcForecaster(plan(triton, similarity, connect_timeout_s=0.2))
    started.append(forecaster)
    voters = await forecaster.start()
    assert all("no connection" in voter.problem for voter in voters)
    assert reasons(await forecaster.forecast(request())) == [Reason.DOWN, Reason.DOWN, Reason.NO_INPUT]
    await triton.start()
    await similarity.start()
    back_ns = time.monotonic_ns()
    await until(lambda: not any(v.problem for v in forecaster.voters) and not forecaster.similarity.problem)
    assert time.monotonic_ns() - back_ns < 5_000 * MS
    assert reasons(await forecaster.forecast(request())) == [None, None, None]


async def test_killed_servers_leave_the_rest_and_return_without_a_restart(
    triton: FakeTriton, similarity: FakeSimilarity, started: list[GrpcForecaster]
) -> None:
    forecaster = GrpcForecaster(plan(triton, similarity))
    started.append(forecaster)
    await forecaster.start()
    await similarity.stop()
    await until(lambda: bool(forecaster.similarity.problem))
    assert reasons(await forecaster.forecast(request())) == [None, None, Reason.DOWN]
    await triton.stop()
    await until(lambda: bool(forecaster.voters[0].problem))
    assert reasons(await forecaster.forecast(request())) == [Reason.DOWN, Reason.DOWN, Reason.NO_INPUT]
    await triton.start()
    await similarity.start()
    await until(lambda: not any(v.problem for v in forecaster.voters) and not forecaster.similarity.problem)

    async def all_answer() -> bool:
        return reasons(await forecaster.forecast(request())) == [None, None, None]

    async with asyncio.timeout(5):
        while not await all_answer():  # noqa: ASYNC110 - the stream opens a moment after its channel
            await asyncio.sleep(0.01)


async def test_a_server_that_comes_back_with_another_model_is_not_believed(
    triton: FakeTriton, started: list[GrpcForecaster]
) -> None:
    forecaster = GrpcForecaster(plan(triton))
    started.append(forecaster)
    await forecaster.start()
    await triton.stop()
    triton.models["lstm_cnn"].parameters["artifact_sha256"] = "ee" * 32
    await triton.start()
    calls = triton.models["lstm_cnn"].calls
    await until(
        lambda: "expected artifact" in forecaster.voters[0].problem and not forecaster.voters[1].problem
    )
    reply = await forecaster.forecast(request())
    assert reasons(reply) == [Reason.CONTRACT_MISMATCH, None, Reason.OFF]
    assert triton.models["lstm_cnn"].calls == calls
    triton.models["lstm_cnn"].parameters["artifact_sha256"] = SHA["lstm_cnn"]
    await until(lambda: not forecaster.voters[0].problem)
    assert reasons(await forecaster.forecast(request())) == [None, None, Reason.OFF]


async def test_a_changed_embedding_model_is_not_looked_up_in_an_index_of_the_old_one(
    triton: FakeTriton, similarity: FakeSimilarity, started: list[GrpcForecaster]
) -> None:
    anything = VoterSpec("gaf_resnet", embedding_dimension=128)
    forecaster = GrpcForecaster(plan(triton, similarity, voters=(LSTM, anything)))
    started.append(forecaster)
    await forecaster.start()
    await triton.stop()
    triton.models["gaf_resnet"].parameters["artifact_sha256"] = "ee" * 32
    await triton.start()
    await until(
        lambda: forecaster.voters[1].artifact_sha256 == "ee" * 32 and not forecaster.voters[1].problem
    )
    reply = await forecaster.forecast(request())
    assert reasons(reply) == [None, None, Reason.CONTRACT_MISMATCH]
    assert "is served" in forecaster.similarity.problem


async def test_a_model_that_is_ready_but_can_not_infer_is_reported_until_it_can(
    triton: FakeTriton, started: list[GrpcForecaster]
) -> None:
    triton.models["lstm_cnn"].error = (grpc.StatusCode.INTERNAL, "Stub process is not healthy")
    forecaster = GrpcForecaster(plan(triton))
    started.append(forecaster)
    voters = await forecaster.start()
    assert "trial inference failed" in voters[0].problem
    triton.models["lstm_cnn"].error = None
    await until(lambda: not forecaster.voters[0].problem)


async def test_a_model_that_is_not_loaded_is_reported_not_fatal(
    triton: FakeTriton, started: list[GrpcForecaster]
) -> None:
    del triton.models["lstm_cnn"]
    forecaster = GrpcForecaster(plan(triton))
    started.append(forecaster)
    voters = await forecaster.start()
    assert "unknown model" in voters[0].problem
    assert reasons(await forecaster.forecast(request())) == [Reason.DOWN, None, Reason.OFF]


@pytest.mark.parametrize(
    ("probabilities", "words"),
    [((0.5, 0.5, 0.5), "not a distribution"), ((float("nan"), 0.5, 0.5), "nan"), ((-0.5, 0.5, 1.0), "-0.5")],
)
async def test_what_is_no_distribution_is_a_failure(
    triton: FakeTriton, started: list[GrpcForecaster], probabilities: tuple[float, float, float], words: str
) -> None:
    forecaster = GrpcForecaster(plan(triton))
    started.append(forecaster)
    await forecaster.start()
    triton.models["lstm_cnn"].probabilities = probabilities
    reply = await forecaster.forecast(request())
    outcome = reply.forecasts["lstm_cnn"]
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.FAILED
    assert words in outcome.detail


@pytest.mark.parametrize("window", [np.ones((59, 5), np.float32), np.full((60, 5), np.nan, np.float32)])
async def test_a_wrong_window_is_refused_before_it_is_sent(
    triton: FakeTriton, similarity: FakeSimilarity, started: list[GrpcForecaster], window: NDArray[np.float32]
) -> None:
    forecaster = GrpcForecaster(plan(triton, similarity))
    started.append(forecaster)
    await forecaster.start()
    reply = await forecaster.forecast(request(window=window))
    assert reasons(reply) == [Reason.REFUSED, Reason.REFUSED, Reason.NO_INPUT]


async def test_a_cancelled_decision_leaves_no_task_behind(
    triton: FakeTriton, similarity: FakeSimilarity, started: list[GrpcForecaster]
) -> None:
    forecaster = GrpcForecaster(plan(triton, similarity, forecast_share_ns=30_000 * MS, total_ns=30_000 * MS))
    started.append(forecaster)
    await forecaster.start()
    before = client_tasks()
    triton.models["lstm_cnn"].delay_s = lambda: 30.0
    asked = asyncio.create_task(forecaster.forecast(request()))
    await until(lambda: bool(similarity.searches))
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await until(lambda: not client_tasks() - before)


async def test_many_decisions_at_once_all_get_complete_replies(
    triton: FakeTriton, similarity: FakeSimilarity, started: list[GrpcForecaster]
) -> None:
    forecaster = GrpcForecaster(plan(triton, similarity, max_in_flight=8))
    started.append(forecaster)
    await forecaster.start()
    triton.models["lstm_cnn"].delay_s = lambda: 0.05
    replies = await asyncio.gather(*(forecaster.forecast(request(f"d{n}")) for n in range(20)))
    assert all(len(reply.forecasts) == 2 for reply in replies)
    busy = [reply for reply in replies if reason(reply.forecasts["lstm_cnn"]) is Reason.BUSY]
    assert len(busy) == 12
