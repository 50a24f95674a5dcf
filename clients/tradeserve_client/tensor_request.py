"""Requests to any model: every input and output, any dtype, dynamic shapes, checked against the contract."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from tritonclient.grpc import service_pb2
from uuid_utils import uuid7

from tradeserve_client.answer_reader import AnswerReader
from tradeserve_client.answers import CallRecord, Timing
from tradeserve_client.contract import ModelContract, TensorSpec
from tradeserve_client.errors import WrongRequestError
from tradeserve_client.inference import Inference
from tradeserve_client.sequence import SequenceStep, check_sequence
from tradeserve_client.tensors import DTYPES, ID_BYTES, ID_TAG, RAW_INPUT_TAG, encode_tensor, varint

_MAX_FORMS = 64


class TensorRequest:
    """One inference with any tensors, ready to be sent by a CallGroup.

    Attributes:
        request_id: UUIDv7.
        body: A serialized ModelInferRequest.
    """

    __slots__ = ("_reader", "_requests", "body", "request_id")

    def __init__(self, request_id: str, body: bytes, requests: TensorRequests, reader: AnswerReader) -> None:
        self.request_id = request_id
        self.body = body
        self._requests = requests
        self._reader = reader

    def decode(self, body: bytes, call: Timing) -> tuple[Inference, CallRecord]:
        """Read a ModelInferResponse, checking everything that was promised.

        The record says which artifact answered only when the version is the one that was checked.

        Raises:
            MalformedResponseError: It is not what was asked for.
        """
        requests = self._requests
        version, outputs = self._reader.read(body, self.request_id)
        record = CallRecord(
            call.service,
            self.request_id,
            call.sent_ns,
            call.deadline_ns,
            call.received_ns,
            model_name=requests.contract.name,
            model_version=version,
            artifact_sha256=requests.artifact_sha256 if version == requests.contract.version else "",
        )
        return Inference(requests.contract.name, version, outputs), record


class _Form:
    """What requests with inputs of the same shapes and for the same outputs have in common."""

    __slots__ = ("head", "reader", "tags")

    def __init__(self, head: bytes, tags: Sequence[bytes], reader: AnswerReader) -> None:
        self.head = head  # all that comes before the request's id
        self.tags = tags  # what comes before the content of each input; () where that is not always the same
        self.reader = reader


class TensorRequests:
    """Makes requests to one model as its contract says; the head of each shape is serialized once.

    Attributes:
        contract: What the model takes and gives.
        version: Version to ask for; 0 lets the server choose.
        artifact_sha256: Of the contract.
    """

    __slots__ = ("_forms", "_inputs", "_outputs", "_plain", "artifact_sha256", "contract", "version")

    def __init__(self, contract: ModelContract, version: int = 0) -> None:
        self.contract = contract
        self.version = version
        self.artifact_sha256 = contract.artifact_sha256
        self._inputs = {tensor.name: tensor for tensor in contract.inputs}
        self._outputs = {tensor.name: tensor for tensor in contract.outputs}
        # Inputs whose content is as long as their shape says, and their dtypes; () when there are others.
        is_plain = all(tensor.dtype in DTYPES for tensor in contract.inputs)
        self._plain = tuple((tensor.name, DTYPES[tensor.dtype]) for tensor in contract.inputs if is_plain)
        self._forms: OrderedDict[object, _Form] = OrderedDict()

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
        if sequence is not None or self.contract.sequence_id_types:
            check_sequence(self.contract, sequence)
        form, contents = self._as_before(inputs, outputs) or self._checked(inputs, outputs)
        request_id = str(uuid7())
        # Concatenated protobuf fields are one message: no copy through a message object.
        parts = [form.head, request_id.encode()]
        if sequence is not None:
            parts.append(sequence.parameters())
        parts += contents
        return TensorRequest(request_id, b"".join(parts), self, form.reader)

    def _as_before(
        self, inputs: Mapping[str, ArrayLike], outputs: Sequence[str]
    ) -> tuple[_Form, list[bytes]] | None:
        """Return the form and the contents of inputs that are as in a request that was checked before."""
        key: tuple[object, ...] = tuple(outputs)
        contents: list[bytes] = []
        for name, dtype in self._plain:
            array = inputs.get(name)
            if type(array) is not np.ndarray or (array.dtype is not dtype and array.dtype != dtype):
                return None
            key += (array.shape,)
            contents += (b"", array.tobytes())
        form = self._forms.get(key)
        if form is None or not form.tags or len(inputs) != len(form.tags):
            return None
        contents[::2] = form.tags
        return form, contents

    def _checked(self, inputs: Mapping[str, ArrayLike], outputs: Sequence[str]) -> tuple[_Form, list[bytes]]:
        self._check_names("input", inputs, self._inputs)
        self._check_names("output", outputs, self._outputs)
        missing = [str(spec) for name, spec in self._inputs.items() if name not in inputs]
        if missing:
            raise WrongRequestError(self.contract.name, f"the input {missing[0]} is missing")
        shapes: list[tuple[int, ...]] = []
        contents: list[bytes] = []
        for name, spec in self._inputs.items():
            shape, content = encode_tensor(self.contract.name, spec, inputs[name])
            shapes.append(shape)
            contents += (RAW_INPUT_TAG + varint(len(content)), content)
        key = (*outputs, *shapes)
        form = self._forms.get(key)
        if form is None:
            tags = contents[::2] if self._plain else ()
            form = self._forms[key] = self._form(shapes, outputs, tags)
            if len(self._forms) > _MAX_FORMS:
                self._forms.popitem(last=False)
        return form, contents

    def _form(
        self, shapes: Sequence[tuple[int, ...]], outputs: Sequence[str], tags: Sequence[bytes]
    ) -> _Form:
        name, version = self.contract.name, self.version
        message = service_pb2.ModelInferRequest(
            model_name=name, model_version=str(version) if version else ""
        )
        for spec, shape in zip(self._inputs.values(), shapes, strict=True):
            message.inputs.add(name=spec.name, datatype=spec.dtype, shape=shape)
        wanted = [self._outputs[output] for output in dict.fromkeys(outputs or self._outputs)]
        for spec in wanted:
            message.outputs.add(name=spec.name)
        head = message.SerializeToString() + ID_TAG + varint(ID_BYTES)
        return _Form(head, tags, AnswerReader(name, version, wanted))

    def _check_names(self, kind: str, names: Iterable[str], known: Mapping[str, TensorSpec]) -> None:
        for name in names:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                advice = f"did you mean {close[0]!r}?" if close else "it has: " + ", ".join(known)
                raise WrongRequestError(
                    self.contract.name, f"the model has no {kind} named {name!r}; {advice}"
                )
