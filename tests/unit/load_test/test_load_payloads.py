from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from load_test.errors import ConfigError
from load_test.payloads import inferences

CARD = Path("card.json")


def card(*inputs: tuple[str, list[int]]) -> dict[str, Any]:
    tensors = [
        {"name": f"input_{n}", "datatype": kind, "shape": shape} for n, (kind, shape) in enumerate(inputs)
    ]
    return {"name": "some_model", "inputs": tensors, "outputs": [{"name": "said"}]}


@pytest.mark.parametrize(
    ("kind", "shape", "sent", "dtype"),
    [
        ("FP32", [-1, 20, 5], [1, 20, 5], np.dtype("<f4")),
        ("UINT8", [-1, -1, -1, 3], [1, 480, 480, 3], np.dtype("u1")),
    ],
)
def test_a_model_gets_windows_or_pictures_as_its_card_says(
    kind: str, shape: list[int], sent: list[int], dtype: np.dtype[Any]
) -> None:
    messages = [
        service_pb2.ModelInferRequest.FromString(one) for one in inferences(card((kind, shape)), CARD, seed=3)
    ]
    for message in messages:
        assert message.model_name == "some_model"
        assert (message.inputs[0].datatype, list(message.inputs[0].shape)) == (kind, sent)
        assert len(message.raw_input_contents[0]) == np.prod(sent) * dtype.itemsize
    assert len({message.raw_input_contents[0] for message in messages}) == len(messages) > 1


@pytest.mark.parametrize(
    "inputs",
    [
        [("FP32", [-1, 20, 4])],
        [("FP32", [-1, -1, 5])],
        [("FP64", [-1, 20, 5])],
        [("UINT8", [-1, -1, -1, 1])],
        [("FP32", [-1, 20, 5]), ("FP32", [-1, 1])],
    ],
)
def test_a_model_that_takes_something_else_is_named(inputs: list[tuple[str, list[int]]]) -> None:
    with pytest.raises(ConfigError, match=r"card\.json: inputs: data can be made for one window of bars"):
        list(inferences(card(*inputs), CARD, seed=3))
