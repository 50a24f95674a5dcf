"""Requests to any model: every input and output, any dtype, dynamic shapes, checked against the contract."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError
from numpy.typing import ArrayLike, NDArray
from tritonclient.grpc import service_pb2
from uuid_utils import uuid7

from tradeserve_client.answers import CallRecord
from tradeserve_client.contract import ModelContract, TensorSpec
from tradeserve_client.errors import MalformedResponseError, WrongRequestError
from tradeserve_client.inference import Inference
from tradeserve_client.sequence import SequenceStep, check_sequence
from tradeserve_client.tensors import ID_TAG, RAW_INPUT_TAG, decode_tensor, encode_tensor, varint

_MAX_HEADS = 64


@dataclass(frozen=True, slots=True)
class TensorRequest:
    """One inference with any tensors, ready to be sent by a CallGroup."""

    request_id: str
    body: bytes
    contract: ModelContract
    asked_version: int
    outputs: Mapping[str, TensorSpec]

    def decode(self, body: bytes, call: CallRecord) -> tuple[Inference, CallRecord]:
        """Read a ModelInferResponse, checking everything that was promised.

        The record says which artifact answered only when the version is the one that was checked.

        Raises:
            MalformedResponseError: It is not what was asked for.
        """
        inference = self._read(body)
        checked = inference.model_version == self.contract.version
        record = CallRecord(
            call.service,
            call.request_id,
            call.sent_ns,
            call.deadline_ns,
            call.received_ns,
            model_name=inference.model_name,
            model_version=inference.model_version,
            artifact_sha256=self.contract.artifact_sha256 if checked else "",
        )
        return inference, record

    def _read(self, body: bytes) -> Inference:
        name = self.contract.name
        try:
            response = service_pb2.ModelInferResponse.FromString(body)
        except DecodeError as error:
            raise MalformedResponseError(name, f"not a ModelInferResponse: {error}") from error
        if response.id != self.request_id:
            raise self._malformed(f"answers request {response.id!r}, asked was {self.request_id!r}")
        if response.model_name != name:
            raise self._malformed(f"comes from model {response.model_name!r}")
        served = response.model_version
        if not served.isdigit() or (self.asked_version and int(served) != self.asked_version):
            raise self._malformed(f"comes from version {served!r}, asked was {self.asked_version}")
        raw = response.raw_output_contents
        if len(raw) != len(response.outputs):
            raise self._malformed(f"has {len(response.outputs)} outputs but {len(raw)} raw contents")
        arrays = {
            tensor.name: self._array(tensor, self.outputs[tensor.name], content)
            for tensor, content in zip(response.outputs, raw, strict=True)
            if tensor.name in self.outputs
        }
        if len(arrays) != len(self.outputs):
            raise self._malformed(f"lacks the output {min(self.outputs.keys() - arrays.keys())!r}")
        return Inference(name, int(served), arrays)

    def _array(self, tensor: Any, spec: TensorSpec, content: bytes) -> NDArray[Any]:
        if tensor.datatype != spec.dtype:
            raise self._malformed(f"output {spec.name!r} is {tensor.datatype}, expected {spec.dtype}")
        shape = tuple(tensor.shape)
        if len(shape) != len(spec.shape) or any(
            want not in (-1, got) for want, got in zip(spec.shape, shape, strict=True)
        ):
            raise self._malformed(
                f"output {spec.name!r} has shape {list(shape)}, expected {list(spec.shape)}"
            )
        return decode_tensor(self.contract.name, spec.name, spec.dtype, shape, content)

    def _malformed(self, what: str) -> MalformedResponseError:
        return MalformedResponseError(self.contract.name, f"malformed answer: it {what}")


class TensorRequests:
    """Makes requests to one model as its contract says; the head of each shape is serialized once.

    Attributes:
        contract: What the model takes and gives.
        version: Version to ask for; 0 lets the server choose.
    """

    __slots__ = ("_heads", "_inputs", "_outputs", "contract", "version")

    def __init__(self, contract: ModelContract, version: int = 0) -> None:
        self.contract = contract
        self.version = version
        self._inputs = {tensor.name: tensor for tensor in contract.inputs}
        self._outputs = {tensor.name: tensor for tensor in contract.outputs}
        self._heads: OrderedDict[object, bytes] = OrderedDict()

    def request(
        self,
        inputs: Mapping[str, ArrayLike],
        outputs: Sequence[str] = (),
        sequence: SequenceStep | None = None,
    ) -> TensorRequest:
        """Return the request for some inputs.

        Args:
            inputs: Every input of the model by name, of its dtype; the first length is the batch.
            outputs: Names of the outputs wanted; none given means all.
            sequence: Its place in a sequence, for a model with state.

        Raises:
            WrongRequestError: A tensor is missing, unknown, or of the wrong dtype or shape, or the model
                has sequences and the request is in none, or the other way round.
        """
        check_sequence(self.contract, sequence)
        self._check_names("input", inputs, self._inputs)
        self._check_names("output", outputs, self._outputs)
        missing = [str(spec) for name, spec in self._inputs.items() if name not in inputs]
        if missing:
            raise WrongRequestError(self.contract.name, f"the input {missing[0]} is missing")
        encoded = {
            name: encode_tensor(self.contract.name, spec, inputs[name]) for name, spec in self._inputs.items()
        }
        wanted = {name: self._outputs[name] for name in (outputs or self._outputs)}
        head = self._head({name: shape for name, (shape, _) in encoded.items()}, tuple(wanted))
        request_id = str(uuid7())
        id_bytes = request_id.encode()
        # Concatenated protobuf fields are one message: no copy through a message object.
        parts = [head, ID_TAG, bytes((len(id_bytes),)), id_bytes]
        if sequence is not None:
            parts.append(sequence.parameters())
        for _, content in encoded.values():
            parts += (RAW_INPUT_TAG, varint(len(content)), content)
        return TensorRequest(request_id, b"".join(parts), self.contract, self.version, wanted)

    def _head(self, shapes: Mapping[str, tuple[int, ...]], outputs: tuple[str, ...]) -> bytes:
        key = (tuple(shapes.values()), outputs)
        head = self._heads.get(key)
        if head is None:
            message = service_pb2.ModelInferRequest(
                model_name=self.contract.name, model_version=str(self.version) if self.version else ""
            )
            for name, shape in shapes.items():
                message.inputs.add(name=name, datatype=self._inputs[name].dtype, shape=shape)
            for name in outputs:
                message.outputs.add(name=name)
            head = self._heads[key] = message.SerializeToString()
            if len(self._heads) > _MAX_HEADS:
                self._heads.popitem(last=False)
        return head

    def _check_names(self, kind: str, names: Iterable[str], known: Mapping[str, TensorSpec]) -> None:
        for name in names:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                advice = f"did you mean {close[0]!r}?" if close else "it has: " + ", ".join(known)
                raise WrongRequestError(
                    self.contract.name, f"the model has no {kind} named {name!r}; {advice}"
                )
