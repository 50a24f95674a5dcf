from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from tradeserve_client.answers import CallRecord
from tradeserve_client.contract import ModelContract, TensorSpec
from tradeserve_client.errors import MalformedResponseError, WrongRequestError
from tradeserve_client.tensor_request import TensorRequest, TensorRequests
from tradeserve_client.tensors import DTYPES, decode_tensor, encode_tensor

CONTRACT = ModelContract(
    "mixed",
    2,
    (2,),
    inputs=(
        TensorSpec("prices", "FP16", (-1, -1, 4)),
        TensorSpec("ids", "INT64", (-1,)),
        TensorSpec("names", "BYTES", (-1,)),
    ),
    outputs=(TensorSpec("score", "FP64", (-1, 2)), TensorSpec("is_up", "BOOL", (-1,))),
    parameters={"artifact_sha256": "AB" * 32},
)
CALL = CallRecord("mixed", "", 1, 3, 2)


def inputs() -> dict[str, Any]:
    return {
        "prices": np.arange(24, dtype=np.float16).reshape(2, 3, 4),
        "ids": np.array([7, -9]),
        "names": np.array(["µ", "ab"]),
    }


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_every_dtype_survives_the_way_there_and_back(dtype: str) -> None:
    values = np.array([[0, 1, 1], [1, 0, 1]]).astype(DTYPES[dtype])
    shape, content = encode_tensor("m", TensorSpec("x", dtype, (-1, 3)), values)
    back = decode_tensor("m", "x", dtype, shape, content)
    np.testing.assert_array_equal(back, values)
    assert (back.dtype, back.flags.writeable) == (values.dtype, False)


def test_arrays_are_sent_in_row_order_and_little_endian_however_they_lie_in_memory() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    spec = TensorSpec("x", "FP32", (-1, 3))
    for other in (np.asfortranarray(values), values.astype(">f4"), np.repeat(values, 2, axis=0)[::2]):
        assert encode_tensor("m", spec, other) == ((2, 3), values.tobytes())


def test_texts_are_written_and_read_as_triton_does() -> None:
    texts = np.array([["µ", "b"], ["", "longer"]], object)
    shape, content = encode_tensor("m", TensorSpec("x", "BYTES", (-1, 2)), texts)
    as_bytes = np.array([[text.encode() for text in row] for row in texts], object)
    assert content == serialize_byte_tensor(as_bytes).item()
    back = decode_tensor("m", "x", "BYTES", shape, content)
    np.testing.assert_array_equal(back, as_bytes)
    np.testing.assert_array_equal(deserialize_bytes_tensor(content), back.ravel())


@pytest.mark.parametrize("content", [b"\x05\0\0\0abc", b"\x01\0\0\0a\x01\0", b"\x01\0\0\0a"])
def test_texts_that_are_cut_short_are_malformed(content: bytes) -> None:
    with pytest.raises(MalformedResponseError, match="2 texts"):
        decode_tensor("m", "x", "BYTES", (2,), content)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ids", np.array([1.5, 2.5]), r"input 'ids' wants INT64, got float64: .*astype\(np.int64\)"),
        ("ids", np.array([1, 2], np.int32), "input 'ids' wants INT64, got int32"),
        ("prices", np.zeros((2, 3, 5), np.float16), r"input 'prices' wants shape \[-1, -1, 4\].*\[2, 3, 5\]"),
        ("prices", np.zeros((3, 4), np.float16), r"array\[np.newaxis\]"),
        ("names", np.array([1, 2], object), "input 'names' wants text or bytes, got int"),
    ],
)
def test_a_wrong_input_is_refused_by_name_and_with_the_remedy(name: str, value: Any, words: str) -> None:
    with pytest.raises(WrongRequestError, match=words) as caught:
        TensorRequests(CONTRACT).request({**inputs(), name: value})
    assert caught.value.service == "mixed"


def test_a_missing_an_unknown_input_and_an_unknown_output_are_refused_by_name() -> None:
    requests = TensorRequests(CONTRACT)
    without_ids = {name: value for name, value in inputs().items() if name != "ids"}
    with pytest.raises(WrongRequestError, match=r"the input ids INT64 \[-1\] is missing"):
        requests.request(without_ids)
    with pytest.raises(WrongRequestError, match="no input named 'price'; did you mean 'prices'"):
        requests.request({**inputs(), "price": 1})
    with pytest.raises(WrongRequestError, match="no output named 'volume'; it has: score, is_up"):
        requests.request(inputs(), ["volume"])


def test_a_dtype_that_numpy_lacks_is_refused() -> None:
    with pytest.raises(WrongRequestError, match="'x' has dtype BF16, which numpy does not have"):
        encode_tensor("m", TensorSpec("x", "BF16", (-1,)), np.zeros(1, np.float32))


