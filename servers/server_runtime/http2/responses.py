"""Header blocks of responses. Pure.

They are literals that touch no table, so that those that every answer has are made once.
"""

from __future__ import annotations

import base64
import re

import grpc

from grpc_wire.fields import Metadata, literal, metadata_fields, string

OPENING = b"\x88" + b"\x0f\x10" + string(b"application/grpc")  # :status 200, content-type
ENDING_OK = literal(b"grpc-status", b"0")
ACCEPT_ENCODING = literal(b"grpc-accept-encoding", b"identity")
# Said before the first block to a peer that allows a smaller table than the usual.
EMPTY_TABLE = b"\x20"

_DETAILS = "grpc-status-details-bin"
_MAX_MESSAGE_CHARACTERS = 2_000
_NOT_PLAIN = re.compile(rb"[^ -$&-~]")


def ending_block(code: grpc.StatusCode, detail: str, more: bytes = b"") -> bytes:
    """Return the block of trailers.

    Args:
        code: Status of the call.
        detail: The words with it.
        more: Further fields, see `trailing_fields`.
    """
    if code is grpc.StatusCode.OK and not detail:
        return ENDING_OK + more
    status = literal(b"grpc-status", b"%d" % code.value[0])
    words = detail[:_MAX_MESSAGE_CHARACTERS].encode("utf-8", "replace")
    encoded = _NOT_PLAIN.sub(lambda found: b"%%%02X" % found[0][0], words)
    return status + literal(b"grpc-message", encoded) + more


def trailing_fields(metadata: Metadata | None) -> bytes:
    """Return trailing metadata as fields.

    Raises:
        MetadataError: A name is reserved or malformed, or a value is not ASCII.
    """
    parts = []
    for name, value in metadata or ():
        if name == _DETAILS:
            encoded = base64.b64encode(value.encode() if isinstance(value, str) else value).rstrip(b"=")
            parts.append(literal(name.encode(), encoded))
        else:
            parts.append(metadata_fields(((name, value),)))
    return b"".join(parts)


def http_block(status: int) -> bytes:
    """Return the block of a response that is not gRPC's, without content."""
    return b"\x08" + string(b"%d" % status)
