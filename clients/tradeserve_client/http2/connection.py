"""One HTTP/2 connection: frames in and out, windows, settings, pings, and its end.

Source: RFC 9113; keepalive: gRFC A8.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import grpc

from grpc_wire import frames
from grpc_wire.fields import MAX_BLOCK_BYTES
from grpc_wire.frames import ErrorCode, FrameReader, ProtocolError
from tradeserve_client.http2.exchange import Exchange
from tradeserve_client.http2.headers import HeaderReader
from tradeserve_client.http2.sending import Sender

STREAM_WINDOW = 4 * 1024 * 1024
CONNECTION_WINDOW = 16 * 1024 * 1024

_MAX_STREAM_ID = 2**31 - 1
_MAX_CONTINUATIONS = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one connection.

    Attributes:
        max_streams: Calls at once, even where the server allows more.
        settings_timeout_s: How long the server may take to introduce itself.
        keepalive_s: After this silence with a call under way the server is pinged.
        keepalive_timeout_s: How long it may take to answer the ping.
        drain_s: How long calls may go on after the server said that it goes away.
    """

    max_streams: int = 1024
    settings_timeout_s: float = 5.0
    keepalive_s: float = 20.0
    keepalive_timeout_s: float = 5.0
    drain_s: float = 60.0


class Owner(Protocol):
    """Who is told what becomes of a connection."""

    def connection_ready(self, connection: Connection) -> None:
        """It takes calls now."""

    def connection_gone(self, connection: Connection, reason: str) -> None:
        """It takes no new calls any more; called once."""


@dataclass(slots=True)
class _Block:
    """A header block that is not complete yet."""

    stream_id: int
    last: bool
    content: bytearray
    parts: int = 0