def test_the_bytes_are_the_message_that_protobuf_would_write() -> None:
    requests = TensorRequests(CONTRACT, 2)
    for _ in range(2):  # the second time the head comes from the cache
        request = requests.request(inputs(), ["score"])
        message = service_pb2.ModelInferRequest.FromString(request.body)
        assert (message.model_name, message.model_version) == ("mixed", "2")
        assert message.id == request.request_id
        assert [(t.name, t.datatype, list(t.shape)) for t in message.inputs] == [
            ("prices", "FP16", [2, 3, 4]),
            ("ids", "INT64", [2]),
            ("names", "BYTES", [2]),
        ]
        assert [output.name for output in message.outputs] == ["score"]
        assert list(message.raw_input_contents)[:2] == [
            inputs()["prices"].tobytes(),
            inputs()["ids"].tobytes(),
        ]


@pytest.mark.parametrize("dtype", ["FP32", "BYTES"])
def test_nothing_in_a_shape_that_numpy_has_no_array_for_is_malformed(dtype: str) -> None:
    with pytest.raises(MalformedResponseError, match="output 'x' has shape"):
        decode_tensor("m", "x", dtype, (0, 2**62, 2**62), b"")


def test_the_heads_that_are_kept_are_bounded() -> None:
    contract = ModelContract("m", 1, (1,), (TensorSpec("x", "FP32", (-1,)),), ())
    requests = TensorRequests(contract)
    for length in range(1, 300):
        body = requests.request({"x": np.zeros(length, np.float32)}).body
        assert list(service_pb2.ModelInferRequest.FromString(body).inputs[0].shape) == [length]
    assert len(requests._forms) <= 64


def answer(request: TensorRequest, **changes: Any) -> bytes:
    message = service_pb2.ModelInferResponse(model_name="mixed", model_version="2", id=request.request_id)
    outputs: list[tuple[str, str, NDArray[Any]]] = [
        ("is_up", "BOOL", np.array([True, False])),
        ("score", "FP64", np.array([[0.1, 0.2], [0.3, 0.4]])),
    ]
    for name, dtype, values in outputs:
        message.outputs.add(name=name, datatype=dtype, shape=values.shape)
        message.raw_output_contents.append(values.tobytes())
    for name, value in changes.items():
        setattr(message, name, value)
    return bytes(message.SerializeToString())


def test_an_answer_is_read_whatever_the_order_of_its_outputs() -> None:
    request = TensorRequests(CONTRACT).request(inputs())
    inference, call = request.decode(answer(request), CALL)
    assert inference.outputs["score"].tolist() == [[0.1, 0.2], [0.3, 0.4]]
    assert inference.outputs["is_up"].tolist() == [True, False]
    assert (call.model_name, call.model_version, call.artifact_sha256) == ("mixed", 2, "ab" * 32)


def test_an_answer_of_another_version_than_the_checked_one_does_not_claim_its_artifact() -> None:
    request = TensorRequests(CONTRACT).request(inputs())
    inference, call = request.decode(answer(request, model_version="3"), CALL)
    assert (inference.model_version, call.model_version, call.artifact_sha256) == (3, 3, "")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": "another"}, "answers request 'another'"),
        ({"model_name": "other"}, "comes from model 'other'"),
        ({"model_version": "x"}, "comes from version 'x'"),
        ({"model_version": "3"}, "comes from version '3', asked was 2"),
        ({"model_version": "1" * 5_000}, "comes from version '1"),
    ],
)
def test_an_answer_to_something_else_is_malformed(changes: dict[str, Any], words: str) -> None:
    request = TensorRequests(CONTRACT, 2).request(inputs())
    with pytest.raises(MalformedResponseError, match=words):
        request.decode(answer(request, **changes), CALL)


def test_an_output_of_another_dtype_shape_or_size_is_malformed() -> None:
    request = TensorRequests(CONTRACT).request(inputs())
    message = service_pb2.ModelInferResponse.FromString(answer(request))
    for spoil, words in (
        (lambda m: setattr(m.outputs[1], "datatype", "FP32"), "output 'score' is FP32, expected FP64"),
        (lambda m: m.outputs[1].shape.append(1), "output 'score' has shape"),
        (lambda m: m.raw_output_contents.__setitem__(1, b"123"), "output 'score' has 3 bytes"),
        (lambda m: m.raw_output_contents.pop(), "2 outputs but 1 raw contents"),
        (lambda m: (m.outputs.pop(), m.raw_output_contents.pop()), "lacks the output 'score'"),
    ):
        spoilt = service_pb2.ModelInferResponse()
        spoilt.CopyFrom(message)
        spoil(spoilt)
        with pytest.raises(MalformedResponseError, match=words):
            request.decode(spoilt.SerializeToString(), CALL)
    with pytest.raises(MalformedResponseError, match="not a ModelInferResponse"):
        request.decode(b"\xff\xff", CALL)
