from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from tradeserve_client.answer_reader import AnswerReader
from tradeserve_client.contract import TensorSpec
from tradeserve_client.errors import MalformedResponseError

OUTPUTS = (TensorSpec("probabilities", "FP32", (-1, 3)), TensorSpec("volume", "INT64", (-1,)))
IDS = [f"0192f000-0000-7000-8000-{number:012}" for number in range(10)]


def message(request_id: str, probabilities: NDArray[Any], volume: NDArray[Any], version: str = "2") -> Any:
    answer = service_pb2.ModelInferResponse(model_name="m", model_version=version, id=request_id)
    answer.parameters["triton_final_response"].bool_param = True
    for name, dtype, values in (("volume", "INT64", volume), ("probabilities", "FP32", probabilities)):
        answer.outputs.add(name=name, datatype=dtype, shape=values.shape)
        answer.raw_output_contents.append(values.tobytes())
    return answer


def numbers(seed: int, batch: int = 1) -> tuple[NDArray[Any], NDArray[Any]]:
    dice = np.random.default_rng(seed)
    return dice.random((batch, 3), np.float32), dice.integers(-9, 9, batch)


@pytest.fixture
def reader() -> AnswerReader:
    return AnswerReader("m", 0, OUTPUTS)


def forbid_parsing(reader: AnswerReader, monkeypatch: pytest.MonkeyPatch) -> None:
    def parsed(*_: object) -> None:
        raise AssertionError("parsed again")

    monkeypatch.setattr(AnswerReader, "_parsed", parsed)


def test_answers_of_every_length_are_parsed_once_and_read_the_same_afterwards(
    reader: AnswerReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    for batch in (1, 2, 3):
        reader.read(message(IDS[0], *numbers(0, batch)).SerializeToString(), IDS[0])
    forbid_parsing(reader, monkeypatch)
    for seed, request_id in enumerate(IDS):
        probabilities, volume = numbers(seed, 1 + seed % 3)
        version, outputs = reader.read(
            message(request_id, probabilities, volume).SerializeToString(), request_id
        )
        assert version == 2
        assert {name: array.dtype.name for name, array in outputs.items()} == {
            "probabilities": "float32",
            "volume": "int64",
        }
        assert np.array_equal(outputs["probabilities"], probabilities)
        assert np.array_equal(outputs["volume"], volume)
        assert not any(array.flags.writeable for array in outputs.values())
        assert all(array.flags.aligned for array in outputs.values())


def test_an_answer_of_a_new_version_is_read_as_such(reader: AnswerReader) -> None:
    for version in ("2", "2", "3", "3", "2"):
        body = message(IDS[1], *numbers(1), version=version).SerializeToString()
        assert reader.read(body, IDS[1])[0] == int(version)


def test_an_answer_to_another_request_is_refused_also_when_all_else_is_known(reader: AnswerReader) -> None:
    reader.read(message(IDS[0], *numbers(0)).SerializeToString(), IDS[0])
    with pytest.raises(MalformedResponseError, match="answers request"):
        reader.read(message(IDS[1], *numbers(0)).SerializeToString(), IDS[2])


def test_a_second_id_after_the_first_is_the_one_that_counts(reader: AnswerReader) -> None:
    tail = service_pb2.ModelInferResponse(id=IDS[1]).SerializeToString()
    reader.read(message(IDS[0], *numbers(0)).SerializeToString() + tail, IDS[1])
    with pytest.raises(MalformedResponseError, match="answers request"):
        reader.read(message(IDS[1], *numbers(0)).SerializeToString() + tail, IDS[0])


def test_texts_are_read_anew_each_time() -> None:
    reader = AnswerReader("m", 0, (TensorSpec("words", "BYTES", (-1,)),))
    for words in ((b"buy", b"hold"), (b"b", b"holding")):
        answer = service_pb2.ModelInferResponse(model_name="m", model_version="1", id=IDS[0])
        answer.outputs.add(name="words", datatype="BYTES", shape=[2])
        answer.raw_output_contents.append(b"".join(len(w).to_bytes(4, "little") + w for w in words))
        assert tuple(reader.read(answer.SerializeToString(), IDS[0])[1]["words"]) == words


def test_empty_outputs_are_read(reader: AnswerReader) -> None:
    for _ in range(2):
        body = message(IDS[0], np.zeros((0, 3), np.float32), np.zeros(0, np.int64)).SerializeToString()
        assert reader.read(body, IDS[0])[1]["probabilities"].shape == (0, 3)


def test_what_is_remembered_is_bounded(reader: AnswerReader) -> None:
    for batch in range(1, 100):
        reader.read(message(IDS[0], *numbers(0, batch)).SerializeToString(), IDS[0])
    assert len(reader._layouts) <= 16
