"""What a server serves is replaced under the same version, without a connection lost."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import numpy as np
import pytest

from fakes.fake_similarity import FakeSimilarity
from fakes.fake_triton import SHA, FakeTriton
from fakes.waiting import client_tasks, until
from strategy.adapters.forecaster_specs import ForecasterSpec, IndexSpec, VoterSpec
from strategy.adapters.grpc_forecaster import GrpcForecaster
from strategy.ports import ForecastReply, ForecastRequest
from tradeserve_client.answers import Answer, NoAnswer, Reason

WINDOW = np.full((60, 5), 100.0, np.float32)
S = 1_000_000_000


@pytest.fixture
async def triton() -> AsyncIterator[FakeTriton]:
    async with FakeTriton() as server:
        yield server


@pytest.fixture
async def similarity() -> AsyncIterator[FakeSimilarity]:
    async with FakeSimilarity() as server:
        yield server


@pytest.fixture
async def forecaster(triton: FakeTriton, similarity: FakeSimilarity) -> AsyncIterator[GrpcForecaster]:
    before = client_tasks()
    spec = ForecasterSpec(
        triton.address,
        (
            VoterSpec("lstm_cnn", 1, SHA["lstm_cnn"]),
            VoterSpec("gaf_resnet", 1, SHA["gaf_resnet"], embedding_dimension=128),
        ),
        IndexSpec(similarity.address, version=1, neighbor_count=5),
        forecast_share_ns=2 * S,
        search_share_ns=2 * S,
        total_ns=4 * S,
        connect_timeout_s=10.0,
        recheck_s=0.05,
        look_again_s=0.05,
    )
    made = GrpcForecaster(spec)
    await made.start()
    yield made
    await made.close()
    await until(lambda: not client_tasks() - before)


async def ask(forecaster: GrpcForecaster) -> ForecastReply:
    return await forecaster.forecast(ForecastRequest("d", 1, WINDOW, 1_700_000_000 * S, time.monotonic_ns()))


async def test_a_model_is_not_asked_any_more_until_the_right_one_is_back(
    triton: FakeTriton, forecaster: GrpcForecaster
) -> None:
    assert isinstance((await ask(forecaster)).forecasts["lstm_cnn"], Answer)
    triton.models["lstm_cnn"].parameters["artifact_sha256"] = "ee" * 32
    await until(lambda: "expected artifact" in forecaster.voters[0].problem)
    reply = await ask(forecaster)
    lost = reply.forecasts["lstm_cnn"]
    assert isinstance(lost, NoAnswer)
    assert lost.reason is Reason.CONTRACT_MISMATCH
    assert isinstance(reply.forecasts["gaf_resnet"], Answer)
    triton.models["lstm_cnn"].parameters["artifact_sha256"] = SHA["lstm_cnn"]
    await until(lambda: not forecaster.voters[0].problem)
    assert isinstance((await ask(forecaster)).forecasts["lstm_cnn"], Answer)


async def test_an_index_of_other_embeddings_is_not_searched(
    similarity: FakeSimilarity, forecaster: GrpcForecaster
) -> None:
    await until(lambda: not forecaster.similarity.problem)
    assert isinstance((await ask(forecaster)).neighbors, Answer)
    similarity.embedding_sha256 = "ee" * 32
    await until(lambda: "built from" in forecaster.similarity.problem)
    lost = (await ask(forecaster)).neighbors
    assert isinstance(lost, NoAnswer)
    assert lost.reason is Reason.CONTRACT_MISMATCH


async def test_looking_again_asks_no_model_to_infer(triton: FakeTriton, forecaster: GrpcForecaster) -> None:
    calls, looks = triton.models["lstm_cnn"].calls, triton.metadata_calls
    await until(lambda: triton.metadata_calls > looks + 6)
    assert triton.models["lstm_cnn"].calls == calls
