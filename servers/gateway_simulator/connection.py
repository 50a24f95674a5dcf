"""One API client's connection: handshake, pacing, sending; `requests` answers what it asks."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

import structlog

from gateway_simulator import StateError, WireError, messages, requests
from gateway_simulator.contracts import NO_CONTRACT, ContractQuery, Listing, find
from gateway_simulator.market_data import Subscriptions
from gateway_simulator.orders import (
    OrderCancelled,
    OrderChanged,
    OrderFilled,
    OrderNews,
    OrderRefused,
)
from gateway_simulator.wire import FieldReader, encode, parse_versions, read_frame, split

if TYPE_CHECKING:
    from gateway_simulator.server import Gateway

MAX_MESSAGES_PER_S = 50
MAX_UNSENT_BYTES = 64 << 20
HANDSHAKE_TIMEOUT_S = 10.0
FARM_NOTICES = (
    (2104, "Market data farm connection is OK:usfarm"),
    (2106, "HMDS data farm connection is OK:ushmds"),
    (2158, "Sec-def data farm connection is OK:secdefnj"),
)

log = structlog.get_logger(__name__)


class Connection:
    """A client that is, or wants to be, connected.

    Attributes:
        client_id: -1 before it said who it is.
        version: Negotiated server version.
        subscriptions: Its market data.
        data_type: As asked with reqMarketDataType; 3 and 4 get delayed ticks.
        follows_positions: It asked for position changes.
        follows_account: It asked for account updates.
        summaries: Request id to the tags of its account summaries.
        pnl: Request id to contract id (0: the whole account) of its PnL requests.
    """

    def __init__(self, gateway: Gateway, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.gateway = gateway
        self.client_id = -1
        self.version = 0
        self.subscriptions = Subscriptions()
        self.data_type = 1
        self.follows_positions = False
        self.follows_account = False
        self.summaries: dict[int, frozenset[str]] = {}
        self.pnl: dict[int, int] = {}
        self._reader = reader
        self._writer = writer
        self._times: deque[float] = deque()

    async def run(self) -> None:
        """Serve the client until it leaves."""
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                await self._handshake()
            while True:
                body = await read_frame(self._reader)
                self._dispatch(body, time.monotonic_ns())
                await self._writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            log.info("client left", client_id=self.client_id)
        except WireError as problem:
            log.warning("client dropped", client_id=self.client_id, reason=str(problem))
        except StateError as problem:
            self.gateway.fail(problem)
        finally:
            self.gateway.leave(self)
            self._writer.close()

    def close(self) -> None:
        """Hang up; what was written before still goes out."""
        self._writer.close()

    def send(self, *frames: bytes) -> None:
        """Write frames in one go; a client that does not read is dropped."""
        transport = self._writer.transport
        if transport.is_closing() or not frames:
            return
        self._writer.write(b"".join(frames))
        if transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            log.warning("client dropped", client_id=self.client_id, reason="it does not read what it is sent")
            transport.abort()

    def error(self, request_id: int, code: int, message: str) -> None:
        """Send an error, a warning or a notice."""
        self.send(messages.error(self.version, request_id, code, message))

    def look_up(self, request_id: int, query: ContractQuery) -> Listing | None:
        """Return the one contract a query means; tell the client when there is none or many."""
        found = find(list(self.gateway.listings.values()), query)
        if len(found) == 1:
            return found[0]
        text = NO_CONTRACT if not found else "The contract description specified is ambiguous"
        self.error(request_id, 200, text)
        return None

    def tell(self, news: OrderNews) -> None:
        """Send what happened to an order of this client, in the order the gateway does."""
        gateway = self.gateway
        if isinstance(news, OrderRefused):
            self.error(news.order_id, news.code, news.message)
            return
        order, account = news.order, gateway.account.number
        listing = gateway.listings[order.con_id]
        opened = messages.open_order(self.version, order, listing, account)
        status = messages.order_status(order, gateway.why_held(order))
        if isinstance(news, OrderChanged):
            self.send(opened, status)
        elif isinstance(news, OrderCancelled):
            text = "Order Canceled - reason:" + news.reason
            self.send(status, messages.error(self.version, order.order_id, 202, text))
        elif isinstance(news, OrderFilled):
            execution = messages.execution_details(self.version, -1, news.execution, listing, account)
            cost = messages.commission_report(news.execution, gateway.account.currency)
            self.send(execution, opened, status, cost)

    def start(self, client_id: int) -> None:
        """Take the client's id, and greet it; an id in use is refused with 326."""
        if client_id in self.gateway.connections:
            text = "Unable to connect as the client id is already in use. Retry with a unique client id."
            self.error(-1, 326, text)
            self.close()
            return
        self.client_id = client_id
        self.gateway.connections[client_id] = self
        next_id = self.gateway.exchange.next_id(client_id)
        self.send(encode(15, 1, self.gateway.account.number), encode(9, 1, next_id))
        for code, text in FARM_NOTICES:
            self.error(-1, code, text)
        log.info("client connected", client_id=client_id, version=self.version)

    async def _handshake(self) -> None:
        if await self._reader.readexactly(4) != b"API\0":
            raise WireError("a client did not begin with API\\0")
        low, high = parse_versions((await read_frame(self._reader)).decode(errors="replace"))
        if high < messages.MIN_VERSION or low > messages.MAX_VERSION:
            raise WireError(
                f"a client speaks versions {low} to {high}; this gateway speaks "
                f"{messages.MIN_VERSION} to {messages.MAX_VERSION}"
            )
        self.version = min(high, messages.MAX_VERSION)
        self.send(encode(self.version, messages.utc_text(self.gateway.replay.now_ns)))

    def _dispatch(self, body: bytes, received_ns: int) -> None:
        fields = split(body)
        if self._too_fast():
            return
        try:
            kind = int(fields[0])
            reader = FieldReader(fields)
            reader.skip(1)
            if self.client_id < 0 and kind != requests.START_API:
                raise WireError(f"message {kind} before startApi")
            requests.answer(self, kind, reader, received_ns)
        except (ValueError, WireError) as problem:
            log.warning("bad request", client_id=self.client_id, message=fields[0], problem=str(problem))
            self.error(-1, 320, f"Error reading request: message {fields[0]}: {problem}")

    def _too_fast(self) -> bool:
        if not self.gateway.options.pacing:
            return False
        now = time.monotonic()
        while self._times and now - self._times[0] > 1:
            self._times.popleft()
        self._times.append(now)
        if len(self._times) <= MAX_MESSAGES_PER_S:
            return False
        text = f"Max rate of messages per second has been exceeded:max={MAX_MESSAGES_PER_S} rec={len(self._times)}"
        self.error(-1, 100, text)
        return True
