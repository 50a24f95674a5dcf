"""The SDK's inference on a real Triton: dtypes, dynamic shapes, output subsets, refusals in words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tradeserve_client.answers import Answer, NoAnswer, Reason
from tradeserve_client.channel import Transport
from tradeserve_client.errors import WrongRequestError
from tradeserve_client.triton import TritonClient

if TYPE_CHECKING:
    from integration.triton_server.conftest import RunningLauncher

BUDGET_S = 20.0


@pytest.fixture
async def client(triton: RunningLauncher, transport: Transport) -> AsyncIterator[TritonClient]:
    client = TritonClient(triton.ready["address"], transport=transport)
    yield client
    await client.close()


async def test_float32_in_two_outputs_out(client: TritonClient) -> None:
    for rows in (1, 3, 16):  # dynamic batch
        x = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
        outcome = await client.infer("affine", {"x": x}, budget=BUDGET_S)
        assert isinstance(outcome, Answer), outcome
        assert outcome.value.outputs["y"].shape == (rows, 3)
        assert outcome.value.outputs["total"].shape == (rows, 1)
        np.testing.assert_allclose(
            outcome.value.outputs["total"][:, 0], outcome.value.outputs["y"].sum(axis=1), rtol=1e-5
        )
        assert outcome.call.model_version == 1


async def test_integers_in_half_precision_and_booleans_out_with_dynamic_lengths(client: TritonClient) -> None:
    for length in (1, 4):
        index = np.zeros((2, length), np.int64)
        outcome = await client.infer("lookup", {"index": index}, budget=BUDGET_S)
        assert isinstance(outcome, Answer), outcome
        assert (outcome.value.outputs["row"].shape, outcome.value.outputs["row"].dtype) == (
            (2, length, 2),
            np.dtype(np.float16),
        )
        assert outcome.value.outputs["is_first"].dtype == np.bool_
        assert outcome.value.outputs["is_first"].all()


async def test_only_the_outputs_asked_for_come_back(client: TritonClient) -> None:
    x = np.ones((1, 2), np.float32)
    outcome = await client.infer("affine", {"x": x}, budget=BUDGET_S, outputs=["total"])
    assert isinstance(outcome, Answer)
    assert list(outcome.value.outputs) == ["total"]


async def test_what_triton_would_refuse_is_refused_here_by_name(client: TritonClient) -> None:
    with pytest.raises(WrongRequestError, match="input 'x' wants FP32, got int64"):
        await client.infer("affine", {"x": np.ones((1, 2), np.int64)}, budget=BUDGET_S)
    with pytest.raises(WrongRequestError, match=r"input 'x' wants shape \[-1, 2\]"):
        await client.infer("affine", {"x": np.ones((1, 3), np.float32)}, budget=BUDGET_S)


async def test_what_only_triton_knows_is_refused_in_its_words(client: TritonClient) -> None:
    outcome = await client.infer("affine", {"x": np.ones((17, 2), np.float32)}, budget=BUDGET_S)
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.REFUSED
    assert "batch-size must be <= 16" in outcome.detail
