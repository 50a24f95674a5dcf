"""A stream of messages in both directions, over either transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import grpc.aio


class MessageStream(Protocol):
    """One open stream. Messages are bytes; those that arrive go to the callback it was opened with."""

    async def connected(self) -> None:
        """Wait until messages can be sent, or it ended."""

    async def finished(self) -> None:
        """Wait for its end, once.

        Raises:
            grpc.aio.AioRpcError: It ended with anything but OK.
            asyncio.CancelledError: It was cancelled.
        """

    def send(self, body: bytes) -> None:
        """Send a message; does not wait."""

    def cancel(self) -> object:
        """End it now."""


class GrpcStream:
    """A MessageStream of grpc.aio."""

    def __init__(
        self, channel: grpc.aio.Channel, path: str, on_message: Callable[[bytes], None], max_unsent: int
    ) -> None:
        # One place more than messages: for the end mark.
        self._outbox: asyncio.Queue[bytes | None] = asyncio.Queue(max_unsent + 1)
        self._on_message = on_message
        # Waits for the connection instead of failing: the channel does the reconnecting.
        self._call: Any = channel.stream_stream(path)(self._drain(), wait_for_ready=True)

    async def connected(self) -> None:
        """Wait for the connection."""
        await self._call.wait_for_connection()

    async def finished(self) -> None:
        """Hand messages on until the end."""
        async for body in self._call:
            self._on_message(body)

    def send(self, body: bytes) -> None:
        """Send a message; there are as many places as messages may be under way."""
        self._outbox.put_nowait(body)

    def cancel(self) -> None:
        """End it now."""
        self._call.cancel()
        if not self._outbox.full():
            self._outbox.put_nowait(None)  # grpc leaves its writer waiting when a call ends by itself

    async def _drain(self) -> AsyncIterator[bytes]:
        while (body := await self._outbox.get()) is not None:
            yield body
