"""Header blocks of gRPC calls. Pure.

Requests are literals that touch no table, so that the block of a method is made once. Responses are
decoded by `hpack` with a table of size 0, which the connection's settings impose on the server: equal
bytes mean equal headers, and the few blocks that every answer has are looked up.

Source: RFC 7541; gRPC over HTTP/2 (github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import unquote

import grpc
import hpack

from grpc_wire import fields
from grpc_wire.fields import CODES, MAX_BLOCK_BYTES, Metadata, literal, string
from grpc_wire.frames import ErrorCode
from tradeserve_client.errors import TradeserveError

MAX_METADATA_BYTES = 8_192

_CACHED_BLOCKS = 64
_CACHED_BLOCK_BYTES = 512
_TIMEOUT_LIMIT = 10**8  # grpc-timeout has at most eight digits

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
            b"\x04" + string(path.encode()),
            b"\x01" + string(authority.encode()),
            b"\x0f\x10" + string(b"application/grpc"),  # content-type
            literal(b"te", b"trailers"),
            b"\x0f\x2b" + string(b"tradeserve"),  # user-agent
        )
    )


def timeout_block(timeout_s: float) -> bytes:
    """Return the grpc-timeout header; rounded down, so that it never ends after the caller's clock."""
    micros = int(timeout_s * 1e6)
    if micros < _TIMEOUT_LIMIT:
        return _TIMEOUT_NAME + string(b"%du" % max(micros, 1))
    return _TIMEOUT_NAME + string(b"%dS" % min(int(timeout_s), _TIMEOUT_LIMIT - 1))


def metadata_block(metadata: Metadata | None) -> bytes:
    """Return a call's metadata as header fields that no proxy may keep in a table.

    Raises:
        TradeserveError: A name is reserved or malformed, a value is not ASCII, or it is too long.
    """
    if not metadata:
        return b""
    try:
        block = fields.metadata_fields(metadata)
    except fields.MetadataError as error:
        raise TradeserveError(str(error)) from error
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
        headers = _response(fields.decoded(self._decoder, block))
        if len(block) <= _CACHED_BLOCK_BYTES and len(self._cache) < _CACHED_BLOCKS:
            self._cache[block] = headers
        return headers


def reset_status(code: int) -> grpc.StatusCode:
    """Return the status of a call whose stream was reset."""
    return _RESET_CODES.get(code, grpc.StatusCode.INTERNAL)


def _response(found: Iterable[fields.Field]) -> ResponseHeaders:
    http_status, is_grpc, encoding, status, detail = 0, False, "", None, ""
    metadata: list[tuple[str, str | bytes]] = []
    for raw_name, raw_value in found:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name == ":status":
            http_status = int(value) if value.isdecimal() and len(value) == 3 else 0
        elif name == "content-type":
            is_grpc = value.startswith("application/grpc")
        elif name == "grpc-encoding":
            encoding = value
        elif name == "grpc-status":
            number = int(value) if value.isdecimal() and len(value) < 4 else -1
            status = CODES.get(number, grpc.StatusCode.UNKNOWN)
        elif name == "grpc-message":
            detail = unquote(value, errors="replace")
        elif name.endswith(fields.BINARY):
            metadata += [(name, fields.binary(part)) for part in raw_value.split(b",")]
        elif not name.startswith(":"):
            metadata.append((name, value))
    return ResponseHeaders(http_status, is_grpc, encoding, status, detail, tuple(metadata))


_TIMEOUT_NAME = b"\x00" + string(b"grpc-timeout")
