"""What goes out on one connection: frames in order, and messages as far as the peer's windows allow.

Source: RFC 9113, section 5.2.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from grpc_wire import frames
from grpc_wire.frames import ErrorCode, ProtocolError

_MAX_UNREAD = 16 * 1024 * 1024


class Outgoing(Protocol):
    """One direction of one stream.

    Attributes:
        stream_id: Its number.
        send_window: Bytes that the peer takes of this stream.
        outbox: Message bytes that are not sent yet.
        half_closed: Whether nothing comes after the outbox.
        end_sent: Whether the peer was told so.
    """

    stream_id: int
    send_window: int
    outbox: deque[bytes]
    half_closed: bool
    end_sent: bool


Stream = TypeVar("Stream", bound=Outgoing)


class Sender(Generic[Stream]):
    """Writes to one socket.

    Attributes:
        transport: The socket; None before and after.
        max_frame: Longest payload that the peer takes.
        stream_window: Bytes that the peer takes of a new stream.
        window: Bytes that the peer takes of all.
        waiting: Streams with bytes that the windows did not let through.
    """

    ends_with_data = True
    """Whether the last message ends the stream; else `end` does."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.max_frame = frames.MIN_MAX_FRAME
        self.stream_window = frames.DEFAULT_WINDOW
        self.window = frames.DEFAULT_WINDOW
        self.waiting: dict[int, Stream] = {}
        self._unwritten: list[bytes] = []

    def send(self, stream: Stream) -> None:
        """Send what lies in the outbox, as far as the windows allow; the rest once they open."""
        stream_id, outbox = stream.stream_id, stream.outbox
        while outbox:
            first = outbox[0]
            size = min(len(first), self.window, stream.send_window, self.max_frame)
            if size <= 0:
                self.waiting[stream_id] = stream
                return
            self.window -= size
            stream.send_window -= size
            if size == len(first):
                outbox.popleft()
            else:
                outbox[0] = first[size:]
            last = self.ends_with_data and stream.half_closed and not outbox
            stream.end_sent = last
            flags = frames.END_STREAM if last else 0
            self.write(frames.head(frames.DATA, flags, stream_id, size) + first[:size])
        self.waiting.pop(stream_id, None)
        if stream.half_closed and not stream.end_sent:
            stream.end_sent = True
            self.end(stream)

    def end(self, stream: Stream) -> None:
        """Tell the peer that nothing more comes."""
        self.write(frames.frame(frames.DATA, frames.END_STREAM, stream.stream_id))

    def forget(self, stream_id: int) -> None:
        """Send nothing more of a stream."""
        self.waiting.pop(stream_id, None)

    def grow(self, increment: int) -> None:
        """Note that the peer takes more on the connection.

        Raises:
            ProtocolError: More than a window may be.
        """
        self.window += increment
        if self.window > frames.MAX_WINDOW:
            raise ProtocolError("a window opened too far", ErrorCode.FLOW_CONTROL_ERROR)

    def resize(self, window: int, streams: Iterable[Stream]) -> None:
        """Note what the peer takes of every stream, also of those that are open.

        Raises:
            ProtocolError: More than a window may be.
        """
        if window > frames.MAX_WINDOW:
            raise ProtocolError(f"a window of {window} bytes", ErrorCode.FLOW_CONTROL_ERROR)
        change, self.stream_window = window - self.stream_window, window
        for stream in streams:
            stream.send_window += change

    def flush(self) -> None:
        """Send what waited for a window."""
        for stream in list(self.waiting.values()):
            if self.window <= 0:
                return
            self.send(stream)

    def reply(self, data: bytes) -> None:
        """Send what the peer asked for.

        Raises:
            ProtocolError: It asks on and on and does not read.
        """
        if self.transport is not None and self.transport.get_write_buffer_size() > _MAX_UNREAD:
            raise ProtocolError("the peer asks but does not read", ErrorCode.ENHANCE_YOUR_CALM)
        self.write(data)

    def write(self, data: bytes) -> None:
        """Send with whatever else this turn of the event loop sends.

        Every send wakes the peer, which may take the processor from us before the next one.
        """
        if not self._unwritten:
            asyncio.get_running_loop().call_soon(self._write_out)
        self._unwritten.append(data)

    def close(self) -> None:
        """Send what is left and close the socket."""
        self._write_out()
        if self.transport is not None:
            self.transport.close()

    def _write_out(self) -> None:
        unwritten, self._unwritten = self._unwritten, []
        if self.transport is not None and unwritten:
            self.transport.write(b"".join(unwritten))
