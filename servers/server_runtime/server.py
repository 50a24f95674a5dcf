"""Run a gRPC server from bind to drain."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from server_runtime.admission import Admission
from server_runtime.calls import CallInterceptor
from server_runtime.deadlines import DEFAULT_MARGIN_S
from server_runtime.errors import StartError
from server_runtime.http2.server import Http2Server
from server_runtime.http2.upkeep import Limits
from server_runtime.listen import TlsFiles, claim_port, claim_unix_path
from server_runtime.metrics import ServerMetrics
from server_runtime.ready import remove_ready_file, write_ready_file
from server_runtime.tracing import SpanSender
from server_runtime.turns import Turns

_log = structlog.get_logger()

# So that a burst to a server with a small bound is refused by it, with a time to retry.
_LEAST_UNACCEPTED = 32
# A call that was on the wire when the drain began is still let in.
_LATECOMERS_S = 0.05
# More than any grace: what grpc.aio is told, whose own must never end.
_NEVER_S = 3600.0
# Python lets a thread that works keep the interpreter for 5 ms; calls that come in meanwhile would wait so long to
# be refused. Measured: refusals under overload in a third of the time, answers as many; a fifth of this gains nothing.
_SWITCH_S = 0.0005


class Transport(StrEnum):
    """What carries the calls."""

    GRPC = "grpc"
    """grpc.aio."""
    HTTP2 = "http2"
    """Our own, `server_runtime.http2`."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How a server listens and what it bounds.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        unix_path: Listen on this Unix socket instead of host and port.
        tls: Certificates; None serves without TLS.
        ready_file: Written once the server is healthy, removed when it drains.
        grace_s: Time calls in flight have to finish when the server drains.
        max_in_flight: Most unary calls in flight; above it they are refused with RetryInfo.
        max_unaccepted: Most calls that grpc.aio holds until this server takes them in, which it does some two thousand
            times a second; more it ends by itself, with CANCELLED. Longer, all would be too late when
            their turn comes. 0 for half of max_in_flight, and at least 32.
        max_calls_per_s: Most unary calls that come in per second; 0 for any number.
        urgent: Methods that are let in however full the server is, "/package.Service/Method".
        max_streams: Most streams open.
        max_message_bytes: Largest message, either way.
        answer_margin_s: Time a call must have left of its deadline to be started.
        metrics_port: Serve Prometheus metrics there (0 picks a free port); None does not.
        otlp_endpoint: Send spans of traced calls to this OpenTelemetry collector; "" does not.
        transport: What carries the calls.
    """

    host: str = "127.0.0.1"
    port: int = 0
    unix_path: Path | None = None
    tls: TlsFiles | None = None
    ready_file: Path | None = None
    grace_s: float = 5.0
    max_in_flight: int = 64
    max_unaccepted: int = 0
    max_calls_per_s: int = 0
    urgent: frozenset[str] = frozenset()
    max_streams: int = 64
    max_message_bytes: int = 16 * 1024 * 1024
    answer_margin_s: float = DEFAULT_MARGIN_S
    metrics_port: int | None = None
    otlp_endpoint: str = ""
    transport: Transport = Transport.HTTP2


class GrpcServer:
    """One gRPC server with health, reflection, bounds, metrics and a drain."""

    def __init__(
        self, options: ServerOptions, metrics: ServerMetrics | None = None, name: str = "server"
    ) -> None:
        """Prepare a server; nothing listens before `start`.

        Args:
            options: How it listens and what it bounds.
            metrics: Where it counts; its own when None.
            name: Of the process, for traces.

        Raises:
            StartError: Traces are asked for and OpenTelemetry is not installed.
        """
        self.options = options
        self.metrics = metrics or ServerMetrics()
        self._services: dict[str, Callable[[grpc.aio.Server], None]] = {}
        self._health = health.aio.HealthServicer()
        self._spans = SpanSender(name, options.otlp_endpoint) if options.otlp_endpoint else None
        self.turns = Turns(options.answer_margin_s)
        self._calls = CallInterceptor(
            margin_s=options.answer_margin_s,
            calls=Admission(options.max_in_flight, what="calls", rate_per_s=options.max_calls_per_s),
            streams=Admission(options.max_streams, what="streams", retry_after_s=1.0),
            metrics=self.metrics,
            turns=self.turns,
            urgent=options.urgent,
            spans=self._spans,
        )
        self._server: grpc.aio.Server | None = None
        self._stop_requested: asyncio.Event | None = None
        self.address = ""
        self.metrics_address = ""

    def add_service(self, name: str, register: Callable[[grpc.aio.Server], None]) -> None:
        """Serve one service.

        Args:
            name: Its full name, "tradeserve.similarity.v1.SimilarityService".
            register: Adds its servicer to the grpc.aio server it is given.
        """
        self._services[name] = register

    async def start(self) -> str:
        """Listen, and serve from now on; every service is healthy afterwards.

        Returns:
            The address: "host:port" or "unix:/path".

        Raises:
            StartError: The address cannot be used, or a certificate or the ready file is unusable.
        """
        options = self.options
        if options.ready_file:
            remove_ready_file(options.ready_file)
        target = (
            claim_unix_path(options.unix_path)
            if options.unix_path
            else claim_port(options.host, options.port)
        )
        self._server = server = self._made()
        for register in self._services.values():
            register(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(
            [*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME], server
        )
        port = _bind(server, target, options)
        self.address = target if options.unix_path else f"{target.rpartition(':')[0]}:{port}"
        try:
            if options.metrics_port is not None:
                metrics_port = self.metrics.start_http(options.host, options.metrics_port)
                self.metrics_address = f"{options.host}:{metrics_port}"
            await server.start()
        except BaseException:
            await server.stop(None)
            raise
        for name in self._services:
            await self.set_serving(name, True)
        return self.address

    def _made(self) -> grpc.aio.Server:
        options = self.options
        # Health and reflection stay reachable when both bounds of ours are exhausted.
        most = 2 * (options.max_in_flight + options.max_streams) + 16
        if options.transport is Transport.HTTP2:
            limits = Limits(max_streams=max(1024, most), max_message_bytes=options.max_message_bytes)
            return Http2Server(self._calls, limits, max_calls=most)
        return grpc.aio.server(
            interceptors=[self._calls], options=_channel_options(options), maximum_concurrent_rpcs=most
        )

    async def set_serving(self, name: str, serving: bool) -> None:
        """Change what health says of one service."""
        response = health_pb2.HealthCheckResponse
        await self._health.set(name, response.SERVING if serving else response.NOT_SERVING)

    async def stop(self) -> None:
        """Drain: NOT_SERVING first, then no new calls, then wait for those in flight, bounded by the grace."""
        if self._server is None:
            return
        if self.options.ready_file:
            self.options.ready_file.unlink(missing_ok=True)
        await self._health.enter_graceful_shutdown()
        self._calls.drain()
        latecomers_s = min(_LATECOMERS_S, self.options.grace_s)
        # The grace is counted here: grpc.aio dies of SIGSEGV where one of its own ends as a second stop does.
        stopped = asyncio.ensure_future(self._server.stop(self.options.grace_s + _NEVER_S))
        await asyncio.wait([stopped], timeout=latecomers_s)
        idle = asyncio.ensure_future(self._calls.wait_idle())
        await asyncio.wait(
            [stopped, idle],
            timeout=self.options.grace_s - latecomers_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        idle.cancel()
        # What is left are watchers of the health; they would stay for the whole grace.
        await self._server.stop(None)
        await stopped
        self._server = None
        self.turns.close()
        if self.metrics_address:
            self.metrics.stop_http()
        if self._spans is not None:
            await asyncio.to_thread(self._spans.close)
        if self.options.unix_path:
            self.options.unix_path.unlink(missing_ok=True)

    def request_stop(self) -> None:
        """Make `serve` drain and return; what a signal does."""
        if self._stop_requested is not None:
            self._stop_requested.set()

    async def serve(self, ready: Mapping[str, object] | None = None) -> None:
        """Start, write the ready file, serve until SIGTERM or SIGINT, drain; this is the process's main work.

        Args:
            ready: What the ready file says besides "pid" and "address".

        Raises:
            StartError: See `start`.
        """
        usual_s = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        self._stop_requested = stop_requested = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop_requested.set)
        try:
            address = await self.start()
            if self.options.ready_file:
                content = {"pid": os.getpid(), "address": address, **(ready or {})}
                if self.metrics_address:
                    content["metrics_address"] = self.metrics_address
                write_ready_file(self.options.ready_file, content)
            _log.info(
                "serving",
                address=address,
                metrics=self.metrics_address or None,
                services=list(self._services),
            )
            await stop_requested.wait()
            _log.info("draining", grace_s=self.options.grace_s)
        finally:
            await self.stop()
            sys.setswitchinterval(usual_s)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        _log.info("stopped")


def _bind(server: grpc.aio.Server, target: str, options: ServerOptions) -> int:
    tls = options.tls
    try:
        if tls is None:
            return int(server.add_insecure_port(target))
        own = options.transport is Transport.HTTP2
        return int(server.add_secure_port(target, tls.context() if own else tls.credentials()))
    except RuntimeError as e:
        raise StartError(
            f"cannot listen on {target}: choose another address, or check the TLS files", 2
        ) from e


def _channel_options(options: ServerOptions) -> list[tuple[str, int]]:
    unaccepted = options.max_unaccepted or max(_LEAST_UNACCEPTED, options.max_in_flight // 2)
    return [
        # Between the two, gRPC would end some at random.
        ("grpc.server.max_pending_requests", unaccepted),
        ("grpc.server.max_pending_requests_hard_limit", unaccepted),
        # Two servers on one port would each get a part of the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", options.max_message_bytes),
        ("grpc.max_send_message_length", options.max_message_bytes),
        # Clients ping every 20 s, with or without calls; less than 10 s apart is abuse.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        # A client that vanished without a FIN is noticed within 80 s.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
