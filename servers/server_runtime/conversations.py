"""Answer the requests of a stream as they come, however long the answers to earlier ones take.

A request that waits unread in the transport would look young when it is read, and could not be refused.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

Request = TypeVar("Request")
Response = TypeVar("Response")

# Responses that the peer has not taken yet; beyond it no more requests are read, and the transport's own flow
# control holds the peer.
MAX_UNSENT = 256


class Conversation(Generic[Request, Response]):
    """The requests and responses of one stream.

    `begin` is called with each request; it calls the `send` that it is given once, now or later.
    """

    def __init__(self, begin: Callable[[Request, Callable[[Response], None]], None]) -> None:
        self._begin = begin
        self._outbox: asyncio.Queue[Response | None] = asyncio.Queue()
        self._unsent = 0
        self._room = asyncio.Event()
        self._ended = False

    async def responses(self, requests: AsyncIterator[Request]) -> AsyncIterator[Response]:
        """Yield the responses until the requests have ended and all are answered.

        Raises:
            Exception: What reading the requests raised, after the answers to those before.
        """
        reader = asyncio.ensure_future(self._read(requests))
        try:
            while (response := await self._outbox.get()) is not None:
                yield response
                self._unsent -= 1
                self._room.set()
                if self._ended and not self._unsent:
                    break
            await reader
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reader

    async def _read(self, requests: AsyncIterator[Request]) -> None:
        try:
            async for request in requests:
                self._unsent += 1
                self._begin(request, self._outbox.put_nowait)
                while self._unsent >= MAX_UNSENT:
                    self._room.clear()
                    await self._room.wait()
        finally:
            self._ended = True
            if not self._unsent:
                self._outbox.put_nowait(None)
