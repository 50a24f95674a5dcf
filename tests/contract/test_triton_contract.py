"""What the SDK relies on, asserted on the fake Triton and on the real one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import numpy as np
import pytest
from numpy.typing import NDArray

from fakes.fake_triton import FakeTriton
from strategy.adapters.forecaster_specs import VoterSpec, bar_size_differences
from tradeserve_client.answers import Answer, NoAnswer, Outcome, Reason
from tradeserve_client.breaker import CircuitBreaker
from tradeserve_client.channel import Transport
from tradeserve_client.contract import differences
from tradeserve_client.errors import CallError
from tradeserve_client.fan_out import FanOut
from tradeserve_client.inference import Inference
from tradeserve_client.triton import TritonClient

LSTM = VoterSpec("lstm_cnn")
GAF = VoterSpec("gaf_resnet", embedding_dimension=128)


def window(seed: int) -> NDArray[np.float32]:
    dice = np.random.default_rng(seed)
    closes = 100 * np.exp(np.cumsum(dice.normal(0, 1e-3, 60)))
    opens = np.concatenate(([100.0], closes[:-1]))
    spread = np.abs(dice.normal(0, 0.02, 60))
    columns = [opens, np.maximum(opens, closes) + spread, np.minimum(opens, closes) - spread, closes]
    return np.stack([*columns, dice.uniform(1e3, 1e5, 60)], axis=1).astype(np.float32)


@pytest.fixture(params=["fake", "real"])
async def client(request: pytest.FixtureRequest, transport: Transport) -> AsyncIterator[TritonClient]:
    if request.param == "real":
        client = TritonClient(request.getfixturevalue("real_triton"), transport=transport)
        yield client
        await client.close()
        return
    async with FakeTriton() as server:
        client = TritonClient(server.address, transport=transport)
        yield client
        await client.close()


async def infer(
    client: TritonClient,
    voter: VoterSpec,
    values: NDArray[np.float32],
    *,
    model: str = "",
    version: int = 0,
    timeout_s: float = 20,
) -> Outcome[Inference]:
    outputs = voter.expected(60).outputs
    prepared = client.prepare(model or voter.name, version, "window", (1, *values.shape), outputs)
    lane = client.lane(voter.name, breaker=CircuitBreaker(time.monotonic_ns))
    with FanOut().group(time.monotonic_ns() + int(timeout_s * 1e9)) as group:
        return await group.start(lane, prepared.request(values)).outcome()


async def test_server_and_models_say_that_they_are_ready(client: TritonClient) -> None:
    assert await client.is_server_ready(timeout_s=20)
    assert await client.is_model_ready("lstm_cnn", timeout_s=20)
    assert not await client.is_model_ready("no_such_model", timeout_s=20)
    assert not await client.is_model_ready("lstm_cnn", 99, timeout_s=20)


@pytest.mark.parametrize("voter", [LSTM, GAF], ids=lambda voter: voter.name)
async def test_the_served_contract_is_the_one_the_strategy_expects(
    client: TritonClient, voter: VoterSpec
) -> None:
    served = await client.contract(voter.name, timeout_s=20)
    assert differences(voter.expected(60), served) == []
    assert served.version in served.versions
    assert len(bytes.fromhex(served.artifact_sha256)) == 32
    for bar_size_s in (60, 300, 3600, 86400):
        assert bar_size_differences(served, bar_size_s) == []
    assert bar_size_differences(served, 7) != []


@pytest.mark.parametrize("voter", [LSTM, GAF], ids=lambda voter: voter.name)
async def test_an_inference_gives_a_distribution_and_a_unit_embedding(
    client: TritonClient, voter: VoterSpec
) -> None:
    outcome = await infer(client, voter, window(1))
    assert isinstance(outcome, Answer), outcome
    assert outcome.value.outputs["probabilities"].shape == (1, 3)
    assert float(outcome.value.outputs["probabilities"].sum()) == pytest.approx(1, abs=1e-4)
    assert outcome.call.model_version >= 1
    if voter.embedding_dimension:
        assert float(np.linalg.norm(outcome.value.outputs["embedding"])) == pytest.approx(1, abs=1e-4)


async def test_the_same_window_gets_the_same_answer(client: TritonClient) -> None:
    first, second = await infer(client, LSTM, window(2)), await infer(client, LSTM, window(2))
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    np.testing.assert_array_equal(first.value.outputs["probabilities"], second.value.outputs["probabilities"])


async def test_a_wrong_version_is_seen_in_the_contract(client: TritonClient) -> None:
    served = await client.contract("lstm_cnn", 99, timeout_s=20)
    (difference,) = differences(VoterSpec("lstm_cnn", 99).expected(60), served)
    assert difference.startswith("lstm_cnn: expected version 99, served: ")


async def test_a_model_that_is_not_there_is_down(client: TritonClient) -> None:
    with pytest.raises(CallError, match="no_such_model") as caught:
        await client.contract("no_such_model", timeout_s=20)
    assert caught.value.reason is Reason.DOWN
    outcome = await infer(client, LSTM, window(3), model="no_such_model")
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.DOWN


async def test_a_version_that_is_not_there_is_down(client: TritonClient) -> None:
    outcome = await infer(client, LSTM, window(3), version=99)
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.DOWN, outcome


async def test_a_window_of_the_wrong_shape_is_refused(client: TritonClient) -> None:
    outcome = await infer(client, LSTM, window(3)[:59])
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.REFUSED, outcome


async def test_a_burst_of_calls_is_answered_without_a_stall(client: TritonClient) -> None:
    outputs = LSTM.expected(60).outputs
    prepared = client.prepare("lstm_cnn", 0, "window", (1, 60, 5), outputs)
    lane = client.lane("lstm_cnn", breaker=CircuitBreaker(time.monotonic_ns), max_in_flight=64)
    with FanOut().group(time.monotonic_ns() + 20_000_000_000) as group:
        pending = [group.start(lane, prepared.request(window(seed))) for seed in range(32)]
        outcomes = [await call.outcome() for call in pending]
    assert all(isinstance(outcome, Answer) for outcome in outcomes)


async def test_a_hopeless_deadline_is_late_not_an_error(client: TritonClient) -> None:
    outcome = await infer(client, GAF, window(4), timeout_s=0.0006)
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason in (Reason.LATE, Reason.DOWN, Reason.NO_BUDGET)
