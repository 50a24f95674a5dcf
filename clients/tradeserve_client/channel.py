"""Channels for calls that count fractions of a millisecond, and a watch on their connection.

Two transports carry the same calls: "grpc" is grpc.aio; "http2" is our own (`tradeserve_client.http2`),
which saves the hops through grpc's poller thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias

import grpc
import grpc.aio

from tradeserve_client.errors import TradeserveError
from tradeserve_client.http2.channel import Http2Channel
from tradeserve_client.message_stream import GrpcStream, MessageStream

ChannelOption: TypeAlias = tuple[str, int | str]

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""A bound on what a server may send; a batch of windows or embeddings stays far below."""


class Transport(StrEnum):
    """What carries the calls."""

    GRPC = "grpc"
    """grpc.aio: balances over every address behind a name."""
    HTTP2 = "http2"
    """Our own, faster: one connection per target, to one of the addresses behind its name."""


Channel: TypeAlias = "grpc.aio.Channel | Http2Channel"

_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "xds:")
_FOREVER_MS = 2**31 - 1
_CLOSE_S = 1.0


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of a TLS connection.

    Attributes:
        ca: Certificates to trust; None for the machine's own.
        certificate: The client's certificate chain for mutual TLS; needs key.
        key: The client's private key.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files for grpc.

        Raises:
            TradeserveError: A file can't be read, or only one of certificate and key is given.
        """
        self._check()
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca),
            private_key=_read(self.key),
            certificate_chain=_read(self.certificate),
        )

    def ssl_context(self) -> ssl.SSLContext:
        """Read the files for the http2 transport.

        Raises:
            TradeserveError: A file can't be read or used, or only one of certificate and key is given.
        """
        self._check()
        for path in (self.ca, self.certificate, self.key):
            _read(path)  # ssl's own errors don't name the file
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except ssl.SSLError as error:
            raise TradeserveError(f"TLS: {self.ca}, {self.certificate}, {self.key}: {error}") from error
        context.set_alpn_protocols(["h2"])
        return context

    def _check(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise TradeserveError("TLS: give both certificate and key, or neither")


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise TradeserveError(f"TLS: can't read {path}: {error.strerror}") from error


def target_uri(target: str) -> str:
    """Return what grpc dials: "host:port" gets dns:///, so that every address behind a name is used.

    Raises:
        TradeserveError: Neither host:port nor a URI; the message shows what is accepted.
    """
    if target.startswith(_SCHEMES):
        return target
    host, colon, port = target.rpartition(":")
    if not (colon and host and port.isdigit() and 0 < int(port) < 65536):
        raise TradeserveError(f"target {target!r}: give host:port, or unix:/path/to/socket")
    return f"dns:///{target}"


def channel_options(*, max_message_bytes: int = MAX_MESSAGE_BYTES) -> Sequence[ChannelOption]:
    """Return the options of every channel of the SDK."""
    return (
        ("grpc.enable_http_proxy", 0),
        # A retry inside grpc would spend budget that the caller does not know of.
        ("grpc.enable_retries", 0),
        ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        # Bars can be hours apart; a channel that went idle would pay for a handshake in the budget.
        ("grpc.client_idle_timeout_ms", _FOREVER_MS),
        # A server that returns is picked up within a second or two.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
        # Two channels to one server must not share a broken connection's backoff.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
    )


def open_channel(
    target: str, *, tls: TlsFiles | None = None, transport: Transport = Transport.GRPC
) -> Channel:
    """Return a channel; it connects with the first call or when a Link watches it.

    Args:
        target: "host:port", "unix:/path", or, over grpc, any URI that grpc knows.
        tls: Files for an encrypted connection; None for plain text.
        transport: What carries the calls.

    Raises:
        TradeserveError: The target or a TLS file is unusable.
    """
    uri = target_uri(target)
    if transport is Transport.HTTP2:
        context = tls.ssl_context() if tls is not None else None
        return Http2Channel(target, tls=context, max_message_bytes=MAX_MESSAGE_BYTES)
    if tls is None:
        return grpc.aio.insecure_channel(uri, options=channel_options())
    return grpc.aio.secure_channel(uri, tls.credentials(), options=channel_options())


class Link:
    """A channel whose connection is watched: it reconnects unasked, and every loss is counted.

    Attributes:
        target: As given.
        channel: For stubs.
        epoch: Grows with every lost connection. What was learnt about the server in an older epoch
            may be wrong now: something else may have come up at its address.
    """

    def __init__(
        self, target: str, *, tls: TlsFiles | None = None, transport: Transport = Transport.GRPC
    ) -> None:
        self.target = target
        self.channel = open_channel(target, tls=tls, transport=transport)
        self.epoch = 0
        self._on_change: list[Callable[[], None]] = []
        self._watch: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    @property
    def is_ready(self) -> bool:
        """Whether a connection stands right now; asks grpc, so it is never behind the watch."""
        return self.channel.get_state() is grpc.ChannelConnectivity.READY

    @property
    def state(self) -> str:
        """The connection in words."""
        return str(self.channel.get_state().name).lower().replace("_", " ")

    def open(self) -> None:
        """Start connecting and watching. Needs a running loop."""
        if self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(
                self._keep_watch(), name=f"link {self.target}"
            )

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back after every change of the connection."""
        self._on_change.append(callback)

    def open_stream(
        self, path: str, on_message: Callable[[bytes], None], *, max_unsent: int
    ) -> MessageStream:
        """Open a stream of messages in both directions; it waits for the connection.

        Args:
            path: Method, "/package.Service/Method".
            on_message: Called with every message.
            max_unsent: Messages that the caller may have under way at once.
        """
        if isinstance(self.channel, Http2Channel):
            return self.channel.open_stream(path, on_message)
        return GrpcStream(self.channel, path, on_message, max_unsent)

    async def ready(self, timeout_s: float) -> bool:
        """Wait for a connection, bounded; return whether it stands."""
        self.open()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self.is_ready:
                    self._changed.clear()
                    await self._changed.wait()
        return self.is_ready

    async def close(self, grace_s: float = 0.0) -> None:
        """Stop watching and close the channel; calls still running after the grace are cancelled."""
        await self.channel.close(grace_s or None)
        watch, self._watch = self._watch, None
        if watch is not None:
            # The closed channel ends it. Cancelled instead, grpc would report its end to a loop that may
            # be gone by then, and a later loop of this process would print that as an error.
            await asyncio.wait({watch}, timeout=_CLOSE_S)
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _keep_watch(self) -> None:
        state = self.channel.get_state(try_to_connect=True)
        while state is not grpc.ChannelConnectivity.SHUTDOWN:
            await self.channel.wait_for_state_change(state)
            if state is grpc.ChannelConnectivity.READY:
                self.epoch += 1
            state = self.channel.get_state(try_to_connect=True)
            self._changed.set()
            for callback in self._on_change:
                callback()