class Connection(asyncio.Protocol):
    """A connection as the event loop sees it.

    Attributes:
        streams: Calls under way.
        trouble: Why it ended.
        too_many_pings: Whether the server complained of them.
    """

    def __init__(self, owner: Owner, limits: Limits) -> None:
        self.streams: dict[int, Exchange] = {}
        self.trouble = ""
        self.too_many_pings = False
        self._owner = owner
        self._limits = limits
        self._sender = Sender()
        self._reader = FrameReader()
        self._headers = HeaderReader()
        self._block: _Block | None = None
        self._ready = False
        self._gone = False
        self._next_id = 1
        self._max_streams = limits.max_streams
        self._receivable = CONNECTION_WINDOW
        self._taken: dict[int, int] = {}
        self._heard = True
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._handlers: dict[int, Callable[[int, int, bytes], None]] = {
            frames.DATA: self._on_data,
            frames.HEADERS: self._on_headers,
            frames.CONTINUATION: self._on_continuation,
            frames.RST_STREAM: self._on_rst_stream,
            frames.SETTINGS: self._on_settings,
            frames.PUSH_PROMISE: self._on_push_promise,
            frames.PING: self._on_ping,
            frames.GOAWAY: self._on_goaway,
            frames.WINDOW_UPDATE: self._on_window_update,
        }

    # --- calls ------------------------------------------------------------------------------------

    def start(self, exchange: Exchange, block: bytes, message: bytes | None) -> None:
        """Open a stream for a call; refuse it where the server's bound of calls at once is reached.

        Args:
            exchange: The call.
            block: Its header block, shorter than the smallest frame.
            message: Its only message with its prefix; None for a stream of messages.
        """
        if len(self.streams) >= self._max_streams:
            detail = f"{len(self.streams)} calls on the connection, the limit"
            exchange.end(grpc.StatusCode.RESOURCE_EXHAUSTED, detail)
            return
        stream_id = self._next_id
        self._next_id += 2
        self.streams[stream_id] = exchange
        exchange.placed(self, stream_id, self._sender.stream_window)
        self._sender.open(exchange, block, message)
        if self._next_id > _MAX_STREAM_ID:
            self._go("the connection's stream ids are used up")

    def send(self, exchange: Exchange) -> None:
        """Send what lies in the outbox, as far as the windows allow."""
        self._sender.send(exchange)

    def leave(self, exchange: Exchange, code: ErrorCode | None) -> None:
        """Forget the exchange; with a code, or when our side is still open, reset its stream."""
        stream_id = exchange.stream_id
        if self.streams.pop(stream_id, None) is None:
            return
        self._sender.forget(stream_id)
        self._taken.pop(stream_id, None)
        transport = self._sender.transport
        if transport is None or transport.is_closing():
            return
        if code is not None or not exchange.end_sent:
            self._sender.write(frames.rst_stream(stream_id, code or ErrorCode.CANCEL))
        self._close_if_idle()

    def close(self, reason: str) -> None:
        """End it in order: what is under way is lost."""
        self._go(reason)
        if self._sender.transport is not None and not self._sender.transport.is_closing():
            self._sender.write(frames.goaway(ErrorCode.NO_ERROR, ""))
            self._sender.close()
        self._lose(reason)

    # --- the event loop ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduce ourselves."""
        assert isinstance(transport, asyncio.Transport)
        self._sender.transport = transport
        settings = {
            # No table: equal header blocks always mean the same, so that they can be looked up.
            frames.SETTING_HEADER_TABLE_SIZE: 0,
            frames.SETTING_ENABLE_PUSH: 0,
            frames.SETTING_INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            frames.SETTING_MAX_HEADER_LIST_SIZE: MAX_BLOCK_BYTES,
        }
        more = frames.window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW)
        transport.write(frames.PREFACE + frames.settings(settings) + more)
        self._later("settings", self._limits.settings_timeout_s, self._no_settings)

    def data_received(self, data: bytes) -> None:
        """Take bytes off the socket."""
        self._heard = True
        try:
            for kind, flags, stream_id, payload in self._reader.feed(data):
                if self._block is not None and kind != frames.CONTINUATION:
                    raise ProtocolError("a frame amid a header block")
                if not self._ready and kind != frames.SETTINGS:
                    raise ProtocolError("the server does not speak HTTP/2: SETTINGS must come first")
                handler = self._handlers.get(kind)
                if handler is not None:  # unknown kinds are ignored
                    handler(flags, stream_id, payload)
                if self._sender.transport is None:
                    return
        except ProtocolError as error:
            self._fail(str(error), error.code)

    def connection_lost(self, error: Exception | None) -> None:
        """Every call under way is lost with it."""
        self._sender.transport = None
        words = f"the connection was lost: {error}" if error else "the server closed the connection"
        self._lose(self.trouble or words)

    # --- frames -----------------------------------------------------------------------------------

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        exchange = self._stream(stream_id, "DATA")
        self._receivable -= size
        if self._receivable < 0:
            raise ProtocolError("more DATA than allowed", ErrorCode.FLOW_CONTROL_ERROR)
        if self._receivable < CONNECTION_WINDOW // 2:
            self._sender.reply(frames.window_update(0, CONNECTION_WINDOW - self._receivable))
            self._receivable = CONNECTION_WINDOW
        if exchange is None:
            return
        last = flags & frames.END_STREAM
        if not last and size:
            self._take(stream_id, size)
        content = frames.unpadded(flags & frames.PADDED, payload) if flags & frames.PADDED else payload
        if content:
            exchange.on_data(content)
        if last and exchange.status is None:
            exchange.on_end_of_data()

    def _take(self, stream_id: int, size: int) -> None:
        """Give the stream's window back once half of it is used: messages are taken at once."""
        taken = self._taken.get(stream_id, 0) + size
        if taken >= STREAM_WINDOW // 2:
            self._sender.reply(frames.window_update(stream_id, taken))
            taken = 0
        self._taken[stream_id] = taken

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._stream(stream_id, "HEADERS")
        if flags & (frames.PADDED | frames.PRIORITIZED):
            payload = frames.unpadded(flags, payload)
        last = bool(flags & frames.END_STREAM)
        if flags & frames.END_HEADERS:
            self._on_block(stream_id, payload, last)
        else:
            self._block = _Block(stream_id, last, bytearray(payload))

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        block = self._block
        if block is None or block.stream_id != stream_id:
            raise ProtocolError("CONTINUATION without its HEADERS")
        block.content += payload
        block.parts += 1
        if len(block.content) > MAX_BLOCK_BYTES or block.parts > _MAX_CONTINUATIONS:
            raise ProtocolError("a header block without end", ErrorCode.ENHANCE_YOUR_CALM)
        if flags & frames.END_HEADERS:
            self._block = None
            self._on_block(stream_id, bytes(block.content), block.last)

    def _on_block(self, stream_id: int, content: bytes, last: bool) -> None:
        headers = self._headers.read(content)
        exchange = self.streams.get(stream_id)
        if exchange is not None:
            exchange.on_headers(headers, last=last)

    def _on_rst_stream(self, flags: int, stream_id: int, payload: bytes) -> None:
        code = frames.read_word(payload, "RST_STREAM")
        exchange = self._stream(stream_id, "RST_STREAM")
        if exchange is not None:
            self._drop(stream_id).on_reset(code)
            self._close_if_idle()

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError("SETTINGS on a stream")
        if flags & frames.ACK:
            if payload:
                raise ProtocolError("SETTINGS acknowledged with content", ErrorCode.FRAME_SIZE_ERROR)
            return
        for key, value in frames.read_settings(payload):
            self._set(key, value)
        self._sender.reply(frames.frame(frames.SETTINGS, frames.ACK, 0))
        if not self._ready:
            self._ready = True
            self._later("settings", 0.0, None)
            self._later("keepalive", self._limits.keepalive_s, self._keep_alive)
            self._owner.connection_ready(self)
        self._sender.flush()

    def _set(self, key: int, value: int) -> None:
        if key == frames.SETTING_INITIAL_WINDOW_SIZE:
            self._sender.resize(value, self.streams.values())
        elif key == frames.SETTING_MAX_FRAME_SIZE:
            if not frames.MIN_MAX_FRAME <= value <= frames.MAX_MAX_FRAME:
                raise ProtocolError(f"frames of {value} bytes")
            self._sender.max_frame = value
        elif key == frames.SETTING_MAX_CONCURRENT_STREAMS:
            self._max_streams = min(value, self._limits.max_streams)
        elif key == frames.SETTING_ENABLE_PUSH and value:
            raise ProtocolError("a server that enables push")

    def _on_push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ProtocolError("a push, which was forbidden")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 8 or stream_id:
            raise ProtocolError("a malformed PING", ErrorCode.FRAME_SIZE_ERROR)
        if flags & frames.ACK:
            self._later("ping", 0.0, None)
        else:
            self._sender.reply(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        last, code, words = frames.read_goaway(payload)
        self.too_many_pings |= code == ErrorCode.ENHANCE_YOUR_CALM and "too_many_pings" in words
        reason = f"the server goes away{f' ({words})' if words else ''}"
        self._go(reason)
        for unseen in [number for number in self.streams if number > last]:
            self._drop(unseen).on_lost(reason)
        self._close_if_idle()

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        increment = frames.read_word(payload, "WINDOW_UPDATE") & frames.MAX_WINDOW
        exchange = self._stream(stream_id, "WINDOW_UPDATE") if stream_id else None
        if not increment:
            raise ProtocolError("a window that grows by nothing")
        if not stream_id:
            self._sender.grow(increment)
        elif exchange is not None:
            exchange.send_window += increment
            if exchange.send_window > frames.MAX_WINDOW:
                detail = "the server opened its window too far"
                exchange.end(grpc.StatusCode.INTERNAL, detail, reset=ErrorCode.FLOW_CONTROL_ERROR)
        self._sender.flush()

    # --- inside -----------------------------------------------------------------------------------

    def _stream(self, stream_id: int, what: str) -> Exchange | None:
        """Return whose frame this is; None for a call that ended here."""
        exchange = self.streams.get(stream_id)
        if exchange is None and (stream_id % 2 == 0 or stream_id >= self._next_id):
            raise ProtocolError(f"{what} on stream {stream_id}, which was never opened")
        return exchange

    def _drop(self, stream_id: int) -> Exchange:
        self._sender.forget(stream_id)
        self._taken.pop(stream_id, None)
        return self.streams.pop(stream_id)

    def _close_if_idle(self) -> None:
        """Close once the last call of a connection that takes no new ones has ended."""
        if self._gone and not self.streams and self._sender.transport is not None:
            self._sender.close()

    def _go(self, reason: str) -> None:
        """Take no new calls."""
        if not self._gone:
            self._gone = True
            self.trouble = reason
            self._later("drain", self._limits.drain_s, self._drained)
            self._owner.connection_gone(self, reason)

    def _fail(self, reason: str, code: ErrorCode) -> None:
        """End it: the server broke the protocol, or does not answer."""
        reason = f"the connection was given up: {reason}"
        transport = self._sender.transport
        self._go(reason)
        if transport is not None and not transport.is_closing():
            self._sender.write(frames.goaway(code, reason))
            self._sender.close()
        self._lose(reason)

    def _lose(self, reason: str) -> None:
        self._go(reason)
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._sender.transport is not None and self._sender.transport.is_closing():
            # A peer that does not read must not keep the socket: what was written is best effort.
            asyncio.get_running_loop().call_later(1.0, self._sender.transport.abort)
        self._sender.transport = None
        while self.streams:
            self._drop(next(iter(self.streams))).on_lost(reason)

    def _later(self, name: str, delay_s: float, callback: Callable[[], None] | None) -> None:
        """Set a timer; None stops it."""
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
        if callback is not None:
            self._timers[name] = asyncio.get_running_loop().call_later(delay_s, callback)

    def _no_settings(self) -> None:
        self._fail("the server did not introduce itself", ErrorCode.SETTINGS_TIMEOUT)

    def _keep_alive(self) -> None:
        limits, transport = self._limits, self._sender.transport
        if not self._heard and self.streams and transport is not None:
            self._sender.write(frames.frame(frames.PING, 0, 0, b"tradsrv1"))
            self._later("ping", limits.keepalive_timeout_s, self._no_pong)
        self._heard = False
        self._later("keepalive", limits.keepalive_s, self._keep_alive)

    def _no_pong(self) -> None:
        self._fail("the server does not answer pings", ErrorCode.NO_ERROR)

    def _drained(self) -> None:
        self._fail("the server goes away and its last calls did not end", ErrorCode.NO_ERROR)
