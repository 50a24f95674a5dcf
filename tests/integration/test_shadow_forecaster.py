"""Versions that are tried, announced by a server over real gRPC: picked up, asked, dropped; the voters see nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import grpc
import numpy as np
import pytest

from fakes.fake_triton import FakeModel, FakeTriton, default_models
from fakes.waiting import client_tasks, until
from strategy.adapters.forecaster_specs import ForecasterSpec, VoterSpec
from strategy.adapters.grpc_forecaster import GrpcForecaster
from strategy.adapters.shadow_forecaster import GrpcShadowForecaster
from strategy.ports import ForecastRequest, ShadowVersion
from tradeserve_client.answers import Answer, NoAnswer, Reason

WINDOW = np.full((60, 5), 100.0, np.float32)
S = 1_000_000_000
SHA_2 = "d4" * 32


@pytest.fixture
async def triton() -> AsyncIterator[FakeTriton]:
    models = default_models()
    lstm = models["lstm_cnn"]
    lstm.versions = (1, 2)
    lstm.others[2] = FakeModel("lstm_cnn", probabilities=(0.7, 0.2, 0.1))
    lstm.parameters |= {"promoted_version": "1", "version_2.artifact_sha256": SHA_2}
    async with FakeTriton(models) as server:
        yield server


@pytest.fixture
def spec(triton: FakeTriton) -> ForecasterSpec:
    voters = (VoterSpec("lstm_cnn", 1), VoterSpec("gaf_resnet", 1, embedding_dimension=128))
    return ForecasterSpec(
        triton.address,
        voters,
        forecast_share_ns=2 * S,
        search_share_ns=2 * S,
        total_ns=4 * S,
        connect_timeout_s=10.0,
        check_timeout_s=0.5,
        recheck_s=0.05,
        look_again_s=0.05,
    )


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
async def shadow(spec: ForecasterSpec, said: list[str]) -> AsyncIterator[GrpcShadowForecaster]:
    before = client_tasks()
    made = GrpcShadowForecaster(spec, deadline_ns=S // 2, max_in_flight=2, on_change=said.append)
    made.open()
    yield made
    await made.close()
    await until(lambda: not client_tasks() - before)


@pytest.fixture
async def voters(spec: ForecasterSpec) -> AsyncIterator[GrpcForecaster]:
    made = GrpcForecaster(spec)
    await made.start()
    yield made
    await made.close()


def announce(triton: FakeTriton, version: int) -> None:
    triton.models["lstm_cnn"].parameters["shadow_version"] = str(version)


def second(triton: FakeTriton) -> FakeModel:
    return triton.models["lstm_cnn"].others[2]


def request() -> ForecastRequest:
    return ForecastRequest("d", 1, WINDOW, 1_700_000_000 * S, time.monotonic_ns())


async def tried(shadow: GrpcShadowForecaster, triton: FakeTriton) -> ShadowVersion:
    announce(triton, 2)
    await until(lambda: bool(shadow.versions))
    (found,) = shadow.versions
    return found


async def test_an_announced_version_is_picked_up_asked_and_dropped_without_a_restart(
    triton: FakeTriton, shadow: GrpcShadowForecaster, said: list[str]
) -> None:
    looks = triton.metadata_calls
    await until(lambda: triton.metadata_calls > looks + 4)
    assert shadow.versions == []
    found = await tried(shadow, triton)
    assert found == ShadowVersion("lstm_cnn", 2, SHA_2)
    outcome = await shadow.ask(found, request())
    assert isinstance(outcome, Answer)
    assert outcome.value.probabilities.down == pytest.approx(0.7)
    assert (outcome.call.model_version, outcome.call.artifact_sha256) == (2, SHA_2)
    announce(triton, 0)
    await until(lambda: not shadow.versions)
    gone = await shadow.ask(found, request())
    assert isinstance(gone, NoAnswer)
    assert (gone.detail, gone.call.sent_ns) == ("it is not tried any more", 0)
    assert said == [
        f"lstm_cnn v2 {SHA_2[:12]} is tried beside v1: asked after each decision, recorded, never used",
        "lstm_cnn v2 is not tried any more",
    ]


async def test_the_version_that_the_strategy_itself_uses_is_not_tried(
    triton: FakeTriton, shadow: GrpcShadowForecaster
) -> None:
    announce(triton, 1)
    looks = triton.metadata_calls
    await until(lambda: triton.metadata_calls > looks + 6)
    assert shadow.versions == []


async def test_a_version_with_another_contract_is_not_asked_and_said_why(
    triton: FakeTriton, shadow: GrpcShadowForecaster, said: list[str]
) -> None:
    second(triton).input_shape = (-1, 30, 5)
    announce(triton, 2)
    await until(lambda: bool(said))
    assert shadow.versions == []
    assert "can't be asked: lstm_cnn: input 'window': expected shape" in said[0]
    assert second(triton).calls == 0


async def test_a_version_that_hangs_is_given_up_at_its_deadline_and_shed_by_its_limit(
    triton: FakeTriton, shadow: GrpcShadowForecaster
) -> None:
    found = await tried(shadow, triton)
    second(triton).delay_s = lambda: 30.0
    began = time.monotonic()
    outcomes = await asyncio.gather(*(shadow.ask(found, request()) for _ in range(3)))
    reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, NoAnswer)]
    assert reasons == [Reason.LATE, Reason.LATE, Reason.BUSY]
    assert time.monotonic() - began < 5.0


async def test_a_version_that_fails_or_is_unloaded_is_no_answer_and_comes_back(
    triton: FakeTriton, shadow: GrpcShadowForecaster
) -> None:
    found = await tried(shadow, triton)
    second(triton).error = (grpc.StatusCode.INTERNAL, "no such node")
    failed = await shadow.ask(found, request())
    assert isinstance(failed, NoAnswer)
    assert failed.reason is Reason.FAILED
    second(triton).error = None
    triton.models["lstm_cnn"].versions = (1,)
    lost = await shadow.ask(found, request())
    assert isinstance(lost, NoAnswer)
    assert lost.reason is Reason.DOWN
    await until(lambda: not shadow.versions)
    triton.models["lstm_cnn"].versions = (1, 2)
    await until(lambda: bool(shadow.versions))
    assert isinstance(await shadow.ask(found, request()), Answer)


async def test_a_server_that_goes_away_and_returns_is_asked_again(
    triton: FakeTriton, shadow: GrpcShadowForecaster
) -> None:
    found = await tried(shadow, triton)
    await triton.stop()
    lost = await shadow.ask(found, request())
    assert isinstance(lost, NoAnswer)
    assert lost.reason is Reason.DOWN
    await triton.start()
    async with asyncio.timeout(10):
        while not isinstance(await shadow.ask(found, request()), Answer):  # noqa: ASYNC110 - has no event
            await asyncio.sleep(0.005)


async def test_the_voter_is_asked_no_more_and_its_breaker_stays_closed_whatever_the_shadow_does(
    triton: FakeTriton, voters: GrpcForecaster, shadow: GrpcShadowForecaster
) -> None:
    real = triton.models["lstm_cnn"]
    calls = real.calls
    found = await tried(shadow, triton)
    second(triton).error = (grpc.StatusCode.INTERNAL, "broken")
    for _ in range(20):  # far beyond what opens a breaker
        assert isinstance(await shadow.ask(found, request()), NoAnswer)
    refused = await shadow.ask(found, request())
    assert isinstance(refused, NoAnswer)
    assert "breaker" in refused.detail
    looks = triton.metadata_calls
    await until(lambda: triton.metadata_calls > looks + 6)
    assert real.calls == calls, "the announcement alone must not have the voter tested again"
    assert not voters.voters[0].problem
    reply = await voters.forecast(request())
    own = reply.forecasts["lstm_cnn"]
    assert isinstance(own, Answer)
    assert own.value.probabilities.up == pytest.approx(0.5)
    assert own.call.model_version == 1
