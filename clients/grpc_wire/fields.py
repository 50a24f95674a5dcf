"""Header fields of gRPC as HPACK. Pure.

What is written are literals that touch no table. What is read are mostly such literals too, which are taken
apart here; `hpack` reads whatever else RFC 7541 has.

Source: RFC 7541; gRPC over HTTP/2 (github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import grpc
import hpack
from hpack.table import HeaderTable

from grpc_wire.frames import ErrorCode, ProtocolError

Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]
Field: TypeAlias = tuple[bytes, bytes]

MAX_BLOCK_BYTES = 65_536
BINARY = "-bin"
CODES: Mapping[int, grpc.StatusCode] = MappingProxyType({code.value[0]: code for code in grpc.StatusCode})

_RESERVED = (":", "grpc-")
_STATIC: tuple[Field, ...] = ((b"", b""), *HeaderTable.STATIC_TABLE)
_LONG_INDEX = 15
_LONG_STRING = 0x7F
_FIELD_BYTES = 32  # added to each field's length by RFC 7541, section 4.1


class MetadataError(ValueError):
    """Metadata that can't be sent; the message names the one."""


def string(text: bytes) -> bytes:
    """Return a length and the bytes, without Huffman's coding."""
    length = len(text)
    if length < _LONG_STRING:
        return bytes((length,)) + text
    out, rest = bytearray((_LONG_STRING,)), length - _LONG_STRING
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out) + text


def literal(name: bytes, value: bytes) -> bytes:
    """Return a field that touches no table."""
    return b"\x00" + string(name) + string(value)


def metadata_fields(metadata: Metadata) -> bytes:
    """Return metadata as header fields that no proxy may keep in a table.

    Raises:
        MetadataError: A name is reserved or malformed, or a value is not ASCII.
    """
    fields = []
    for name, value in metadata:
        if not name or name != name.lower() or not name.isascii() or name.startswith(_RESERVED):
            raise MetadataError(f"metadata {name!r}: the name must be lower case, without : or grpc- first")
        if name.endswith(BINARY):
            text = base64.b64encode(value.encode() if isinstance(value, str) else value).rstrip(b"=")
        else:
            text = value if isinstance(value, bytes) else value.encode("ascii", "replace")
            if any(byte < 0x20 or byte > 0x7E for byte in text):
                raise MetadataError(f"metadata {name!r}: the value must be printable ASCII, or end in -bin")
        fields.append(b"\x10" + string(name.encode()) + string(text))
    return b"".join(fields)


def binary(text: bytes) -> bytes:
    """Return what the value of a -bin field says; nothing when it is not base64."""
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4))
    except binascii.Error:
        return b""


def decoded(decoder: hpack.Decoder, block: bytes) -> list[Field]:
    """Return the fields of a block.

    Raises:
        ProtocolError: It is not HPACK.
    """
    try:
        return list(decoder.decode(block, raw=True))
    except hpack.OversizedHeaderListError as error:
        raise ProtocolError(f"header block: {error}", ErrorCode.ENHANCE_YOUR_CALM) from error
    except hpack.HPACKError as error:
        raise ProtocolError(f"header block: {error}", ErrorCode.COMPRESSION_ERROR) from error


def plain_fields(block: bytes, *, empty_table: bool) -> list[Field] | None:
    """Return the fields of a block that has only literals without Huffman's coding, and the static table.

    Args:
        block: What to read; it is not cut off.
        empty_table: Whether the decoder's table has size 0, so that nothing can be put into it.

    Returns:
        The fields; None when `hpack` must read them, or say what is wrong with them.
    """
    fields: list[Field] = []
    at, end, total = 0, len(block), 0
    try:
        while at < end:
            first = block[at]
            at += 1
            if first >= 0x80:
                index = first & 0x7F
                if not 0 < index < len(_STATIC):
                    return None
                fields.append(_STATIC[index])
                total += _FIELD_BYTES + len(_STATIC[index][0]) + len(_STATIC[index][1])
                continue
            if first >= 0x40:
                index = first & 0x3F
                if not empty_table or index >= len(_STATIC):
                    return None
            elif first >= 0x20:
                return None
            else:
                index = first & 0x0F
                if index == _LONG_INDEX:
                    index += block[at]
                    at += 1
                    if index >= len(_STATIC):
                        return None
            if index:
                name = _STATIC[index][0]
            else:
                size = block[at]
                if size >= _LONG_STRING:
                    return None
                at += 1 + size
                name = block[at - size : at]
            size = block[at]
            if size >= _LONG_STRING:
                return None
            at += 1 + size
            fields.append((name, block[at - size : at]))
            total += _FIELD_BYTES + len(name) + size
    except IndexError:
        return None
    return fields if at == end and total <= MAX_BLOCK_BYTES else None
