"""A channel over our own HTTP/2: what stubs and `channel.Link` use of grpc.aio.Channel, and streams.

One connection at a time, made again by itself with a bounded pause. A call that is made before the
first connection stands, or while one is made again, waits for it within its deadline; after a failed
attempt calls fail at once, until a connection stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import grpc

from grpc_wire.fields import Metadata
from tradeserve_client.alarm import Alarm
from tradeserve_client.errors import TradeserveError
from tradeserve_client.http2.connection import Connection, Limits
from tradeserve_client.http2.exchange import Decode, Exchange, StreamCall, UnaryCall, prefixed
from tradeserve_client.http2.headers import metadata_block, method_block, timeout_block

_State = grpc.ChannelConnectivity

_CONNECT_S = 5.0
_FIRST_PAUSE_S = 0.1
_MAX_PAUSE_S = 1.0
_CLOSE_LOOK_S = 0.005
_STABLE_S = 1.0
_MAX_WAITING = 1024
_MAX_KEEPALIVE_S = 300.0
# The kernel finds a dead peer of a connection without calls, which is not pinged.
_TCP_KEEPALIVE = (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))


class UnaryMethod:
    """One method of one channel; called as grpc.aio's UnaryUnaryMultiCallable."""

    __slots__ = ("_block", "_channel", "_decode", "_encode")

    def __init__(
        self,
        channel: Http2Channel,
        path: str,
        encode: Callable[[Any], bytes] | None,
        decode: Decode | None,
    ) -> None:
        self._channel = channel
        self._block = channel.block(path)
        self._encode = encode
        self._decode = decode

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        wait_for_ready: bool | None = None,
    ) -> UnaryCall:
        """Start a call; nothing is raised here but for unusable metadata."""
        body: bytes = request if self._encode is None else self._encode(request)
        channel = self._channel
        call = UnaryCall(channel.max_message_bytes, channel.forget, self._decode)
        block = self._block + metadata_block(metadata) if metadata else self._block
        channel.start(call, block, body, timeout, wait_for_ready=bool(wait_for_ready))
        return call


