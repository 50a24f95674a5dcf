"""Header blocks of gRPC calls. Pure.

Requests are literals that touch no table, so that the block of a method is made once. Responses are
decoded by `hpack` with a table of size 0, which the connection's settings impose on the server: equal
bytes mean equal headers, and the few blocks that every answer has are looked up.

Source: RFC 7541; gRPC over HTTP/2 (github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias
from urllib.parse import unquote

import grpc
import hpack

from tradeserve_client.errors import TradeserveError
from tradeserve_client.http2.frames import ErrorCode, ProtocolError

Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]

MAX_METADATA_BYTES = 8_192
MAX_BLOCK_BYTES = 65_536

_CACHED_BLOCKS = 64
_CACHED_BLOCK_BYTES = 512
_TIMEOUT_LIMIT = 10**8  # grpc-timeout has at most eight digits
_BINARY = "-bin"
_RESERVED = (":", "grpc-")

_CODES = MappingProxyType({code.value[0]: code for code in grpc.StatusCode})
_HTTP_CODES: Mapping[int, grpc.StatusCode] = MappingProxyType(
    {
        400: grpc.StatusCode.INTERNAL,
        401: grpc.StatusCode.UNAUTHENTICATED,
        403: grpc.StatusCode.PERMISSION_DENIED,
        404: grpc.StatusCode.UNIMPLEMENTED,
        429: grpc.StatusCode.UNAVAILABLE,
        502: grpc.StatusCode.UNAVAILABLE,
        503: grpc.StatusCode.UNAVAILABLE,
        504: grpc.StatusCode.UNAVAILABLE,
    }
)
_RESET_CODES: Mapping[int, grpc.StatusCode] = MappingProxyType(
    {
        ErrorCode.REFUSED_STREAM: grpc.StatusCode.UNAVAILABLE,
        ErrorCode.CANCEL: grpc.StatusCode.CANCELLED,
        ErrorCode.ENHANCE_YOUR_CALM: grpc.StatusCode.RESOURCE_EXHAUSTED,
        ErrorCode.INADEQUATE_SECURITY: grpc.StatusCode.PERMISSION_DENIED,
    }
)


def method_block(path: str, authority: str, *, secure: bool) -> bytes:
    """Return the header block of a method, without deadline and metadata."""
    # First byte(s): an index into the static table of RFC 7541, appendix A.
    return b"".join(
        (
            b"\x83",  # :method POST
            b"\x87" if secure else b"\x86",  # :scheme
            b"\x04" + _string(path.encode()),
            b"\x01" + _string(authority.encode()),
            b"\x0f\x10" + _string(b"application/grpc"),  # content-type
            _literal(b"te", b"trailers"),
            b"\x0f\x2b" + _string(b"tradeserve"),  # user-agent
        )
    )


def timeout_block(timeout_s: float) -> bytes:
    """Return the grpc-timeout header; rounded down, so that it never ends after the caller's clock."""
    micros = int(timeout_s * 1e6)
    if micros < _TIMEOUT_LIMIT:
        return _TIMEOUT_NAME + _string(b"%du" % max(micros, 1))
    return _TIMEOUT_NAME + _string(b"%dS" % min(int(timeout_s), _TIMEOUT_LIMIT - 1))


def metadata_block(metadata: Metadata | None) -> bytes:
    """Return a call's metadata as header fields that no proxy may keep in a table.

    Raises:
        TradeserveError: A name is reserved or malformed, a value is not ASCII, or it is too long.
    """
    if not metadata:
        return b""
    fields = []
    for name, value in metadata:
        if not name or name != name.lower() or not name.isascii() or name.startswith(_RESERVED):
            raise TradeserveError(f"metadata {name!r}: the name must be lower case, without : or grpc- first")
        if name.endswith(_BINARY):
            text = base64.b64encode(value.encode() if isinstance(value, str) else value).rstrip(b"=")
        else:
            text = value if isinstance(value, bytes) else value.encode("ascii", "replace")
            if any(byte < 0x20 or byte > 0x7E for byte in text):
                raise TradeserveError(f"metadata {name!r}: the value must be printable ASCII, or end in -bin")
        fields.append(b"\x10" + _string(name.encode()) + _string(text))
    block = b"".join(fields)
    if len(block) > MAX_METADATA_BYTES:
        raise TradeserveError(f"metadata of {len(block)} bytes; at most {MAX_METADATA_BYTES} go with a call")
    return block


