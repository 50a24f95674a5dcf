"""One call: messages coming in, messages going out, a deadline, and exactly one end."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

import grpc

from grpc_wire import frames
from grpc_wire.frames import ErrorCode, ProtocolError
from server_runtime.http2 import responses
from server_runtime.http2.requests import RequestHead
from server_runtime.http2.sending import Sender

# What a caller may send ahead of what is read here.
WINDOW = 512 * 1024
# A handler that writes more than this ahead of what the peer takes waits.
_AHEAD_BYTES = 256 * 1024
_PREFIX_BYTES = 5
_COST_BYTES = 64  # of a message, however short
_Code = grpc.StatusCode


class Carrier(Protocol):
    """What a call asks of its connection.

    Attributes:
        sender: What goes out.
        paused: Whether the peer does not take what is written.
        peer: Who it is, as gRPC writes it.
        max_message_bytes: Longest message, either way.
    """

    sender: Sender
    paused: bool
    max_message_bytes: int

    @property
    def peer(self) -> str:
        """Who it is, as gRPC writes it."""

    @property
    def identity(self) -> dict[str, list[bytes]]:
        """What the peer's certificate says."""

    def leave(self, stream: Stream, code: ErrorCode | None) -> None:
        """Forget a stream; reset it when there is a code."""

    def on_blocked(self) -> None:
        """Note that something waits for the peer's windows."""


