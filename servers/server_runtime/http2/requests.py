"""Header blocks of requests: what a call asks for. Source: gRPC over HTTP/2 (PROTOCOL-HTTP2.md); RFC 9113, 8.3."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import grpc
import hpack

from grpc_wire import fields
from grpc_wire.fields import Field
from grpc_wire.frames import ErrorCode, ProtocolError

# More metadata than this is refused; more than fields.MAX_BLOCK_BYTES ends the connection.
MAX_METADATA_BYTES = 16_384

_MAX_CONTINUATIONS = 64
_CACHED_BLOCKS = 128
_CACHED_BLOCK_BYTES = 512
_FIELD_BYTES = 32
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_UNUSABLE = re.compile(rb"[\x00\r\n]")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_OF_CONNECTIONS = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_NOT_METADATA = frozenset(
    (b"content-type", b"te", b"grpc-encoding", b"grpc-accept-encoding", b"grpc-timeout", b"accept-encoding")
)


class Metadatum(NamedTuple):
    """One piece of metadata, as grpc.aio hands it out."""

    key: str
    value: str | bytes


@dataclass(frozen=True, slots=True)
class RequestHead:
    """What the headers of a request say.

    Attributes:
        path: "/package.Service/Method".
        timeout_s: Until the deadline, from the arrival; None for none.
        metadata: Whatever is not the protocol's own.
        malformed: Why the stream must be reset; "" when it need not.
        http_status: Other than 200 when it is no gRPC request.
        code: Other than OK when it is refused for what its headers say.
        detail: The words with it.
    """

    path: str = ""
    timeout_s: float | None = None
    metadata: tuple[Metadatum, ...] = ()
    malformed: str = ""
    http_status: int = 200
    code: grpc.StatusCode = grpc.StatusCode.OK
    detail: str = ""


@dataclass(slots=True)
class PartialBlock:
    """A header block that is not complete yet.

    Attributes:
        stream_id: Whose it is.
        last: Whether nothing follows it.
        content: What came so far.
    """

    stream_id: int
    last: bool
    content: bytearray
    _parts: int = 0

    def add(self, stream_id: int, payload: bytes) -> None:
        """Take a CONTINUATION.

        Raises:
            ProtocolError: It belongs to another stream, or the block has no end.
        """
        if stream_id != self.stream_id:
            raise ProtocolError("CONTINUATION of another stream")
        self.content += payload
        self._parts += 1
        if len(self.content) > fields.MAX_BLOCK_BYTES or self._parts > _MAX_CONTINUATIONS:
            raise ProtocolError("a header block without end", ErrorCode.ENHANCE_YOUR_CALM)


class RequestReader:
    """Reads the header blocks of one connection.

    Attributes:
        partial: The block that CONTINUATION frames must complete first.
    """

    __slots__ = ("_cache", "_decoder", "partial")

    def __init__(self) -> None:
        self.partial: PartialBlock | None = None
        self._decoder = hpack.Decoder(max_header_list_size=fields.MAX_BLOCK_BYTES)
        self._cache: dict[bytes, RequestHead] = {}

    def forbid_table(self) -> None:
        """Hold the peer to the table of size 0, which it has acknowledged."""
        self._decoder.max_allowed_table_size = 0

    def read(self, block: bytes) -> RequestHead:
        """Return what a block says.

        Raises:
            ProtocolError: It is not HPACK, or its content is too long.
        """
        known = self._cache.get(block)
        if known is not None:
            return known
        empty_table = self._decoder.header_table_size == 0 == self._decoder.max_allowed_table_size
        found = fields.plain_fields(block, empty_table=empty_table)
        # Only such a block means the same wherever it comes: it touches no table.
        lasting = found is not None
        if found is None:
            found = fields.decoded(self._decoder, block)
            lasting = empty_table
        head = request_head(found)
        if lasting and len(block) <= _CACHED_BLOCK_BYTES:
            if len(self._cache) >= _CACHED_BLOCKS:
                self._cache.clear()
            self._cache[block] = head
        return head


def request_head(found: Iterable[Field]) -> RequestHead:
    """Return what the fields of a request say."""
    pseudo: dict[bytes, bytes] = {}
    own: dict[bytes, bytes] = {}
    metadata: list[Metadatum] = []
    size = 0
    for name, value in found:
        size += len(name) + len(value) + _FIELD_BYTES
        if _UNUSABLE.search(value):
            return RequestHead(malformed="a header's value has a line break or a zero byte")
        if name in _PSEUDO:
            if name in pseudo or own or metadata:
                return RequestHead(malformed=f"{name.decode()} twice, or behind other headers")
            pseudo[name] = value
        elif name in _NOT_METADATA:
            own[name] = value
        elif not _NAME.fullmatch(name) or name in _OF_CONNECTIONS:
            return RequestHead(malformed="a header's name that is none, or that HTTP/2 forbids")
        else:
            key = name.decode()
            if key.endswith(fields.BINARY):
                metadata += [Metadatum(key, fields.binary(part)) for part in value.split(b",")]
            else:
                metadata.append(Metadatum(key, value.decode("latin-1")))
    if b":method" not in pseudo or b":scheme" not in pseudo or not pseudo.get(b":path"):
        return RequestHead(malformed=":method, :scheme or :path is missing")
    return _judged(pseudo, own, tuple(metadata), size)


def _judged(
    pseudo: dict[bytes, bytes], own: dict[bytes, bytes], metadata: tuple[Metadatum, ...], size: int
) -> RequestHead:
    if pseudo[b":method"] != b"POST":
        return RequestHead(http_status=405)
    content_type = own.get(b"content-type", b"")
    if content_type[:16] != b"application/grpc" or content_type[16:17] not in (b"", b"+", b";"):
        return RequestHead(http_status=415)
    path = pseudo[b":path"].decode("latin-1")
    if size > MAX_METADATA_BYTES:
        detail = f"metadata of {size} bytes; at most {MAX_METADATA_BYTES} are taken"
        return RequestHead(path, code=grpc.StatusCode.RESOURCE_EXHAUSTED, detail=detail)
    if own.get(b"grpc-encoding", b"identity") != b"identity":
        encoding = own[b"grpc-encoding"][:32].decode("latin-1")
        detail = f"messages compressed with {encoding!r} are not read: send them without compression"
        return RequestHead(path, code=grpc.StatusCode.UNIMPLEMENTED, detail=detail)
    timeout = own.get(b"grpc-timeout")
    timeout_s = None
    if timeout is not None:
        read = _TIMEOUT.fullmatch(timeout)
        if read is None:
            detail = "grpc-timeout is malformed: give up to eight digits and a unit"
            return RequestHead(path, code=grpc.StatusCode.INVALID_ARGUMENT, detail=detail)
        timeout_s = int(read[1]) * _UNITS_S[read[2]]
    return RequestHead(path, timeout_s, metadata)