@dataclass(frozen=True, slots=True)
class ResponseHeaders:
    """What one header block of a response says.

    Attributes:
        http_status: 0 in trailers.
        is_grpc: Whether the content type is gRPC's.
        encoding: Compression of the messages; "" or "identity" for none.
        status: gRPC's status, None where the block has none.
        detail: The server's words.
        metadata: Everything that is not the protocol's own.
    """

    http_status: int
    is_grpc: bool
    encoding: str
    status: grpc.StatusCode | None
    detail: str
    metadata: Sequence[tuple[str, str | bytes]]

    def problem(self) -> tuple[grpc.StatusCode, str] | None:
        """Return why these initial headers are no gRPC answer; None when they are."""
        if self.http_status != 200:
            code = _HTTP_CODES.get(self.http_status, grpc.StatusCode.UNKNOWN)
            return code, f"the server answered with HTTP status {self.http_status}"
        if not self.is_grpc:
            return grpc.StatusCode.UNKNOWN, "the server's answer is not gRPC"
        if self.encoding not in ("", "identity"):
            return (
                grpc.StatusCode.INTERNAL,
                f"the answer is compressed ({self.encoding}), which was not asked for",
            )
        return None


class HeaderReader:
    """Reads header blocks of one connection."""

    __slots__ = ("_cache", "_decoder")

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=MAX_BLOCK_BYTES)
        self._decoder.max_allowed_table_size = 0
        self._decoder.header_table_size = 0
        self._cache: dict[bytes, ResponseHeaders] = {}

    def read(self, block: bytes) -> ResponseHeaders:
        """Return what a block says.

        Raises:
            ProtocolError: It is not HPACK, or refers to a table.
        """
        known = self._cache.get(block)
        if known is not None:
            return known
        try:
            fields = list(self._decoder.decode(block, raw=True))
        except hpack.HPACKError as error:
            raise ProtocolError(f"header block: {error}", ErrorCode.COMPRESSION_ERROR) from error
        headers = _response(fields)
        if len(block) <= _CACHED_BLOCK_BYTES and len(self._cache) < _CACHED_BLOCKS:
            self._cache[block] = headers
        return headers


def reset_status(code: int) -> grpc.StatusCode:
    """Return the status of a call whose stream was reset."""
    return _RESET_CODES.get(code, grpc.StatusCode.INTERNAL)


def _response(fields: Iterable[tuple[bytes, bytes]]) -> ResponseHeaders:
    http_status, is_grpc, encoding, status, detail = 0, False, "", None, ""
    metadata: list[tuple[str, str | bytes]] = []
    for raw_name, raw_value in fields:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name == ":status":
            http_status = int(value) if value.isdecimal() and len(value) == 3 else 0
        elif name == "content-type":
            is_grpc = value.startswith("application/grpc")
        elif name == "grpc-encoding":
            encoding = value
        elif name == "grpc-status":
            number = int(value) if value.isdecimal() and len(value) < 4 else -1
            status = _CODES.get(number, grpc.StatusCode.UNKNOWN)
        elif name == "grpc-message":
            detail = unquote(value, errors="replace")
        elif name.endswith(_BINARY):
            metadata += [(name, _binary(part)) for part in raw_value.split(b",")]
        elif not name.startswith(":"):
            metadata.append((name, value))
    return ResponseHeaders(http_status, is_grpc, encoding, status, detail, tuple(metadata))


def _binary(text: bytes) -> bytes:
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4))
    except binascii.Error:
        return b""


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    """Return a length and the bytes, without Huffman's coding."""
    length = len(text)
    if length < 0x7F:
        return bytes((length,)) + text
    out, rest = bytearray((0x7F,)), length - 0x7F
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out) + text


_TIMEOUT_NAME = b"\x00" + _string(b"grpc-timeout")
