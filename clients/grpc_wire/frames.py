"""HTTP/2 frames as bytes. Pure.

Source: RFC 9113, sections 4 and 6.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from struct import Struct
from typing import TypeAlias

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DEFAULT_WINDOW = 65_535
MAX_WINDOW = 2**31 - 1
MIN_MAX_FRAME = 16_384
MAX_MAX_FRAME = 2**24 - 1

DATA = 0x0
HEADERS = 0x1
PRIORITY = 0x2
RST_STREAM = 0x3
SETTINGS = 0x4
PUSH_PROMISE = 0x5
PING = 0x6
GOAWAY = 0x7
WINDOW_UPDATE = 0x8
CONTINUATION = 0x9

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITIZED = 0x20

SETTING_HEADER_TABLE_SIZE = 0x1
SETTING_ENABLE_PUSH = 0x2
SETTING_MAX_CONCURRENT_STREAMS = 0x3
SETTING_INITIAL_WINDOW_SIZE = 0x4
SETTING_MAX_FRAME_SIZE = 0x5
SETTING_MAX_HEADER_LIST_SIZE = 0x6

Frame: TypeAlias = tuple[int, int, int, bytes]
"""(type, flags, stream id, payload)"""

_HEAD = Struct(">BHBBI")
_SETTING = Struct(">HI")
_WORD = Struct(">I")
_HEAD_BYTES = 9
_STREAM_ID = 0x7FFF_FFFF


class ErrorCode(IntEnum):
    """Why a stream or a connection was ended; RFC 9113, section 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class ProtocolError(Exception):
    """The peer broke the protocol; the connection can't go on.

    Attributes:
        code: For the GOAWAY.
    """

    def __init__(self, detail: str, code: ErrorCode = ErrorCode.PROTOCOL_ERROR) -> None:
        super().__init__(detail)
        self.code = code


def head(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    """Return the nine bytes before a payload."""
    return _HEAD.pack(length >> 16, length & 0xFFFF, kind, flags, stream_id)


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Return a whole frame."""
    return head(kind, flags, stream_id, len(payload)) + payload


def settings(values: Mapping[int, int]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in values.items()))


def window_update(stream_id: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream_id, _WORD.pack(increment))


def rst_stream(stream_id: int, code: ErrorCode) -> bytes:
    """Return a RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream_id, _WORD.pack(code))


def goaway(code: ErrorCode, detail: str, last_id: int = 0) -> bytes:
    """Return a GOAWAY frame; the last stream id that is worked on is 0 for a client that was pushed nothing."""
    return frame(GOAWAY, 0, 0, _WORD.pack(last_id) + _WORD.pack(code) + detail.encode()[:128])


def read_settings(payload: bytes) -> Iterable[tuple[int, int]]:
    """Return (identifier, value) pairs.

    Raises:
        ProtocolError: The length is not a multiple of six.
    """
    if len(payload) % _SETTING.size:
        raise ProtocolError(f"SETTINGS of {len(payload)} bytes", ErrorCode.FRAME_SIZE_ERROR)
    return _SETTING.iter_unpack(payload)


def read_word(payload: bytes, what: str) -> int:
    """Return the number that is all of a RST_STREAM or WINDOW_UPDATE.

    Raises:
        ProtocolError: It has not four bytes.
    """
    if len(payload) != _WORD.size:
        raise ProtocolError(f"{what} of {len(payload)} bytes", ErrorCode.FRAME_SIZE_ERROR)
    number: int = _WORD.unpack(payload)[0]
    return number


def read_goaway(payload: bytes) -> tuple[int, int, str]:
    """Return the last stream id that was worked on, the error code, and the peer's words.

    Raises:
        ProtocolError: It is shorter than eight bytes.
    """
    if len(payload) < 2 * _WORD.size:
        raise ProtocolError(f"GOAWAY of {len(payload)} bytes", ErrorCode.FRAME_SIZE_ERROR)
    last, code = _WORD.unpack_from(payload)[0] & _STREAM_ID, _WORD.unpack_from(payload, 4)[0]
    return last, code, payload[8:].decode(errors="replace")


def unpadded(flags: int, payload: bytes) -> bytes:
    """Return the content of a DATA or HEADERS frame without padding and priority.

    Raises:
        ProtocolError: The padding is longer than the frame.
    """
    start, end = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise ProtocolError("a padded frame without a length", ErrorCode.FRAME_SIZE_ERROR)
        start, end = 1, end - payload[0]
    if flags & PRIORITIZED:
        start += 5
    if start > end:
        raise ProtocolError("padding longer than its frame")
    return payload[start:end]


class FrameReader:
    """Cuts what comes off a socket into frames; keeps at most one unfinished frame.

    Args:
        max_frame_bytes: Longest payload that was allowed to the peer.
    """

    __slots__ = ("_max_frame_bytes", "_rest")

    def __init__(self, max_frame_bytes: int = MIN_MAX_FRAME) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete now; exhaust it before feeding more.

        Raises:
            ProtocolError: A frame is longer than allowed.
        """
        buffer = self._rest + data if self._rest else data
        at, size = 0, len(buffer)
        while size - at >= _HEAD_BYTES:
            high, low, kind, flags, stream_id = _HEAD.unpack_from(buffer, at)
            length = high << 16 | low
            if length > self._max_frame_bytes:
                raise ProtocolError(f"a frame of {length} bytes", ErrorCode.FRAME_SIZE_ERROR)
            end = at + _HEAD_BYTES + length
            if end > size:
                break
            yield kind, flags, stream_id & _STREAM_ID, buffer[at + _HEAD_BYTES : end]
            at = end
        self._rest = buffer[at:]
