"""What goes out on a connection of a server: answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from grpc_wire import frames, sending
from grpc_wire.frames import ErrorCode, ProtocolError
from server_runtime.http2 import responses

_PREFIX_BYTES = 5
_MAX_FRAME = 64 * 1024
_USUAL_TABLE_BYTES = 4096


class Answering(sending.Outgoing, Protocol):
    """A call that is answered.

    Attributes:
        ending: The block of its trailers.
        unsent_before: For `Sender.stuck`.
    """

    ending: bytes
    unsent_before: int

    @property
    def unsent_bytes(self) -> int:
        """Bytes of messages that the peer did not take yet."""

    def on_room(self) -> None:
        """Write on."""

    def reset(self, code: ErrorCode) -> None:
        """End it by a reset."""

    def on_end_sent(self) -> None:
        """Note that the trailers are on their way; called once."""


class Sender(sending.Sender[Answering]):
    """Writes answers to one socket.

    Attributes:
        progress: Grows with whatever is sent that is an answer.
    """

    ends_with_data = False

    def __init__(self) -> None:
        super().__init__()
        self.progress = 0
        self._announcement = b""

    def set(self, key: int, value: int, streams: Iterable[Answering]) -> None:
        """Note a setting of the peer's.

        Raises:
            ProtocolError: HTTP/2 does not allow it.
        """
        if key == frames.SETTING_INITIAL_WINDOW_SIZE:
            self.resize(value, streams)
        elif key == frames.SETTING_MAX_FRAME_SIZE:
            if not frames.MIN_MAX_FRAME <= value <= frames.MAX_MAX_FRAME:
                raise ProtocolError(f"frames of {value} bytes")
            self.max_frame = min(value, _MAX_FRAME)
        elif key == frames.SETTING_HEADER_TABLE_SIZE and value < _USUAL_TABLE_BYTES:
            self._announcement = responses.EMPTY_TABLE
        elif key == frames.SETTING_ENABLE_PUSH and value > 1:
            raise ProtocolError(f"ENABLE_PUSH of {value}")

    def headers(self, stream_id: int, block: bytes, *, last: bool) -> None:
        """Send a header block, in as many frames as it takes."""
        self.progress += 1
        flags = frames.END_STREAM if last else 0
        if self._announcement:
            block, self._announcement = self._announcement + block, b""
        size = self.max_frame
        if len(block) <= size:
            flags |= frames.END_HEADERS
            self.write(frames.head(frames.HEADERS, flags, stream_id, len(block)) + block)
            return
        self.write(frames.frame(frames.HEADERS, flags, stream_id, block[:size]))
        for at in range(size, len(block), size):
            end = frames.END_HEADERS if at + size >= len(block) else 0
            self.write(frames.frame(frames.CONTINUATION, end, stream_id, block[at : at + size]))

    def answer(self, stream: Answering, body: bytes) -> bool:
        """Send headers, the only message and trailers at once; False where the windows don't allow it."""
        size = len(body) + _PREFIX_BYTES
        if size > self.window or size > stream.send_window or size > self.max_frame or self._announcement:
            return False
        self.progress += 1
        self.window -= size
        stream.send_window -= size
        number = stream.stream_id
        self.write(
            b"".join(
                (
                    frames.head(frames.HEADERS, frames.END_HEADERS, number, len(responses.OPENING)),
                    responses.OPENING,
                    frames.head(frames.DATA, 0, number, size),
                    b"\x00",
                    len(body).to_bytes(4, "big"),
                    body,
                    frames.head(
                        frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, number, len(stream.ending)
                    ),
                    stream.ending,
                )
            )
        )
        stream.end_sent = True
        stream.on_end_sent()
        return True

    def end(self, stream: Answering) -> None:
        """Send the trailers."""
        self.headers(stream.stream_id, stream.ending, last=True)
        stream.on_end_sent()

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """Reset a stream."""
        self.write(frames.rst_stream(stream_id, code))

    @property
    def unsent_bytes(self) -> int:
        """Bytes of messages that wait for the peer's windows."""
        return sum(stream.unsent_bytes for stream in self.waiting.values())

    def flush(self) -> None:
        """Send what waited for a window, and let those write on who waited for that."""
        if self.waiting:
            waiting = list(self.waiting.values())
            super().flush()
            for stream in waiting:
                stream.on_room()

    def reset_stuck(self) -> None:
        """Reset the calls of which the peer took nothing since this was last called."""
        for stream in list(self.waiting.values()):
            unsent = stream.unsent_bytes
            if unsent == stream.unsent_before:
                stream.reset(ErrorCode.CANCEL)
            stream.unsent_before = unsent
