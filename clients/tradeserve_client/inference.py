"""What is asked of a model and what it answers, as bytes and as arrays.

`PreparedModel` is the way of the latency-critical caller: one float32 input of fixed shape, its head
serialized once. `tensor_request.TensorRequests` asks any model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from uuid_utils import uuid7

from tradeserve_client.answer_reader import AnswerReader
from tradeserve_client.answers import CallRecord, Timing
from tradeserve_client.contract import TensorSpec
from tradeserve_client.tensors import DTYPES, ID_BYTES, ID_TAG, RAW_INPUT_TAG, varint

_FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True, slots=True)
class Inference:
    """What a model answered.

    Attributes:
        model_name: As the server said.
        model_version: As the server said.
        outputs: Name -> array, read-only.
    """

    model_name: str
    model_version: int
    outputs: Mapping[str, NDArray[Any]]


class InferRequest:
    """One inference, ready to be sent by a CallGroup.

    Attributes:
        request_id: UUIDv7.
        body: A serialized ModelInferRequest.
        model: What it was made with.
    """

    __slots__ = ("body", "model", "request_id")

    def __init__(self, request_id: str, body: bytes, model: PreparedModel) -> None:
        self.request_id = request_id
        self.body = body
        self.model = model

    def decode(self, body: bytes, call: Timing) -> tuple[Inference, CallRecord]:
        """Read a ModelInferResponse, checking everything that was promised.

        Raises:
            MalformedResponseError: It is not what was asked for.
        """
        model = self.model
        inference = model.decode(body, self.request_id)
        record = CallRecord(
            call.service,
            self.request_id,
            call.sent_ns,
            call.deadline_ns,
            call.received_ns,
            model_name=model.name,
            model_version=inference.model_version,
            artifact_sha256=model.artifact_sha256,
        )
        return inference, record


class PreparedModel:
    """A request of fixed shape whose head is serialized once; each call appends its id and window.

    Attributes:
        name: Model.
        version: 0 lets the server choose.
        input_shape: With the batch, all lengths fixed.
        artifact_sha256: Digest that the contract check saw; goes into every record.
        request_bytes: Length of the raw input.
    """

    __slots__ = (
        "_head",
        "_raw_prefix",
        "_reader",
        "artifact_sha256",
        "input_shape",
        "name",
        "request_bytes",
        "version",
    )

    def __init__(
        self,
        name: str,
        version: int,
        input_name: str,
        input_shape: Sequence[int],
        outputs: Sequence[TensorSpec],
        *,
        artifact_sha256: str = "",
    ) -> None:
        self.name = name
        self.version = version
        self.input_shape = tuple(input_shape)
        self.artifact_sha256 = artifact_sha256
        self.request_bytes = 4 * prod(self.input_shape)
        self._reader = AnswerReader(name, version, [self._fixed(tensor) for tensor in outputs])
        head = service_pb2.ModelInferRequest(model_name=name, model_version=str(version) if version else "")
        tensor = head.inputs.add()
        tensor.name = input_name
        tensor.datatype = "FP32"
        tensor.shape.extend(self.input_shape)
        for output in outputs:
            head.outputs.add().name = output.name
        self._head = head.SerializeToString() + ID_TAG + varint(ID_BYTES)
        self._raw_prefix = RAW_INPUT_TAG + varint(self.request_bytes)

    def _fixed(self, output: TensorSpec) -> TensorSpec:
        shape = (self.input_shape[0], *output.shape[1:])
        if output.dtype not in DTYPES or min(shape) < 0:
            raise ValueError(f"{self.name}: output {output} must have a fixed shape and a numeric dtype")
        return TensorSpec(output.name, output.dtype, shape)

    def request(self, window: NDArray[np.float32]) -> InferRequest:
        """Return the request for one input.

        Args:
            window: float32 with as many elements as `input_shape`.

        Raises:
            ValueError: Wrong dtype or size.
        """
        if window.dtype != _FLOAT32 or window.nbytes != self.request_bytes:
            raise ValueError(
                f"{self.name}: expected float32 of shape {list(self.input_shape)}, "
                f"got {window.dtype} of shape {list(window.shape)}"
            )
        request_id = str(uuid7())
        # Concatenated protobuf fields are one message: no copy through a message object.
        body = b"".join((self._head, request_id.encode(), self._raw_prefix, window.tobytes()))
        return InferRequest(request_id, body, self)

    def decode(self, body: bytes, request_id: str) -> Inference:
        """Read a serialized ModelInferResponse.

        Raises:
            MalformedResponseError: Not a response, or not the one that was asked for.
        """
        return Inference(self.name, *self._reader.read(body, request_id))
