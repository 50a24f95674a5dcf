from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from tradeserve_client.answers import CallRecord, Reason
from tradeserve_client.contract import TensorSpec
from tradeserve_client.errors import MalformedResponseError
from tradeserve_client.inference import PreparedModel

OUTPUTS = (TensorSpec("probabilities", "FP32", (-1, 3)), TensorSpec("embedding", "FP32", (-1, 4)))
CALL = CallRecord("gaf_resnet", "", 1, 3, 2)


@pytest.fixture
def model() -> PreparedModel:
    return PreparedModel("gaf_resnet", 2, "window", (1, 60, 5), OUTPUTS, artifact_sha256="ab")


@pytest.fixture
def window() -> NDArray[np.float32]:
    return np.arange(300, dtype=np.float32).reshape(60, 5)


def response(request_id: str) -> Any:
    answer = service_pb2.ModelInferResponse(model_name="gaf_resnet", model_version="2", id=request_id)
    for name, length in (("embedding", 4), ("probabilities", 3)):
        answer.outputs.add(name=name, datatype="FP32", shape=[1, length])
        answer.raw_output_contents.append(np.full(length, length, "<f4").tobytes())
    return answer


def test_prebuilt_bytes_are_the_message_that_protobuf_would_write(
    model: PreparedModel, window: NDArray[np.float32]
) -> None:
    request = model.request(window)
    message = service_pb2.ModelInferRequest.FromString(request.body)
    assert (message.model_name, message.model_version, message.id) == ("gaf_resnet", "2", request.request_id)
    assert [(t.name, t.datatype, list(t.shape)) for t in message.inputs] == [("window", "FP32", [1, 60, 5])]
    assert [output.name for output in message.outputs] == ["probabilities", "embedding"]
    (raw,) = message.raw_input_contents
    assert np.array_equal(np.frombuffer(raw, "<f4").reshape(60, 5), window)


def test_request_ids_are_uuid7_and_never_repeat(model: PreparedModel, window: NDArray[np.float32]) -> None:
    ids = [model.request(window).request_id for _ in range(1_000)]
    assert len(set(ids)) == 1_000
    assert {(len(one), one[14]) for one in ids} == {(36, "7")}
    assert ids == sorted(ids)


def test_version_zero_lets_the_server_choose(window: NDArray[np.float32]) -> None:
    model = PreparedModel("lstm_cnn", 0, "window", (1, 60, 5), OUTPUTS[:1])
    assert service_pb2.ModelInferRequest.FromString(model.request(window).body).model_version == ""


def test_a_strided_window_is_sent_in_row_order(model: PreparedModel, window: NDArray[np.float32]) -> None:
    strided = np.asfortranarray(window)
    message = service_pb2.ModelInferRequest.FromString(model.request(strided).body)
    assert message.raw_input_contents[0] == window.tobytes()


@pytest.mark.parametrize(
    "wrong", [np.zeros((60, 5)), np.zeros((59, 5), np.float32)], ids=["float64", "59 bars"]
)
def test_a_window_of_the_wrong_kind_is_refused(model: PreparedModel, wrong: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"gaf_resnet: expected float32 of shape \[1, 60, 5\]"):
        model.request(wrong)


def test_outputs_are_found_by_name_whatever_their_order(
    model: PreparedModel, window: NDArray[np.float32]
) -> None:
    request = model.request(window)
    inference, call = request.decode(response(request.request_id).SerializeToString(), CALL)
    assert inference.outputs["probabilities"].tolist() == [[3.0, 3.0, 3.0]]
    assert inference.outputs["embedding"].shape == (1, 4)
    assert (call.model_name, call.model_version, call.artifact_sha256) == ("gaf_resnet", 2, "ab")


def no_raw(answer: Any) -> None:
    del answer.raw_output_contents[:]


def short_raw(answer: Any) -> None:
    answer.raw_output_contents[1] = b"\0\0\0\0"


def lost_output(answer: Any) -> None:
    del answer.outputs[0]
    del answer.raw_output_contents[0]


def wrong_dtype(answer: Any) -> None:
    answer.outputs[0].datatype = "FP64"


def unknown_dtype(answer: Any) -> None:
    answer.outputs[0].datatype = "COMPLEX"


def wrong_shape(answer: Any) -> None:
    answer.outputs[1].shape[:] = [1, 1, 3]


def wrong_batch(answer: Any) -> None:
    answer.outputs[1].shape[:] = [3, 1]


def negative_shape(answer: Any) -> None:
    answer.outputs[1].shape[:] = [1, -3]


def other_id(answer: Any) -> None:
    answer.id = "someone else's"


def other_version(answer: Any) -> None:
    answer.model_version = "1"


def odd_version(answer: Any) -> None:
    answer.model_version = "two"


def other_model(answer: Any) -> None:
    answer.model_name = "lstm_cnn"


@pytest.mark.parametrize(
    "mangle",
    [
        no_raw,
        short_raw,
        lost_output,
        wrong_dtype,
        unknown_dtype,
        wrong_shape,
        wrong_batch,
        negative_shape,
        other_id,
        other_version,
        odd_version,
        other_model,
    ],
)
def test_a_malformed_answer_is_a_failure(
    model: PreparedModel, window: NDArray[np.float32], mangle: Callable[[Any], None]
) -> None:
    request = model.request(window)
    answer = response(request.request_id)
    mangle(answer)
    with pytest.raises(MalformedResponseError, match="gaf_resnet: malformed answer") as caught:
        request.decode(answer.SerializeToString(), CALL)
    assert caught.value.reason is Reason.FAILED


def test_bytes_that_are_no_message_are_a_failure(model: PreparedModel, window: NDArray[np.float32]) -> None:
    with pytest.raises(MalformedResponseError, match="not a ModelInferResponse"):
        model.request(window).decode(b"\xff\xff\xff", CALL)
