"""What goes out on one connection: frames in order, and messages as far as the server's windows allow.

Source: RFC 9113, section 5.2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from tradeserve_client.http2 import frames
from tradeserve_client.http2.exchange import Exchange
from tradeserve_client.http2.frames import ErrorCode, ProtocolError

_MAX_UNREAD = 16 * 1024 * 1024


class Sender:
    """Writes to one socket.

    Attributes:
        transport: The socket; None before and after.
        max_frame: Longest payload that the server takes.
        stream_window: Bytes that the server takes of a new stream.
    """

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.max_frame = frames.MIN_MAX_FRAME
        self.stream_window = frames.DEFAULT_WINDOW
        self._window = frames.DEFAULT_WINDOW
        self._waiting: dict[int, Exchange] = {}  # with bytes that the windows did not let through
        self._unwritten: list[bytes] = []

    def open(self, exchange: Exchange, block: bytes, message: bytes | None) -> None:
        """Send the headers of a call and, where it has only one, its message."""
        stream_id = exchange.stream_id
        opening = frames.head(frames.HEADERS, frames.END_HEADERS, stream_id, len(block)) + block
        if message is None:
            self.write(opening)
        elif len(message) <= min(self._window, exchange.send_window, self.max_frame):
            self._window -= len(message)
            exchange.send_window -= len(message)
            exchange.end_sent = True
            data = frames.head(frames.DATA, frames.END_STREAM, stream_id, len(message))
            self.write(opening + data + message)
        else:
            self.write(opening)
            exchange.outbox.append(message)
            self.send(exchange)

    def send(self, exchange: Exchange) -> None:
        """Send what lies in the outbox, as far as the windows allow; the rest once they open."""
        stream_id, outbox = exchange.stream_id, exchange.outbox
        while outbox:
            first = outbox[0]
            size = min(len(first), self._window, exchange.send_window, self.max_frame)
            if size <= 0:
                self._waiting[stream_id] = exchange
                return
            self._window -= size
            exchange.send_window -= size
            if size == len(first):
                outbox.popleft()
            else:
                outbox[0] = first[size:]
            last = exchange.half_closed and not outbox
            exchange.end_sent = last
            flags = frames.END_STREAM if last else 0
            self.write(frames.head(frames.DATA, flags, stream_id, size) + first[:size])
        if exchange.half_closed and not exchange.end_sent:
            exchange.end_sent = True
            self.write(frames.frame(frames.DATA, frames.END_STREAM, stream_id))
        self._waiting.pop(stream_id, None)

    def forget(self, stream_id: int) -> None:
        """Send nothing more of a stream."""
        self._waiting.pop(stream_id, None)

    def grow(self, increment: int) -> None:
        """Note that the server takes more on the connection.

        Raises:
            ProtocolError: More than a window may be.
        """
        self._window += increment
        if self._window > frames.MAX_WINDOW:
            raise ProtocolError("a window opened too far", ErrorCode.FLOW_CONTROL_ERROR)

    def resize(self, window: int, streams: Iterable[Exchange]) -> None:
        """Note what the server takes of every stream, also of those that are open.

        Raises:
            ProtocolError: More than a window may be.
        """
        if window > frames.MAX_WINDOW:
            raise ProtocolError(f"a window of {window} bytes", ErrorCode.FLOW_CONTROL_ERROR)
        change, self.stream_window = window - self.stream_window, window
        for exchange in streams:
            exchange.send_window += change

    def flush(self) -> None:
        """Send what waited for a window."""
        for exchange in list(self._waiting.values()):
            if self._window <= 0:
                return
            self.send(exchange)

    def reply(self, data: bytes) -> None:
        """Send what the server asked for.

        Raises:
            ProtocolError: It asks on and on and does not read.
        """
        if self.transport is not None and self.transport.get_write_buffer_size() > _MAX_UNREAD:
            raise ProtocolError("the server asks but does not read", ErrorCode.ENHANCE_YOUR_CALM)
        self.write(data)

    def write(self, data: bytes) -> None:
        """Send with whatever else this turn of the event loop sends.

        Every send wakes the server, which may take the processor from us before the next one.
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
