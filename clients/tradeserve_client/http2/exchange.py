"""One call: a request going out, an answer coming in, and exactly one end."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol, TypeAlias

import grpc
import grpc.aio

from grpc_wire.frames import ErrorCode
from tradeserve_client.alarm import Alarm
from tradeserve_client.http2.headers import ResponseHeaders, reset_status

Decode: TypeAlias = Callable[[bytes], Any]

_PREFIX_BYTES = 5
_MAX_UNSENT_BYTES = 4 * 1024 * 1024
_OK = grpc.StatusCode.OK


class Carrier(Protocol):
    """What an exchange asks of its connection."""

    def send(self, exchange: Exchange) -> None:
        """Send what lies in the outbox, as far as the windows allow."""

    def leave(self, exchange: Exchange, code: ErrorCode | None) -> None:
        """Forget the exchange; with a code, or when our side is still open, reset its stream."""


def prefixed(body: bytes) -> bytes:
    """Return a message as it goes into DATA frames: uncompressed, with its length."""
    return b"\x00" + len(body).to_bytes(4, "big") + body


class Exchange:
    """What every call has; the subclasses say what they do with messages.

    Attributes:
        stream_id: 0 until it is on a connection.
        send_window: Bytes that the server takes of this stream; the connection keeps it.
        outbox: Message bytes that are not sent yet.
        half_closed: Whether nothing comes after the outbox.
        end_sent: Whether the server was told so.
        status: None while it runs.
        detail: The words with it.
        trailers: What the server sent with it.
    """

    __slots__ = (
        "_alarm",
        "_buffer",
        "_carrier",
        "_forget",
        "_max_message_bytes",
        "detail",
        "end_sent",
        "half_closed",
        "headers",
        "locally_cancelled",
        "outbox",
        "send_window",
        "status",
        "stream_id",
        "trailers",
    )

    def __init__(self, max_message_bytes: int, forget: Callable[[Exchange], None]) -> None:
        self.stream_id = 0
        self.send_window = 0
        self.outbox: deque[bytes] = deque()
        self.half_closed = False
        self.end_sent = False
        self.status: grpc.StatusCode | None = None
        self.detail = ""
        self.headers: ResponseHeaders | None = None
        self.trailers: Sequence[tuple[str, str | bytes]] = ()
        self.locally_cancelled = False
        self._max_message_bytes = max_message_bytes
        self._forget = forget
        self._buffer = bytearray()
        self._carrier: Carrier | None = None
        self._alarm: Alarm[Exchange] | None = None

    def done(self) -> bool:
        """Whether it ended."""
        return self.status is not None

    def cancel(self) -> bool:
        """End it now; return whether it still ran."""
        if self.status is not None:
            return False
        self.locally_cancelled = True
        self.end(grpc.StatusCode.CANCELLED, "cancelled here", reset=ErrorCode.CANCEL)
        return True

    def expire_in(self, timeout_s: float, alarm: Alarm[Exchange]) -> None:
        """Have it expire after that time by an alarm that calls back `expire`."""
        self._alarm = alarm
        alarm.set(self, timeout_s)

    def expire(self) -> None:
        """End it as DEADLINE_EXCEEDED."""
        self.end(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", reset=ErrorCode.CANCEL)

    def placed(self, carrier: Carrier, stream_id: int, send_window: int) -> None:
        """Note the stream it was given."""
        self._carrier = carrier
        self.stream_id = stream_id
        self.send_window = send_window

    def error(self) -> grpc.aio.AioRpcError:
        """Return its end as grpc.aio raises it."""
        initial = self.headers.metadata if self.headers else ()
        return grpc.aio.AioRpcError(
            self.status, grpc.aio.Metadata(*initial), grpc.aio.Metadata(*self.trailers), self.detail
        )

    # --- from the connection ----------------------------------------------------------------------

    def on_headers(self, headers: ResponseHeaders, *, last: bool) -> None:
        """Take a header block: the first, or the trailers."""
        if self.headers is None:
            if 100 <= headers.http_status < 200 and not last:
                return
            problem = headers.problem()
            if problem is not None:
                self.end(*problem, reset=None if last else ErrorCode.CANCEL)
                return
            self.headers = headers
            if not last:
                return
        elif not last:
            self.end(grpc.StatusCode.INTERNAL, "headers amid the messages", reset=ErrorCode.PROTOCOL_ERROR)
            return
        if headers.status is None:
            self.end(grpc.StatusCode.UNKNOWN, "the server ended the call without a status")
        elif self._buffer and headers.status is _OK:
            self.end(grpc.StatusCode.INTERNAL, "the server ended the call amid a message")
        else:
            self.end(headers.status, headers.detail, headers.metadata)

    def on_data(self, payload: bytes) -> None:
        """Take bytes of messages."""
        if self.headers is None:
            self.end(grpc.StatusCode.INTERNAL, "a message before the headers", reset=ErrorCode.PROTOCOL_ERROR)
            return
        buffer = self._buffer
        if not buffer and len(payload) >= _PREFIX_BYTES and not payload[0]:
            # As nearly always: one frame is one message.
            length = int.from_bytes(payload[1:_PREFIX_BYTES], "big")
            if length == len(payload) - _PREFIX_BYTES and length <= self._max_message_bytes:
                self.on_message(payload[_PREFIX_BYTES:])
                return
        buffer += payload
        while len(buffer) >= _PREFIX_BYTES:
            if buffer[0]:
                detail = f"a message with flag {buffer[0]}; compression was not asked for"
                self.end(grpc.StatusCode.INTERNAL, detail, reset=ErrorCode.CANCEL)
                return
            end = _PREFIX_BYTES + int.from_bytes(buffer[1:_PREFIX_BYTES], "big")
            if end - _PREFIX_BYTES > self._max_message_bytes:
                detail = (
                    f"an answer of {end - _PREFIX_BYTES} bytes; at most {self._max_message_bytes} are taken"
                )
                self.end(grpc.StatusCode.RESOURCE_EXHAUSTED, detail, reset=ErrorCode.CANCEL)
                return
            if len(buffer) < end:
                return
            message = bytes(buffer[_PREFIX_BYTES:end])
            del buffer[:end]
            self.on_message(message)
            if self.status is not None:
                return

    def on_end_of_data(self) -> None:
        """Take an END_STREAM without trailers."""
        self.end(grpc.StatusCode.INTERNAL, "the server ended the call without a status")

    def on_reset(self, code: int) -> None:
        """Take a RST_STREAM."""
        self._carrier = None
        name = ErrorCode(code).name if code in ErrorCode.__members__.values() else f"error {code}"
        self.end(reset_status(code), f"the server reset the call ({name})")

    def on_lost(self, detail: str) -> None:
        """Take the loss of the connection."""
        self._carrier = None
        self.end(grpc.StatusCode.UNAVAILABLE, detail)

    # --- inside -----------------------------------------------------------------------------------

    def on_message(self, body: bytes) -> None:
        """Take one whole message."""
        raise NotImplementedError

    def on_end(self) -> None:
        """Tell whoever waits; called once."""
        raise NotImplementedError

    def end(
        self,
        status: grpc.StatusCode,
        detail: str,
        trailers: Sequence[tuple[str, str | bytes]] = (),
        *,
        reset: ErrorCode | None = None,
    ) -> None:
        """End it, if it did not end before."""
        if self.status is not None:
            return
        self.status, self.detail, self.trailers = status, detail, trailers
        if self._alarm is not None:
            self._alarm.clear(self)
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            carrier.leave(self, reset)
        elif not self.stream_id:
            self._forget(self)
        self.outbox.clear()
        self._buffer.clear()
        self.on_end()


class UnaryCall(Exchange):
    """One request, one answer; awaited as grpc.aio's calls are."""

    __slots__ = ("_body", "_callbacks", "_decode", "_waiter")

    def __init__(
        self, max_message_bytes: int, forget: Callable[[Exchange], None], decode: Decode | None
    ) -> None:
        super().__init__(max_message_bytes, forget)
        self.half_closed = True
        self._decode = decode
        self._body: bytes | None = None
        self._callbacks: list[Callable[[UnaryCall], None]] = []
        self._waiter: asyncio.Future[None] | None = None

    def add_done_callback(self, callback: Callable[[UnaryCall], None]) -> None:
        """Call back at the very moment of the end, before anybody who awaits is woken."""
        if self.status is None:
            self._callbacks.append(callback)
        else:
            callback(self)

    def __await__(self) -> Generator[Any, None, Any]:
        if self.status is None:
            if self._waiter is None:
                self._waiter = asyncio.get_running_loop().create_future()
            try:
                yield from self._waiter
            except asyncio.CancelledError:
                self.cancel()
                raise
        if self.locally_cancelled:
            raise asyncio.CancelledError
        if self.status is not _OK:
            raise self.error()
        assert self._body is not None
        return self._body if self._decode is None else self._decode(self._body)

    def on_message(self, body: bytes) -> None:
        """Keep the answer; a second one is an error."""
        if self._body is not None:
            self.end(grpc.StatusCode.INTERNAL, "two answers to one request", reset=ErrorCode.CANCEL)
            return
        self._body = body

    def on_end(self) -> None:
        """Wake whoever waits."""
        if self.status is _OK and self._body is None:
            self.status, self.detail = grpc.StatusCode.INTERNAL, "OK without an answer"
        for callback in self._callbacks:
            callback(self)
        self._callbacks.clear()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class StreamCall(Exchange):
    """Messages in both directions until either side ends it."""

    __slots__ = ("_ended", "_on_message", "_started", "_unsent_bytes")

    def __init__(
        self,
        max_message_bytes: int,
        forget: Callable[[Exchange], None],
        on_message: Callable[[bytes], None],
    ) -> None:
        super().__init__(max_message_bytes, forget)
        self._on_message = on_message
        self._started = asyncio.Event()
        self._ended = asyncio.Event()

    async def connected(self) -> None:
        """Wait until it is on a connection, or ended before it was."""
        await self._started.wait()

    async def finished(self) -> None:
        """Wait for its end.

        Raises:
            grpc.aio.AioRpcError: It ended with anything but OK.
            asyncio.CancelledError: It was cancelled here.
        """
        await self._ended.wait()
        if self.locally_cancelled:
            raise asyncio.CancelledError
        if self.status is not _OK:
            raise self.error()

    def send(self, body: bytes) -> None:
        """Send a message now, or as soon as the server's window allows; nothing when it ended."""
        if self._carrier is None:
            return
        if len(body) > self._max_message_bytes or sum(map(len, self.outbox)) > _MAX_UNSENT_BYTES:
            detail = "the message is too long, or the server does not read"
            self.end(grpc.StatusCode.RESOURCE_EXHAUSTED, detail, reset=ErrorCode.CANCEL)
            return
        self.outbox.append(prefixed(body))
        self._carrier.send(self)

    def half_close(self) -> None:
        """Tell the server that nothing more comes."""
        self.half_closed = True
        if self._carrier is not None:
            self._carrier.send(self)

    def placed(self, carrier: Carrier, stream_id: int, send_window: int) -> None:
        """Note the stream it was given; now it may send."""
        super().placed(carrier, stream_id, send_window)
        self._started.set()

    def on_message(self, body: bytes) -> None:
        """Hand the message on at once."""
        self._on_message(body)

    def on_end(self) -> None:
        """Wake whoever waits."""
        self._started.set()
        self._ended.set()
