"""Arrays as the tensors of KServe v2, and back; every refusal names the tensor and the remedy."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tradeserve_client.contract import TensorSpec
from tradeserve_client.errors import MalformedResponseError, WrongRequestError

DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "FP16": np.dtype("<f2"),
        "FP32": np.dtype("<f4"),
        "FP64": np.dtype("<f8"),
        "INT8": np.dtype("i1"),
        "INT16": np.dtype("<i2"),
        "INT32": np.dtype("<i4"),
        "INT64": np.dtype("<i8"),
        "UINT8": np.dtype("u1"),
        "UINT16": np.dtype("<u2"),
        "UINT32": np.dtype("<u4"),
        "UINT64": np.dtype("<u8"),
        "BOOL": np.dtype("?"),
    }
)
"""KServe's names and what numpy calls them. BYTES are arrays of object; BF16 has no dtype in numpy."""

# Protobuf tags of ModelInferRequest: (field number << 3) | 2 for length-delimited.
ID_TAG = b"\x1a"
ID_BYTES = 36
"""Length of a request's id as text."""
RAW_INPUT_TAG = b"\x3a"

BYTES = "BYTES"


def encode_tensor(model: str, spec: TensorSpec, values: ArrayLike) -> tuple[tuple[int, ...], bytes]:
    """Return the shape and the raw content of an input.

    Args:
        model: For the error.
        spec: What the model wants; -1 is any length.
        values: Of exactly that dtype; BYTES takes text or bytes. Order in memory does not matter.

    Raises:
        WrongRequestError: Another dtype or shape; the message names the tensor and what to do.
    """
    array = np.asarray(values)
    if spec.dtype != BYTES and spec.dtype not in DTYPES:
        raise _wrong(model, spec, f"has dtype {spec.dtype}, which numpy does not have")
    _check_shape(model, spec, array.shape)
    if spec.dtype == BYTES:
        return array.shape, _encode_texts(model, spec, array)
    wanted = DTYPES[spec.dtype]
    if array.dtype.newbyteorder("<") != wanted:
        fix = f"convert it with .astype(np.{_numpy_name(wanted)})"
        raise _wrong(model, spec, f"wants {spec.dtype}, got {array.dtype}: {fix}")
    return array.shape, array.astype(wanted, copy=False).tobytes()


def decode_tensor(model: str, name: str, dtype: str, shape: Sequence[int], content: bytes) -> NDArray[Any]:
    """Return the array of an output, read-only.

    Raises:
        MalformedResponseError: Dtype, shape and content do not belong together.
    """
    lengths = tuple(shape)
    if min(lengths, default=0) < 0:
        raise _malformed(model, f"output {name!r} has shape {list(lengths)}")
    if dtype == BYTES:
        return _decode_texts(model, name, lengths, content)
    wanted = DTYPES.get(dtype)
    if wanted is None:
        raise _malformed(model, f"output {name!r} has dtype {dtype!r}, which numpy does not have")
    byte_count = wanted.itemsize * prod(lengths)
    if len(content) != byte_count:
        raise _malformed(
            model,
            f"output {name!r} has {len(content)} bytes, its shape {list(lengths)} needs {byte_count}",
        )
    return _shaped(model, name, np.frombuffer(content, wanted), lengths)


def varint(number: int) -> bytes:
    """Return a number as protobuf writes it."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _check_shape(model: str, spec: TensorSpec, shape: tuple[int, ...]) -> None:
    if len(shape) == len(spec.shape) and all(
        want in (-1, got) for want, got in zip(spec.shape, shape, strict=True)
    ):
        return
    hint = ""
    if len(shape) + 1 == len(spec.shape):
        hint = "; for a batch of one give it as array[np.newaxis]"
    raise _wrong(model, spec, f"wants shape {list(spec.shape)} (-1 is any length), got {list(shape)}{hint}")


def _encode_texts(model: str, spec: TensorSpec, array: NDArray[Any]) -> bytes:
    parts: list[bytes] = []
    for item in array.ravel():
        if isinstance(item, str):
            item = item.encode()
        if not isinstance(item, bytes):
            raise _wrong(model, spec, f"wants text or bytes, got {type(item).__name__}")
        parts += (struct.pack("<I", len(item)), item)
    return b"".join(parts)


def _decode_texts(model: str, name: str, shape: tuple[int, ...], content: bytes) -> NDArray[Any]:
    items: list[bytes] = []
    at = 0
    while at + 4 <= len(content):
        (length,) = struct.unpack_from("<I", content, at)
        items.append(content[at + 4 : at + 4 + length])
        at += 4 + length
    if at != len(content) or len(items) != prod(shape):
        raise _malformed(model, f"output {name!r} does not hold the {prod(shape)} texts of its shape")
    texts = np.empty(len(items), object)
    texts[:] = items
    texts.flags.writeable = False
    return _shaped(model, name, texts, shape)


def _shaped(model: str, name: str, values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        return values.reshape(shape)
    except ValueError as error:  # nothing at all, with lengths that numpy has no array for
        raise _malformed(model, f"output {name!r} has shape {list(shape)}: {error}") from error


def _numpy_name(dtype: np.dtype[Any]) -> str:
    return "bool_" if dtype == np.bool_ else dtype.name


def _wrong(model: str, spec: TensorSpec, what: str) -> WrongRequestError:
    return WrongRequestError(model, f"input {spec.name!r} {what}")


def _malformed(model: str, what: str) -> MalformedResponseError:
    return MalformedResponseError(model, f"malformed answer: {what}")
