"""A gRPC server: services, ports, what is let in, and the drain."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import grpc
import grpc.aio

from server_runtime.http2 import responses
from server_runtime.http2.behavior import Method
from server_runtime.http2.connection import Connection
from server_runtime.http2.listening import BACKLOG, bound
from server_runtime.http2.requests import Metadatum, RequestHead
from server_runtime.http2.stream import Stream
from server_runtime.http2.upkeep import Limits

_HANDSHAKE_S = 10.0
_LAST_WORDS_S = 3.0
_Code = grpc.StatusCode


class Admitted(NamedTuple):
    """A call that was let in.

    Attributes:
        handler: What it runs.
        prepare: Called first, in the task of the call.
        leave: Called once when it has ended, and its handler too.
    """

    handler: grpc.RpcMethodHandler
    prepare: Callable[[], object]
    leave: Callable[[], None]


class Gate(Protocol):
    """Lets calls in when their headers are there."""

    def admit(
        self,
        path: str,
        handler: grpc.RpcMethodHandler,
        metadata: Sequence[Metadatum],
        timeout_s: float | None,
    ) -> Admitted | grpc.Status:
        """Let a call in, or return the status that refuses it, one object per kind of refusal."""


class OpenGate:
    """Lets every call in."""

    def admit(
        self,
        path: str,
        handler: grpc.RpcMethodHandler,
        metadata: Sequence[Metadatum],
        timeout_s: float | None,
    ) -> Admitted | grpc.Status:
        """Let it in."""
        return Admitted(handler, _nothing, _nothing)


@dataclass(frozen=True, slots=True)
class _Details(grpc.HandlerCallDetails):  # type: ignore[misc]
    method: str
    invocation_metadata: Sequence[Metadatum]


class Http2Server(grpc.aio.Server):  # type: ignore[misc]
    """The part of grpc.aio.Server that our servers use. Used from one event loop."""

    def __init__(
        self,
        gate: Gate | None = None,
        limits: Limits | None = None,
        *,
        max_calls: int = 4096,
        max_connections: int = 512,
    ) -> None:
        """Prepare a server; nothing listens before `start`.

        Args:
            gate: Lets calls in; None lets in all.
            limits: Of each connection.
            max_calls: Most at once, whatever the gate says.
            max_connections: Most at once; more are closed at once.
        """
        self._gate = gate or OpenGate()
        self._limits = limits or Limits()
        self._max_calls = max_calls
        self._max_connections = max_connections
        self._registered: dict[str, grpc.RpcMethodHandler] = {}
        self._generic: list[grpc.GenericRpcHandler] = []
        self._methods: dict[str, Method] = {}
        self._refusals: dict[int, tuple[grpc.Status, bytes]] = {}
        self._ports: list[tuple[Any, ssl.SSLContext | None]] = []
        self._listeners: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        self._calls: set[Stream] = set()
        self._stop_at_s = float("inf")
        self._changed = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None
        self._terminated = asyncio.Event()

    # --- as grpc.aio.Server -----------------------------------------------------------------------

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Serve what these handlers know."""
        self._generic += generic_rpc_handlers

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler]
    ) -> None:
        """Serve these methods of a service."""
        for name, handler in method_handlers.items():
            self._registered[f"/{service_name}/{name}"] = handler

    def add_insecure_port(self, address: str) -> int:
        """Listen on "host:port" or "unix:/path" once the server starts; return the port.

        Raises:
            RuntimeError: It can't be bound.
        """
        return self._add_port(address, None)

    def add_secure_port(self, address: str, server_credentials: ssl.SSLContext) -> int:
        """Listen with TLS; see `add_insecure_port`."""
        return self._add_port(address, server_credentials)

    async def start(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        for sock, tls in self._ports:
            handshake_s = None if tls is None else _HANDSHAKE_S
            self._listeners.append(
                await loop.create_server(
                    self._connection, sock=sock, ssl=tls, backlog=BACKLOG, ssl_handshake_timeout=handshake_s
                )
            )
        self._ports.clear()

    async def stop(self, grace: float | None) -> None:
        """Take nothing new; wait for what is under way, as long as the shortest grace of all calls; end the rest."""
        loop = asyncio.get_running_loop()
        if self._stopping is None:
            for sock, _ in self._ports:
                sock.close()
            for listener in self._listeners:
                listener.close()
            for connection in tuple(self._connections):
                connection.drain()
            self._stopping = loop.create_task(self._stop())
        self._stop_at_s = min(self._stop_at_s, loop.time() + (grace or 0.0))
        self._changed.set()
        await asyncio.shield(self._stopping)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Wait until it has stopped; return whether the time was over before."""
        try:
            async with asyncio.timeout(timeout):
                await self._terminated.wait()
        except TimeoutError:
            return True
        return False

    # --- from the connections ---------------------------------------------------------------------

    def connected(self, connection: Connection) -> bool:
        """Return whether there is room for one more."""
        if len(self._connections) >= self._max_connections or self._stopping is not None:
            return False
        self._connections.add(connection)
        return True

    def disconnected(self, connection: Connection) -> None:
        """Forget it."""
        self._connections.discard(connection)
        self._changed.set()

    def called(self, connection: Connection, stream_id: int, head: RequestHead, *, last: bool) -> None:
        """Let a call in, or refuse it, before its request is read."""
        if head.http_status != 200:
            connection.refuse(stream_id, responses.http_block(head.http_status), last=last)
            return
        if head.code is not _Code.OK:
            block = responses.ending_block(head.code, head.detail, responses.ACCEPT_ENCODING)
            connection.refuse(stream_id, responses.OPENING + block, last=last)
            return
        handler = self._registered.get(head.path) or self._looked_up(head)
        if handler is None:
            block = responses.ending_block(_Code.UNIMPLEMENTED, "Method not found!")
            connection.refuse(stream_id, responses.OPENING + block, last=last)
            return
        if len(self._calls) >= self._max_calls:
            block = responses.ending_block(_Code.RESOURCE_EXHAUSTED, "as many calls as the server takes")
            connection.refuse(stream_id, responses.OPENING + block, last=last)
            return
        admitted = self._gate.admit(head.path, handler, head.metadata, head.timeout_s)
        if isinstance(admitted, Admitted):
            self._let_in(connection, stream_id, head, admitted, last=last)
        else:
            connection.refuse(stream_id, self._refusal(admitted), last=last)

    # --- inside -----------------------------------------------------------------------------------

    def _add_port(self, address: str, tls: ssl.SSLContext | None) -> int:
        try:
            sock = bound(address)
        except OSError as error:
            raise RuntimeError(f"cannot listen on {address}: {error}") from error
        self._ports.append((sock, tls))
        return 1 if address.startswith("unix:") else int(sock.getsockname()[1])

    def _connection(self) -> Connection:
        return Connection(self, self._limits)

    def _looked_up(self, head: RequestHead) -> grpc.RpcMethodHandler | None:
        details = _Details(head.path, head.metadata)
        found = (generic.service(details) for generic in self._generic)
        return next((handler for handler in found if handler is not None), None)

    def _refusal(self, status: grpc.Status) -> bytes:
        """Return the block of a refusal; made once, for under overload it is most of what goes out."""
        known = self._refusals.get(id(status))
        if known is None:
            more = responses.trailing_fields(status.trailing_metadata)
            block = responses.OPENING + responses.ending_block(status.code, status.details, more)
            known = self._refusals[id(status)] = status, block  # it stays, and so does its id
        return known[1]

    def _let_in(
        self, connection: Connection, stream_id: int, head: RequestHead, admitted: Admitted, *, last: bool
    ) -> None:
        method = self._methods.get(head.path)
        if method is None or method.handler is not admitted.handler:
            method = self._methods[head.path] = Method(admitted.handler)
        loop = asyncio.get_running_loop()

        def begin(stream: Stream) -> None:
            stream.task = loop.create_task(method.run(stream, admitted.prepare))
            stream.task.add_done_callback(stream.on_task_done)

        def end() -> None:
            self._calls.discard(stream)
            if not self._calls:
                self._changed.set()
            admitted.leave()

        stream = Stream(connection, stream_id, head, begin, one_request=method.one_request)
        stream.on_end.append(end)
        self._calls.add(stream)
        connection.streams[stream_id] = stream
        if head.timeout_s is not None:
            stream.deadline_s = loop.time() + head.timeout_s
            stream.expire_in(head.timeout_s)
        elif method.one_request:
            stream.expire_in(self._limits.request_s)
        if not method.one_request:
            begin(stream)
        if last:
            stream.on_end_of_data()

    async def _stop(self) -> None:
        loop = asyncio.get_running_loop()
        while self._calls and loop.time() < self._stop_at_s:
            await self._wait_for_change(self._stop_at_s)
        for stream in tuple(self._calls):
            stream.refuse(_Code.UNAVAILABLE, "the server is shutting down")
        until_s = loop.time() + _LAST_WORDS_S
        while self._calls and loop.time() < until_s:
            await self._wait_for_change(until_s)
        for connection in tuple(self._connections):
            connection.close()
        until_s = loop.time() + _LAST_WORDS_S
        while self._connections and loop.time() < until_s:
            await self._wait_for_change(until_s)
        self._terminated.set()

    async def _wait_for_change(self, until_s: float) -> None:
        self._changed.clear()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(max(0.0, min(until_s - loop.time(), 3600.0))):
                await self._changed.wait()
        except TimeoutError:
            pass


def _nothing() -> None:
    return None
