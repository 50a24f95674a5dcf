"""A reader that has seen answers before says of any bytes what one that has not says."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from tradeserve_client.answer_reader import AnswerReader
from tradeserve_client.contract import TensorSpec
from tradeserve_client.errors import MalformedResponseError

OUTPUTS = (TensorSpec("p", "FP32", (-1, 3)), TensorSpec("v", "INT16", (-1,)))
IDS = ("0192f000-0000-7000-8000-000000000001", "0192f000-0000-7000-8000-000000000002")

numbers = st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=3)


def body(request_id: str, volumes: list[int], *, swapped: bool) -> bytes:
    answer = service_pb2.ModelInferResponse(model_name="m", model_version="1", id=request_id)
    probabilities = np.linspace(0, 1, 3 * len(volumes), dtype="<f4").reshape(-1, 3)
    outputs = [("p", "FP32", probabilities), ("v", "INT16", np.array(volumes, "<i2"))]
    for name, dtype, values in reversed(outputs) if swapped else outputs:
        answer.outputs.add(name=name, datatype=dtype, shape=values.shape)
        answer.raw_output_contents.append(values.tobytes())
    return bytes(answer.SerializeToString())


def said(reader: AnswerReader, content: bytes, request_id: str) -> Any:
    try:
        version, outputs = reader.read(content, request_id)
    except MalformedResponseError as error:
        return str(error)
    return version, {
        name: (str(array.dtype), array.shape, array.tobytes()) for name, array in outputs.items()
    }


@given(
    taught=st.lists(st.tuples(numbers, st.booleans()), min_size=1, max_size=3),
    volumes=numbers,
    swapped=st.booleans(),
    asked=st.sampled_from(IDS),
    edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255), st.sampled_from("rid")), max_size=3),
)
def test_what_was_seen_before_changes_nothing(
    taught: list[tuple[list[int], bool]],
    volumes: list[int],
    swapped: bool,
    asked: str,
    edits: list[tuple[int, int, str]],
) -> None:
    reader = AnswerReader("m", 0, OUTPUTS)
    for seen, order in taught:
        reader.read(body(IDS[0], seen, swapped=order), IDS[0])
    content = bytearray(body(IDS[0], volumes, swapped=swapped))
    for where, byte, what in edits:
        at = where % (len(content) + (what == "i"))
        if what == "r":
            content[at] = byte
        elif what == "i":
            content.insert(at, byte)
        elif len(content) > 1:
            del content[at]
    fresh = AnswerReader("m", 0, OUTPUTS)
    assert said(reader, bytes(content), asked) == said(fresh, bytes(content), asked)
