"""Reads what Triton answers, and checks everything that was promised.

The answers to one kind of request differ in the request's id and in the numbers. So an answer is parsed
once: the next one whose other bytes are all equal says the same, and only its numbers are taken out.
Source: KServe v2, grpc_service.proto, ModelInferResponse.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from tradeserve_client.contract import TensorSpec
from tradeserve_client.errors import MalformedResponseError
from tradeserve_client.tensors import BYTES, decode_tensor

_ID_FIELD = 3
_CONTENT_FIELD = 6
_LENGTH_DELIMITED = 2
_MAX_LAYOUTS = 16
_MAX_VERSION_DIGITS = 19

Outputs: TypeAlias = Mapping[str, NDArray[Any]]
_Span: TypeAlias = tuple[int, int]


class AnswerReader:
    """Reads answers to one kind of request.

    Attributes:
        model: Who must answer.
        version: Version that must answer; 0 for any.
    """

    __slots__ = ("_layouts", "_outputs", "model", "version")

    def __init__(self, model: str, version: int, outputs: Iterable[TensorSpec]) -> None:
        self.model = model
        self.version = version
        self._outputs = {tensor.name: tensor for tensor in outputs}
        self._layouts: dict[int, _Layout] = {}

    def read(self, body: bytes, request_id: str) -> tuple[int, Outputs]:
        """Return the version that answered and its outputs by name, read-only.

        Raises:
            MalformedResponseError: Not a response, or not the one that was asked for.
        """
        layout = self._layouts.get(len(body))
        if layout is not None and layout.fits(body, request_id):
            outputs: dict[str, NDArray[Any]] = {}
            for name, part, shape, dtype in layout.arrays:
                # A copy of the part, not a view into the whole: numbers lie at addresses that fit them.
                outputs[name] = np.ndarray(shape, dtype, body[part])
            return layout.version, outputs
        return self._parsed(body, request_id)

    def _parsed(self, body: bytes, request_id: str) -> tuple[int, Outputs]:
        try:
            response = service_pb2.ModelInferResponse.FromString(body)
        except DecodeError as error:
            raise MalformedResponseError(self.model, f"not a ModelInferResponse: {error}") from error
        if response.id != request_id:
            raise self._malformed(f"answers request {response.id!r}, asked was {request_id!r}")
        if response.model_name != self.model:
            raise self._malformed(f"comes from model {response.model_name!r}")
        served = response.model_version
        is_version = served.isdecimal() and len(served) <= _MAX_VERSION_DIGITS
        if not is_version or (self.version and int(served) != self.version):
            raise self._malformed(f"comes from version {served!r}, asked was {self.version}")
        raw = response.raw_output_contents
        if len(raw) != len(response.outputs):
            raise self._malformed(f"has {len(response.outputs)} outputs but {len(raw)} raw contents")
        arrays = {
            tensor.name: self._array(tensor, self._outputs[tensor.name], content)
            for tensor, content in zip(response.outputs, raw, strict=True)
            if tensor.name in self._outputs
        }
        if len(arrays) != len(self._outputs):
            raise self._malformed(f"lacks the output {min(self._outputs.keys() - arrays.keys())!r}")
        self._learn(body, int(served), arrays, [tensor.name for tensor in response.outputs])
        return int(served), arrays

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
        return decode_tensor(self.model, spec.name, spec.dtype, shape, content)

    def _learn(self, body: bytes, version: int, arrays: Outputs, names: Sequence[str]) -> None:
        """Remember how an answer that was found good is laid out, unless it is an odd one."""
        if any(spec.dtype == BYTES for spec in self._outputs.values()) or len(set(names)) < len(names):
            return  # texts say their own lengths
        spans = _spans(body)
        ids = [span for field, span in spans if field == _ID_FIELD]
        contents = [span for field, span in spans if field == _CONTENT_FIELD]
        if len(ids) != 1 or len(contents) != len(names) or (contents and contents[0] < ids[0]):
            return
        if len(self._layouts) >= _MAX_LAYOUTS:
            self._layouts.clear()
        self._layouts[len(body)] = _Layout(
            body, version, ids[0], dict(zip(names, contents, strict=True)), arrays
        )

    def _malformed(self, what: str) -> MalformedResponseError:
        return MalformedResponseError(self.model, f"malformed answer: it {what}")


class _Layout:
    """Where the id and the numbers lie in answers of one length whose other bytes are these.

    Attributes:
        version: That answered.
        arrays: Name, where its numbers lie, shape and dtype of each output.
    """

    __slots__ = ("_after_id", "_before_id", "_gaps", "arrays", "version")

    def __init__(
        self, body: bytes, version: int, id_span: _Span, contents: Mapping[str, _Span], arrays: Outputs
    ) -> None:
        self.version = version
        self._before_id = body[: id_span[0]]
        starts = [start for start, _ in contents.values()] + [len(body)]
        self._after_id = body[id_span[1] : starts[0]]
        ends = [end for _, end in contents.values()]
        self._gaps = tuple(
            (slice(end, start), body[end:start])
            for end, start in zip(ends, starts[1:], strict=True)
            if end < start
        )
        self.arrays = tuple(
            (name, slice(*contents[name]), array.shape, array.dtype) for name, array in arrays.items()
        )

    def fits(self, body: bytes, request_id: str) -> bool:
        """Return whether this is such an answer, to that request."""
        if not body.startswith(self._before_id + request_id.encode() + self._after_id):
            return False
        return not self._gaps or all(body[where] == gap for where, gap in self._gaps)


def _spans(body: bytes) -> list[tuple[int, _Span]]:
    """Return each field of a message and where its content lies; nothing for one with other kinds of fields."""
    found: list[tuple[int, _Span]] = []
    at = 0
    while at < len(body):
        tag, at = _varint(body, at)
        if tag & 7 != _LENGTH_DELIMITED:
            return []
        length, at = _varint(body, at)
        found.append((tag >> 3, (at, at + length)))
        at += length
    return found


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """Return a number as protobuf writes it, and where it ends; the message was parsed before."""
    number = shift = 0
    while body[at] & 0x80:
        number |= (body[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return number | body[at] << shift, at + 1
