"""One HTTP/2 connection of a server: frames in and out, windows, settings, pings, and its end.

Source: RFC 9113.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

from grpc_wire import frames
from grpc_wire.frames import ErrorCode, FrameReader, ProtocolError
from server_runtime.http2.peers import identity_of, peer_of
from server_runtime.http2.requests import MAX_METADATA_BYTES, PartialBlock, RequestHead, RequestReader
from server_runtime.http2.sending import Sender
from server_runtime.http2.stream import WINDOW, Stream
from server_runtime.http2.upkeep import Limits, Patience, Timers

_CONNECTION_WINDOW = 16 * 1024 * 1024
_READ_BYTES = 64 * 1024
_WRITE_HIGH_BYTES = 1024 * 1024
_LINGER_S = 1.0
_LAST_ID = 2**31 - 1
_DRAIN_PING = b"tradsrvD"
_KEEPALIVE_PING = b"tradsrvK"


class Owner(Protocol):
    """Who takes the calls of a connection."""

    def connected(self, connection: Connection) -> bool:
        """Return whether there is room for one more."""

    def called(self, connection: Connection, stream_id: int, head: RequestHead, *, last: bool) -> None:
        """Take a call."""

    def disconnected(self, connection: Connection) -> None:
        """It is gone; called once."""


class Connection(asyncio.BufferedProtocol):
    """A connection as the event loop sees it.

    Attributes:
        streams: Calls under way.
        sender: What goes out.
        paused: Whether the peer does not take what is written.
        max_message_bytes: Longest message, either way.
    """

    def __init__(self, owner: Owner, limits: Limits) -> None:
        self.streams: dict[int, Stream] = {}
        self.sender = Sender()
        self.paused = False
        self.max_message_bytes = limits.max_message_bytes
        self._owner = owner
        self._limits = limits
        self._buffer = bytearray(_READ_BYTES)
        self._view = memoryview(self._buffer)
        self._preface = frames.PREFACE
        self._reader = FrameReader()
        self._requests = RequestReader()
        self._patience = Patience(limits)
        self._ready = self._counted = False
        self._draining = self._final = False
        self._last_id = 0
        self._receivable = _CONNECTION_WINDOW
        self._silent_s = 0.0
        self._unwritten_before = 0
        self._timers = Timers()
        self._transport: asyncio.Transport | None = None
        self._handlers: dict[int, Callable[[int, int, bytes], None]] = {
            frames.DATA: self._on_data,
            frames.HEADERS: self._on_headers,
            frames.PRIORITY: self._on_priority,
            frames.RST_STREAM: self._on_rst_stream,
            frames.SETTINGS: self._on_settings,
            frames.PUSH_PROMISE: self._on_push_promise,
            frames.PING: self._on_ping,
            frames.GOAWAY: self._on_goaway,
            frames.WINDOW_UPDATE: self._on_window_update,
            frames.CONTINUATION: self._on_continuation,
        }

    # --- calls ------------------------------------------------------------------------------------

    @property
    def peer(self) -> str:
        """Who it is, as gRPC writes it."""
        return peer_of(self._transport)

    @property
    def identity(self) -> dict[str, list[bytes]]:
        """What the peer's certificate says, as in grpc's auth_context."""
        return identity_of(self._transport)

    def leave(self, stream: Stream, code: ErrorCode | None) -> None:
        """Forget a stream; reset it when there is a code."""
        if self.streams.pop(stream.stream_id, None) is None:
            return
        self.sender.forget(stream.stream_id)
        if code is not None and self._transport is not None:
            self.sender.reset(stream.stream_id, code)
        self._close_if_idle()

    def refuse(self, stream_id: int, block: bytes, *, last: bool) -> None:
        """Answer a call that is not let in by one block; a caller that still sends is told to stop."""
        self.sender.headers(stream_id, block, last=True)
        if not last:
            self.sender.reset(stream_id, ErrorCode.NO_ERROR)

    def on_blocked(self) -> None:
        """Give a peer up that lets too many answers wait for its windows."""
        if self.sender.unsent_bytes > self._limits.unsent_bytes:
            self._finish("too much is asked for and not taken", ErrorCode.ENHANCE_YOUR_CALM)

    def drain(self) -> None:
        """Ask for no new calls; those on the way are still taken."""
        if self._draining or self._transport is None:
            return
        self._draining = True
        # After the answer to the ping nothing is on the way any more.
        self.sender.write(
            frames.goaway(ErrorCode.NO_ERROR, "", _LAST_ID) + frames.frame(frames.PING, 0, 0, _DRAIN_PING)
        )
        self._timers.start("drain", _LINGER_S, self._finish_drain)

    def close(self) -> None:
        """End it in order: what is under way is lost."""
        self._finish("", ErrorCode.NO_ERROR)

    # --- the event loop ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduce ourselves."""
        assert isinstance(transport, asyncio.Transport)
        encrypted = transport.get_extra_info("ssl_object")
        self._counted = self._owner.connected(self)
        if not self._counted or (encrypted is not None and encrypted.selected_alpn_protocol() != "h2"):
            transport.abort()
            return
        transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)
        self._transport = self.sender.transport = transport
        settings = {
            # No table: equal header blocks always mean the same, so that they can be looked up.
            frames.SETTING_HEADER_TABLE_SIZE: 0,
            frames.SETTING_MAX_CONCURRENT_STREAMS: self._limits.max_streams,
            frames.SETTING_INITIAL_WINDOW_SIZE: WINDOW,
            frames.SETTING_MAX_HEADER_LIST_SIZE: MAX_METADATA_BYTES,
        }
        more = frames.window_update(0, _CONNECTION_WINDOW - frames.DEFAULT_WINDOW)
        self.sender.write(frames.settings(settings) + more)
        no_hello = partial(self._finish, "no introduction in time", ErrorCode.SETTINGS_TIMEOUT)
        self._timers.start("hello", self._limits.hello_s, no_hello)
        self._timers.start("tick", self._limits.keepalive_timeout_s, self._tick)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where bytes off the socket go."""
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes off the socket."""
        if self._transport is not None:
            self.take(bytes(self._view[:nbytes]))

    def take(self, data: bytes) -> None:
        """Take bytes; a peer that breaks the protocol is told so and left."""
        self._silent_s = 0.0
        try:
            if self._preface:
                data = self._introduced(data)
            for kind, flags, stream_id, payload in self._reader.feed(data):
                if self._requests.partial is not None and kind != frames.CONTINUATION:
                    raise ProtocolError("a frame amid a header block")
                if not self._ready and kind != frames.SETTINGS:
                    raise ProtocolError("SETTINGS must come first")
                handler = self._handlers.get(kind)
                if handler is None:
                    self._patience.spend("unknown frames")
                else:
                    handler(flags, stream_id, payload)
                if self._transport is None:
                    return
        except ProtocolError as error:
            self._finish(str(error), error.code)

    def eof_received(self) -> None:
        """Take the peer's end; the socket is closed then."""

    def pause_writing(self) -> None:
        """Take nothing more from a peer that does not take what is written."""
        self.paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self.paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            for stream in list(self.streams.values()):
                stream.on_room()

    def connection_lost(self, error: Exception | None) -> None:
        """Every call under way is lost with it."""
        self._transport = self.sender.transport = None
        self._lose()
        if self._counted:
            self._counted = False
            self._owner.disconnected(self)

    # --- frames -----------------------------------------------------------------------------------

    def _introduced(self, data: bytes) -> bytes:
        known = min(len(data), len(self._preface))
        if data[:known] != self._preface[:known]:
            raise ProtocolError("this is no HTTP/2 connection")
        self._preface = self._preface[known:]
        return data[known:]

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        stream = self._stream(stream_id, "DATA")
        size, last = len(payload), bool(flags & frames.END_STREAM)
        self._receivable -= size
        if self._receivable < 0:
            raise ProtocolError("more DATA than allowed", ErrorCode.FLOW_CONTROL_ERROR)
        if self._receivable < _CONNECTION_WINDOW // 2:
            self.sender.reply(frames.window_update(0, _CONNECTION_WINDOW - self._receivable))
            self._receivable = _CONNECTION_WINDOW
        if not size and not last:
            self._patience.spend("empty frames")
        content = frames.unpadded(flags & frames.PADDED, payload) if flags & frames.PADDED else payload
        if stream is not None:
            stream.on_data(content, size, last=last)

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id % 2 == 0:
            raise ProtocolError(f"HEADERS on stream {stream_id}")
        if flags & (frames.PADDED | frames.PRIORITIZED):
            payload = frames.unpadded(flags, payload)
        last = bool(flags & frames.END_STREAM)
        if flags & frames.END_HEADERS:
            self._on_block(stream_id, payload, last)
        else:
            self._requests.partial = PartialBlock(stream_id, last, bytearray(payload))

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        block = self._requests.partial
        if block is None:
            raise ProtocolError("CONTINUATION without its HEADERS")
        block.add(stream_id, payload)
        if flags & frames.END_HEADERS:
            self._requests.partial = None
            self._on_block(stream_id, bytes(block.content), block.last)

    def _on_block(self, stream_id: int, content: bytes, last: bool) -> None:
        head = self._requests.read(content)  # also where nobody asks for it: the table depends on it
        stream = self.streams.get(stream_id)
        if stream is not None:
            if not last or stream.received_all:
                stream.reset(ErrorCode.PROTOCOL_ERROR if not last else ErrorCode.STREAM_CLOSED)
            else:
                stream.on_end_of_data()
        elif stream_id > self._last_id and not self._final:
            self._last_id = stream_id
            if head.malformed:
                self._patience.spend("malformed requests")
                self.sender.reset(stream_id, ErrorCode.PROTOCOL_ERROR)
            elif len(self.streams) >= self._limits.max_streams:
                self.sender.reset(stream_id, ErrorCode.REFUSED_STREAM)
            else:
                self._owner.called(self, stream_id, head, last=last)

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._patience.spend("priorities")
        if not stream_id or len(payload) != 5:
            raise ProtocolError("a malformed PRIORITY", ErrorCode.FRAME_SIZE_ERROR)

    def _on_rst_stream(self, flags: int, stream_id: int, payload: bytes) -> None:
        frames.read_word(payload, "RST_STREAM")
        stream = self._stream(stream_id, "RST_STREAM")
        self._patience.spend("resets")
        if stream is not None:
            self.leave(stream, None)
            stream.on_lost()

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError("SETTINGS on a stream")
        if flags & frames.ACK:
            if payload:
                raise ProtocolError("SETTINGS acknowledged with content", ErrorCode.FRAME_SIZE_ERROR)
            self._requests.forbid_table()
            return
        self._patience.spend("settings", 10)
        for key, value in frames.read_settings(payload):
            self.sender.set(key, value, self.streams.values())
        self.sender.reply(frames.frame(frames.SETTINGS, frames.ACK, 0))
        if not self._ready:
            self._ready = True
            self._timers.stop("hello")
        self.sender.flush()

    def _on_push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ProtocolError("a push from a client")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError("PING on a stream")
        if len(payload) != 8:
            raise ProtocolError("a malformed PING", ErrorCode.FRAME_SIZE_ERROR)
        if not flags & frames.ACK:
            self._patience.spend("pings", 2)
            self._patience.ping(self.sender.progress)
            self.sender.reply(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif payload == _DRAIN_PING and self._draining:
            self._finish_drain()
        else:
            self._timers.stop("pong")

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        frames.read_goaway(payload)
        if stream_id:
            raise ProtocolError("GOAWAY on a stream")
        self._patience.spend("goaways")

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        increment = frames.read_word(payload, "WINDOW_UPDATE") & frames.MAX_WINDOW
        stream = self._stream(stream_id, "WINDOW_UPDATE") if stream_id else None
        if not stream_id:
            if not increment:
                raise ProtocolError("a window that grows by nothing")
            self.sender.grow(increment)
        elif stream is not None:
            if not increment:
                stream.reset(ErrorCode.PROTOCOL_ERROR)
                return
            stream.grow(increment)
        self.sender.flush()

    # --- inside -----------------------------------------------------------------------------------

    def _stream(self, stream_id: int, what: str) -> Stream | None:
        """Return whose frame this is; None for a call that ended here."""
        stream = self.streams.get(stream_id)
        if stream is None and (stream_id % 2 == 0 or (stream_id > self._last_id and not self._final)):
            raise ProtocolError(f"{what} on stream {stream_id}, which was never opened")
        return stream

    def _close_if_idle(self) -> None:
        if self._final and not self.streams:
            self.close()

    def _finish_drain(self) -> None:
        """Take no new calls."""
        self._timers.stop("drain")
        if not self._final and self._transport is not None:
            self._final = True
            self.sender.write(frames.goaway(ErrorCode.NO_ERROR, "", self._last_id))
            self._close_if_idle()

    def _finish(self, reason: str, code: ErrorCode) -> None:
        transport, self._transport = self._transport, None
        if transport is None:
            return
        if not transport.is_closing():
            if reason or not self._final:
                self.sender.write(frames.goaway(code, reason, self._last_id))
            self.sender.close()
            # A peer that does not read must not keep the socket: what was written is best effort.
            asyncio.get_running_loop().call_later(_LINGER_S, transport.abort)
        self.sender.transport = None
        self._lose()

    def _lose(self) -> None:
        self._timers.clear()
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            self.sender.forget(stream.stream_id)
            stream.on_lost()

    def _tick(self) -> None:
        """Ping a silent peer; give up who takes nothing of what it asked for."""
        limits, transport = self._limits, self._transport
        if transport is None:
            return
        self._timers.start("tick", limits.keepalive_timeout_s, self._tick)
        unwritten = transport.get_write_buffer_size()
        if self.paused and unwritten >= self._unwritten_before > 0:
            self._finish("nothing is read", ErrorCode.ENHANCE_YOUR_CALM)
            return
        self._unwritten_before = unwritten if self.paused else 0
        self.sender.reset_stuck()
        self._silent_s += limits.keepalive_timeout_s
        if self._silent_s > limits.keepalive_s and "pong" not in self._timers:
            self.sender.write(frames.frame(frames.PING, 0, 0, _KEEPALIVE_PING))
            no_pong = partial(self._finish, "pings are not answered", ErrorCode.NO_ERROR)
            self._timers.start("pong", limits.keepalive_timeout_s, no_pong)