class Http2Channel:
    """Calls to one target over one HTTP/2 connection. Use it from one event loop.

    Attributes:
        target: "host:port" or "unix:/path".
        max_message_bytes: Longest message in either direction.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: ssl.SSLContext | None = None,
        max_message_bytes: int,
        limits: Limits | None = None,
    ) -> None:
        self.target = target
        self.max_message_bytes = max_message_bytes
        self._path, self._host, self._port = _address(target)
        self._tls = tls
        self._limits = limits or Limits()
        self._keepalive_s = self._limits.keepalive_s
        self._authority = "localhost" if self._path else f"{self._host}:{self._port}"
        self._state = _State.IDLE
        self._trouble = "not connected yet"
        self._connection: Connection | None = None
        self._leaving: set[Connection] = set()
        self._changes: list[asyncio.Future[None]] = []
        self._waiting: dict[Exchange, Callable[[Connection], None]] = {}
        self._patient: set[Exchange] = set()
        self._alarm = Alarm(Exchange.expire)
        self._gone = asyncio.Event()
        self._made: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    # --- as grpc.aio.Channel ----------------------------------------------------------------------

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Decode | None = None,
        _registered_method: bool | None = None,
    ) -> UnaryMethod:
        """Return a method with one request and one answer; without serializers in bytes."""
        return UnaryMethod(self, method, request_serializer, response_deserializer)

    def stream_stream(self, method: str, *_: Any, **__: Any) -> Callable[..., Any]:
        """Return what says that streams are opened in another way; generated stubs ask for it."""

        def refuse(*_: Any, **__: Any) -> Any:
            raise TradeserveError(f"{method}: over the http2 transport, open streams with open_stream()")

        return refuse

    unary_stream = stream_unary = stream_stream

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the state of the connection; optionally begin to connect. Then needs a running loop."""
        if try_to_connect:
            self._open()
        return self._state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the state is another, or has been in the meantime."""
        if self._state is last_observed_state:
            future = asyncio.get_running_loop().create_future()
            self._changes.append(future)
            await future

    async def close(self, grace: float | None = None) -> None:
        """Close it; calls under way after the grace (seconds) end as UNAVAILABLE. It can't be opened again."""
        for _ in range(round((grace or 0.0) / _CLOSE_LOOK_S)):
            if self._connection is None or not self._connection.streams:
                break
            await asyncio.sleep(_CLOSE_LOOK_S)
        task, self._task = self._task, None
        self._set(_State.SHUTDOWN)
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        reason = "the channel was closed"
        self._trouble = reason
        for connection in [*self._leaving, *([self._connection] if self._connection else [])]:
            connection.close(reason)
        self._refuse_waiting(patient=True)

    # --- calls ------------------------------------------------------------------------------------

    def open_stream(
        self,
        path: str,
        on_message: Callable[[bytes], None],
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> StreamCall:
        """Open a stream of messages in both directions; it waits for a connection as long as it takes.

        Args:
            path: Method, "/package.Service/Method".
            on_message: Called with every message, off the socket.
            timeout: Seconds for the whole stream; None for no end.
            metadata: Of the call.

        Raises:
            TradeserveError: The metadata are unusable.
        """
        call = StreamCall(self.max_message_bytes, self.forget, on_message)
        self.start(call, self.block(path) + metadata_block(metadata), None, timeout, wait_for_ready=True)
        return call

    def block(self, path: str) -> bytes:
        """Return the header block of a method."""
        return method_block(path, self._authority, secure=self._tls is not None)

    def start(
        self,
        call: Exchange,
        block: bytes,
        body: bytes | None,
        timeout_s: float | None,
        *,
        wait_for_ready: bool,
    ) -> None:
        """Start a call now, or once a connection stands, or end it with the reason why not."""
        if body is not None and len(body) > self.max_message_bytes:
            detail = f"a request of {len(body)} bytes; at most {self.max_message_bytes} are sent"
            call.end(grpc.StatusCode.RESOURCE_EXHAUSTED, detail)
            return
        message = None if body is None else prefixed(body)
        end_s = None
        if timeout_s is not None:
            if timeout_s <= 0:
                call.end(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
                return
            call.expire_in(timeout_s, self._alarm)
            if self._connection is not None:
                block += timeout_block(timeout_s)
            else:
                end_s = asyncio.get_running_loop().time() + timeout_s
        if self._connection is not None:
            self._connection.start(call, block, message)
            return
        if self._state is not _State.SHUTDOWN:
            self._open()
        if self._state is not _State.CONNECTING and not (
            wait_for_ready and self._state is not _State.SHUTDOWN
        ):
            call.end(grpc.StatusCode.UNAVAILABLE, self._trouble)
        elif len(self._waiting) >= _MAX_WAITING:
            detail = f"{len(self._waiting)} calls wait for a connection, the limit"
            call.end(grpc.StatusCode.RESOURCE_EXHAUSTED, detail)
        else:
            if wait_for_ready:
                self._patient.add(call)
            self._waiting[call] = lambda connection: _start_late(connection, call, block, message, end_s)

    def forget(self, call: Exchange) -> None:
        """Stop waiting for a connection for a call that ended."""
        self._waiting.pop(call, None)
        self._patient.discard(call)

    # --- from the connection ----------------------------------------------------------------------

    def connection_ready(self, connection: Connection) -> None:
        """Take calls."""
        self._connection = connection
        if self._made is not None and not self._made.done():
            self._made.set_result(None)
        self._set(_State.READY)
        waiting, self._waiting = self._waiting, {}
        self._patient.clear()
        for begin in waiting.values():
            begin(connection)

    def connection_gone(self, connection: Connection, reason: str) -> None:
        """Connect again; calls under way on a connection that drains go on."""
        self._trouble = reason
        if connection.too_many_pings:
            self._keepalive_s = min(2 * self._keepalive_s, _MAX_KEEPALIVE_S)
        if self._made is not None and not self._made.done():
            self._made.set_exception(ConnectionError(reason))
        if connection is not self._connection:
            return
        self._connection = None
        self._leaving.add(connection)
        if self._state is _State.READY:
            self._set(_State.CONNECTING)
        self._gone.set()

    # --- inside -----------------------------------------------------------------------------------

    def _open(self) -> None:
        if self._task is None and self._state is not _State.SHUTDOWN:
            self._set(_State.CONNECTING)
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"http2 {self.target}")

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while True:
            self._gone.clear()
            self._leaving = {connection for connection in self._leaving if connection.streams}
            began_s = loop.time()
            try:
                async with asyncio.timeout(_CONNECT_S):
                    await self._connect(loop)
            except (OSError, TimeoutError) as error:
                words = str(error) or "no connection in time"
                self._trouble = f"failed to connect to {self.target}: {words}"
                self._set(_State.TRANSIENT_FAILURE)
                self._refuse_waiting(patient=False)
            else:
                await self._gone.wait()
                if loop.time() - began_s >= _STABLE_S:
                    pause_s = _FIRST_PAUSE_S
                    continue
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))
            pause_s = min(1.6 * pause_s, _MAX_PAUSE_S)

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> None:
        """Connect and wait for the server's settings.

        Raises:
            OSError: It is not there, its certificate is not trusted, or it does not speak HTTP/2.
        """
        limits = replace(self._limits, keepalive_s=self._keepalive_s)

        def connection() -> Connection:
            return Connection(self, limits)

        made = self._made = loop.create_future()
        made.add_done_callback(_retrieve)
        if self._path:
            server_hostname = "localhost" if self._tls else None
            opened: Awaitable[Any] = loop.create_unix_connection(
                connection, self._path, ssl=self._tls, server_hostname=server_hostname
            )
        else:
            opened = loop.create_connection(connection, self._host, self._port, ssl=self._tls)
        transport, protocol = await opened
        try:
            if self._tls and transport.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
                raise ConnectionError("the server does not speak HTTP/2 over TLS (ALPN)")
            _keep_alive(transport.get_extra_info("socket"))
            await made
        except BaseException:
            protocol.close("the connection was not finished")
            raise

    def _set(self, state: grpc.ChannelConnectivity) -> None:
        if state is self._state or self._state is _State.SHUTDOWN:
            return
        self._state = state
        changes, self._changes = self._changes, []
        for future in changes:
            if not future.done():
                future.set_result(None)

    def _refuse_waiting(self, *, patient: bool) -> None:
        for call in list(self._waiting):
            if patient or call not in self._patient:
                call.end(grpc.StatusCode.UNAVAILABLE, self._trouble)


