"""One socket session with the gateway: a client of the library, and the wrapper it calls back.

A session lives from one handshake to one disconnect and is never reused, so nothing stale survives a
reconnect.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import structlog

from strategy.adapters.ibkr_codes import CodeKind
from strategy.adapters.ibkr_library import Library
from strategy.adapters.ibkr_messages import OrderHandler, SessionError, StreamHandler
from strategy.adapters.ibkr_pacer import MessagePacer
from strategy.adapters.ibkr_wrapper import IbkrWrapper

log = structlog.get_logger("ibkr")

OWN_LIBRARY_THROTTLE = 49
"""The library's own throttle stays as a net above our pacer; it must never act."""


class IbkrSession(IbkrWrapper):
    """A session; `start` opens it, `stop` ends it, `closed` is done when it is over.

    Args:
        library: The client library.
        client_id: Fixed id of this strategy at the gateway.
        orders: Receives messages about orders.
        on_code: Called with (kind, code and text) for messages about the connection itself.
        monotonic_ns: Clock of `receive_ns`.
    """

    def __init__(
        self,
        library: Library,
        client_id: int,
        orders: OrderHandler,
        on_code: Callable[[CodeKind, str], None],
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        super().__init__(client_id, orders, on_code, monotonic_ns)
        self.library = library
        self.pacer = MessagePacer(monotonic_ns=monotonic_ns)
        self.throttled = False
        self.client = library.client(self)
        self.client.MaxRequests = OWN_LIBRARY_THROTTLE
        self.client.throttleStart += self._on_throttle_start
        self.client.throttleEnd += self._on_throttle_end
        self.client.apiError += self._on_api_error

    # --- life ------------------------------------------------------------------------------------

    async def start(self, host: str, port: int, timeout_s: float) -> None:
        """Connect and do the handshake.

        Raises:
            SessionError: Not within the timeout, refused, or the client id is taken.
        """
        connecting = asyncio.ensure_future(self.client.connectAsync(host, port, self.client_id, None))
        try:
            await asyncio.wait(
                {connecting, self.closed}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if connecting.done() and not connecting.cancelled() and connecting.exception() is None:
                self.state.accounts = tuple(self.client.getAccounts())
                return
            raise SessionError(self._start_problem(connecting, host, port, timeout_s), self._last_code)
        finally:
            if not connecting.done():
                connecting.cancel()
                await asyncio.wait({connecting}, timeout=1.0)

    def _start_problem(self, connecting: asyncio.Future[Any], host: str, port: int, timeout_s: float) -> str:
        where = f"{host}:{port}"
        if self._last_code:
            return self._last_problem
        error = connecting.exception() if connecting.done() and not connecting.cancelled() else None
        if isinstance(error, OSError):
            return (
                f"nothing answers at {where} ({error.strerror or error}): start IB Gateway, TWS or the simulator, "
                "enable its API socket and check the port (IB Gateway: 4002 paper, 4001 live)"
            )
        if self.closed.done():
            return (
                f"{where} closed the connection before the handshake was over: allow this machine in the "
                "gateway's trusted IPs and check that it is an IB Gateway that listens there"
            )
        return (
            f"{where} did not finish the handshake within {timeout_s:g} s: log in to the gateway, close its "
            "dialogs, and check that it is an IB Gateway that listens there"
        )

    async def stop(self) -> None:
        """Disconnect; the session can't be used afterwards."""
        self.client.disconnect()
        if self.client.conn.isConnected():
            await asyncio.wait({self.closed}, timeout=1.0)
        self._finish("closed by us")

    @property
    def usable(self) -> bool:
        """Whether messages can be sent."""
        return bool(self.client.isReady()) and not self.closed.done()

    @property
    def writes_at_once(self) -> bool:
        """Whether a message would go to the socket now, not into a queue of the library or of asyncio."""
        transport = self.client.conn.transport
        return not self.throttled and transport is not None and transport.get_write_buffer_size() == 0

    def sent_count(self) -> int:
        """Return how many messages were handed to the socket."""
        return int(self.client.conn.numMsgSent)

    # --- requests --------------------------------------------------------------------------------

    async def ask(self, key: int | str, send: Callable[[], None], timeout_s: float) -> list[Any]:
        """Send a request in turn and return everything that answers it.

        Raises:
            SessionError: The gateway refused it, went away, or did not answer in time.
        """
        if key in self._requests:
            raise SessionError(f"request {key} is already under way")
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._requests[key] = answer
        self._results[key] = []
        try:
            async with asyncio.timeout(timeout_s):
                await self.pacer.take()
                if not self.usable:
                    raise SessionError("the connection to the gateway is closed")
                send()
                return await answer
        except TimeoutError:
            raise SessionError(
                f"the gateway did not answer the request for {key} within {timeout_s:g} s"
            ) from None
        finally:
            self._requests.pop(key, None)
            self._results.pop(key, None)
            if answer.done() and not answer.cancelled():
                answer.exception()

    async def subscribe(self, handler: StreamHandler, send: Callable[[int], None]) -> int:
        """Send a market data request in turn; return its id."""
        await self.pacer.take()
        if not self.usable:
            raise SessionError("the connection to the gateway is closed")
        request_id = int(self.client.getReqId())
        self.streams[request_id] = handler
        send(request_id)
        return request_id

    async def gather(self, *requests: Awaitable[list[Any]]) -> list[list[Any]]:
        """Wait for all requests; raise the first failure when all are done."""
        answers = await asyncio.gather(*requests, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return cast(list[list[Any]], answers)

    def _on_throttle_start(self) -> None:
        self.throttled = True
        log.error("the client library throttles messages: the pacer should have prevented it")

    def _on_throttle_end(self) -> None:
        self.throttled = False

    def _on_api_error(self, message: str) -> None:
        if not self._last_code:
            self._last_problem = f"the connection to the gateway broke ({message.rstrip('.')})"