class Stream:
    """One call.

    Attributes:
        head: What its headers said.
        deadline_s: On the event loop's clock; None for none.
        one_request: Whether exactly one message comes in; `begin` is called when it is there.
        body: That message.
        closed: Whether nothing goes out any more.
        received_all: Whether the caller sends nothing more.
        task: The handler, once it runs.
    """

    __slots__ = (
        "_begin", "_buffer", "_burst_bytes", "_carrier", "_messages", "_owed", "_reader", "_receivable", "_timer",
        "_writer", "body", "closed", "deadline_s", "end_sent", "ending", "half_closed", "head", "headers_sent",
        "on_end", "one_request", "outbox", "received_all", "send_window", "stream_id", "task", "unsent_before",
    )  # fmt: skip

    def __init__(
        self,
        carrier: Carrier,
        stream_id: int,
        head: RequestHead,
        begin: Callable[[Stream], None],
        *,
        one_request: bool,
    ) -> None:
        self.stream_id = stream_id
        self.head = head
        self.send_window = carrier.sender.stream_window
        self.outbox: deque[bytes] = deque()
        self.half_closed = self.end_sent = self.headers_sent = False
        self.closed = self.received_all = False
        self.ending = b""
        self.deadline_s: float | None = None
        self.one_request = one_request
        self.body: bytes | None = None
        self.task: asyncio.Task[None] | None = None
        self.on_end: list[Callable[[], None]] = []
        self.unsent_before = 0
        self._begin = begin
        self._carrier = carrier
        self._buffer = bytearray()
        self._messages: deque[bytes] = deque()
        self._receivable = WINDOW
        self._owed = 0
        self._burst_bytes = 0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def peer(self) -> str:
        """Who calls, as gRPC writes it."""
        return self._carrier.peer

    @property
    def identity(self) -> dict[str, list[bytes]]:
        """What the caller's certificate says."""
        return self._carrier.identity

    @property
    def unsent_bytes(self) -> int:
        """Bytes of messages that the peer did not take yet."""
        return sum(map(len, self.outbox))

    def expire_in(self, seconds: float) -> None:
        """End it as DEADLINE_EXCEEDED after that time."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)

    # --- what comes in ----------------------------------------------------------------------------

    def on_data(self, content: bytes, size: int, *, last: bool) -> None:
        """Take bytes of messages.

        Args:
            content: Without padding.
            size: With it.
            last: Whether nothing follows.
        """
        if self.received_all:
            self.reset(ErrorCode.STREAM_CLOSED)
            return
        self._receivable -= size
        if self._receivable < 0:
            self.reset(ErrorCode.FLOW_CONTROL_ERROR)
            return
        if self.half_closed:
            self.received_all = last
            return
        self._owed += size
        buffer = self._buffer
        if not buffer and len(content) >= _PREFIX_BYTES and not content[0]:
            # As nearly always: one frame is one message.
            length = int.from_bytes(content[1:_PREFIX_BYTES], "big")
            if length == len(content) - _PREFIX_BYTES and length <= self._carrier.max_message_bytes:
                self._on_message(content[_PREFIX_BYTES:])
                content = b""
        if content:
            buffer += content
            self._cut()
        if last:
            self.on_end_of_data()
        elif not self.half_closed:
            self._give_back()

    def on_end_of_data(self) -> None:
        """Take the end of what comes in."""
        self.received_all = True
        if self.half_closed:
            return
        if self._buffer:
            self.refuse(_Code.INVALID_ARGUMENT, "the call ended amid a message")
        elif not self.one_request:
            _wake(self._reader)
        elif self.body is None:
            self.refuse(_Code.UNIMPLEMENTED, "the method takes one request, and none came")
        else:
            if self._timer is not None and self.deadline_s is None:
                self._timer.cancel()
            self._begin(self)

    def grow(self, increment: int) -> None:
        """Note that the peer takes more."""
        self.send_window += increment
        if self.send_window > frames.MAX_WINDOW:
            self.reset(ErrorCode.FLOW_CONTROL_ERROR)

    def on_room(self) -> None:
        """Let the handler write on, if the peer took enough."""
        if self._writer is not None and self.unsent_bytes <= _AHEAD_BYTES and not self._carrier.paused:
            _wake(self._writer)

    def on_lost(self) -> None:
        """Take a reset by the peer, or the loss of the connection: nobody waits for the answer."""
        self._close()
        if self.task is not None:
            self.task.cancel()
        else:
            self._tell_end()

    async def read(self) -> bytes | None:
        """Return the next message; None behind the last.

        Raises:
            asyncio.CancelledError: The call is over.
        """
        while not self._messages:
            if self.closed or self.half_closed:
                raise asyncio.CancelledError
            if self.received_all:
                return None
            if self._reader is not None:
                raise RuntimeError("two readers of one stream")
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        body = self._messages.popleft()
        self._owed += len(body) + _PREFIX_BYTES
        if not self.received_all:
            self._give_back()
        return body

    # --- what goes out ----------------------------------------------------------------------------

    def open(self, more: bytes = b"") -> None:
        """Send the headers, with further fields."""
        if not self.headers_sent and not self.half_closed:
            self.headers_sent = True
            self._carrier.sender.headers(self.stream_id, responses.OPENING + more, last=False)

    async def write(self, body: bytes) -> None:
        """Send a message; wait while the peer does not take what was sent before.

        Raises:
            asyncio.CancelledError: The call is over.
        """
        if self.half_closed:
            raise asyncio.CancelledError
        if self._too_long(body):
            return
        self.open()
        self.outbox.append(b"\x00" + len(body).to_bytes(4, "big") + body)
        self._carrier.sender.progress += 1
        self._carrier.sender.send(self)
        if self.outbox:
            self._carrier.on_blocked()
        while (self.unsent_bytes > _AHEAD_BYTES or self._carrier.paused) and not self.closed:
            self._writer = asyncio.get_running_loop().create_future()
            try:
                await self._writer
            finally:
                self._writer = None
        self._burst_bytes += len(body) + _COST_BYTES
        if self._burst_bytes > _AHEAD_BYTES:
            # A handler that never waits for anything would keep the loop, and what it writes off the socket.
            self._burst_bytes = 0
            await asyncio.sleep(0)

    def answer(self, body: bytes, ending: bytes) -> None:
        """Send the only message and the trailers."""
        if self.half_closed or self._too_long(body):
            return
        self.half_closed = True
        self.ending = ending
        if not self.headers_sent and self._carrier.sender.answer(self, body):
            return
        self.half_closed = False
        self.open()
        self.outbox.append(b"\x00" + len(body).to_bytes(4, "big") + body)
        self.finish(ending)

    def finish(self, ending: bytes) -> None:
        """Send the trailers, behind what was sent before."""
        if self.half_closed:
            return
        self.half_closed = True
        self.ending = ending if self.headers_sent else responses.OPENING + ending
        self._buffer.clear()
        self._carrier.sender.send(self)
        if self.outbox:
            self._carrier.on_blocked()

    def refuse(self, code: grpc.StatusCode, detail: str) -> None:
        """End it with a status that the handler has no part in."""
        self.finish(responses.ending_block(code, detail))
        if self.task is not None:
            self.task.cancel()

    def reset(self, code: ErrorCode) -> None:
        """End it by a reset."""
        self._carrier.leave(self, code)
        self.on_lost()

    def on_end_sent(self) -> None:
        """Note that the trailers are on their way."""
        # A caller that still sends is told to stop; its answer is complete.
        self._carrier.leave(self, None if self.received_all else ErrorCode.NO_ERROR)
        self._close()
        if self.task is None:
            self._tell_end()

    def on_task_done(self, task: asyncio.Task[None]) -> None:
        """Note that the handler has ended."""
        if not task.cancelled():
            task.exception()
        if not self.half_closed and not self.closed:
            self.finish(responses.ending_block(_Code.CANCELLED, "the call was cancelled by the server"))
        self._tell_end()

    # --- inside -----------------------------------------------------------------------------------

    def _cut(self) -> None:
        """Take the whole messages out of the buffer."""
        buffer = self._buffer
        while len(buffer) >= _PREFIX_BYTES and not self.half_closed:
            if buffer[0]:
                detail = f"a message with flag {buffer[0]}; it said that none is compressed"
                self.refuse(_Code.INTERNAL, detail)
                return
            end = _PREFIX_BYTES + int.from_bytes(buffer[1:_PREFIX_BYTES], "big")
            limit = self._carrier.max_message_bytes
            if end - _PREFIX_BYTES > limit:
                detail = f"a message of {end - _PREFIX_BYTES} bytes; at most {limit} are taken"
                self.refuse(_Code.RESOURCE_EXHAUSTED, detail)
                return
            if len(buffer) < end:
                return
            message = bytes(buffer[_PREFIX_BYTES:end])
            del buffer[:end]
            self._on_message(message)

    def _on_message(self, body: bytes) -> None:
        if self.one_request:
            if self.body is not None:
                self.refuse(_Code.UNIMPLEMENTED, "the method takes one request, and more came")
                return
            self.body = body
            return
        # What waits to be read is not given back to the caller's window.
        self._owed -= len(body) + _PREFIX_BYTES
        self._messages.append(body)
        _wake(self._reader)

    def _give_back(self) -> None:
        if self._owed >= WINDOW // 2 and not self.closed:
            self._receivable += self._owed
            try:
                self._carrier.sender.reply(frames.window_update(self.stream_id, self._owed))
            except ProtocolError:
                self.reset(ErrorCode.ENHANCE_YOUR_CALM)
            self._owed = 0

    def _too_long(self, body: bytes) -> bool:
        limit = self._carrier.max_message_bytes
        if len(body) <= limit:
            return False
        detail = f"an answer of {len(body)} bytes; at most {limit} are sent"
        self.finish(responses.ending_block(_Code.RESOURCE_EXHAUSTED, detail))
        return True

    def _expire(self) -> None:
        self._timer = None
        if self.outbox:  # the peer does not take what it asked for
            self.reset(ErrorCode.CANCEL)
        else:
            self.refuse(_Code.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def _close(self) -> None:
        self.closed = self.half_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.outbox.clear()
        self._buffer.clear()
        _wake(self._reader)
        _wake(self._writer)

    def _tell_end(self) -> None:
        callbacks, self.on_end = self.on_end, []
        for callback in callbacks:
            callback()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