def _start_late(
    connection: Connection, call: Exchange, block: bytes, message: bytes | None, end_s: float | None
) -> None:
    """Start a call that waited, with the time it still has."""
    if end_s is not None:
        block += timeout_block(max(0.0, end_s - asyncio.get_running_loop().time()))
    connection.start(call, block, message)


def _retrieve(future: asyncio.Future[None]) -> None:
    """Look at an error, so that nobody has to who was cancelled meanwhile."""
    if not future.cancelled():
        future.exception()


def _keep_alive(sock: socket.socket) -> None:
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _TCP_KEEPALIVE:
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _address(target: str) -> tuple[str, str, int]:
    """Return (path, "", 0) or ("", host, port).

    Raises:
        TradeserveError: The http2 transport does not know such addresses.
    """
    scheme, _, rest = target.partition(":")
    if scheme == "unix":
        return rest.removeprefix("//"), "", 0
    if scheme in ("dns", "ipv4", "ipv6"):
        target = rest.rpartition("/")[2]
    host, colon, port = target.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if scheme == "unix-abstract" or not (colon and host and port.isdigit() and 0 < int(port) < 65_536):
        raise TradeserveError(
            f"target {target!r}: the http2 transport takes host:port or unix:/path; for others use grpc"
        )
    return "", host, int(port)
