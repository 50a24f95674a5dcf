"""The IBKR adapter on the gateway simulator, in one loop, and a listener that remembers everything."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from typing import Any

from gateway_simulator.faults import Fault
from gateway_simulator.generated import generate
from gateway_simulator.server import Gateway, Options
from gateway_simulator.session import Session
from market.events import Bar, BookSnapshot, Instrument, Quote, Trade
from strategy.adapters.ibkr_broker import IbkrBroker
from strategy.adapters.ibkr_connection import IbkrConnection
from strategy.adapters.ibkr_feed import IbkrFeed
from strategy.core.values import Account, Commission, Fill, OrderEvent, OrderIntent, Position, Purpose, Side
from strategy.ports import BrokerSnapshot, ConnectionState

HOST = "127.0.0.1"
CLIENT_ID = 7
BAR_SIZE_S = 60
HISTORY_BARS = 30


@cache
def session(symbols: tuple[str, ...] = ("AAPL",)) -> Session:
    return generate(symbols, bar_size_s=BAR_SIZE_S, seed=11)


class Recorder:
    """Listens to feed and broker."""

    def __init__(self) -> None:
        self.bars: list[Bar] = []
        self.quotes: list[Quote] = []
        self.trades: list[Trade] = []
        self.books: list[BookSnapshot] = []
        self.data_types: list[tuple[int, bool]] = []
        self.halts: list[tuple[int, bool]] = []
        self.connections: list[tuple[ConnectionState, str]] = []
        self.snapshots: list[BrokerSnapshot] = []
        self.orders: list[OrderEvent] = []
        self.fills: list[Fill] = []
        self.commissions: list[Commission] = []
        self.positions: list[Position] = []
        self.accounts: list[Account] = []
        self.log: list[str] = []

    def on_bar(self, bar: Bar) -> None:
        self.bars.append(bar)

    def on_quote(self, quote: Quote) -> None:
        self.quotes.append(quote)

    def on_trade(self, trade: Trade) -> None:
        self.trades.append(trade)

    def on_book(self, book: BookSnapshot) -> None:
        self.books.append(book)

    def on_data_type(self, con_id: int, live: bool) -> None:
        self.data_types.append((con_id, live))

    def on_halt(self, con_id: int, halted: bool) -> None:
        self.halts.append((con_id, halted))

    def on_connection(self, state: ConnectionState, reason: str) -> None:
        self.connections.append((state, reason))
        self.log.append(state.value)

    def on_reconciled(self, snapshot: BrokerSnapshot) -> None:
        self.snapshots.append(snapshot)
        self.log.append("snapshot")

    def on_order(self, event: OrderEvent) -> None:
        self.orders.append(event)

    def on_fill(self, fill: Fill) -> None:
        self.fills.append(fill)
        self.log.append("fill")

    def on_commission(self, commission: Commission) -> None:
        self.commissions.append(commission)

    def on_position(self, position: Position) -> None:
        self.positions.append(position)

    def on_account(self, account: Account) -> None:
        self.accounts.append(account)

    def status(self, order_ref: str) -> str:
        return next((event.status for event in reversed(self.orders) if event.order_ref == order_ref), "")

    def ready_count(self) -> int:
        return sum(state is ConnectionState.READY for state, _ in self.connections)

    def starts(self, con_id: int) -> list[int]:
        return [bar.start_ns for bar in self.bars if bar.con_id == con_id]


class World:
    """A gateway and an adapter, on one loop.

    Attributes:
        port: Where the gateway listens, also after a restart.
    """

    def __init__(
        self, speed: float, faults: Sequence[Fault] = (), symbols: tuple[str, ...] = ("AAPL",)
    ) -> None:
        self.symbols = symbols
        self.options = Options(speed=speed, faults=tuple(faults))
        self.recorder = Recorder()
        self.port = 0
        self.gateway: Gateway | None = None
        self._adapters: list[IbkrConnection] = []
        self._feeds: list[IbkrFeed] = []

    async def __aenter__(self) -> World:
        await self.start_gateway()
        self.connection = self.new_connection()
        self.broker = IbkrBroker(self.connection)
        self.feed = self.new_feed()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for feed in self._feeds:
            await feed.close()
        for connection in self._adapters:
            await connection.close()
        await self.stop_gateway()

    async def start_gateway(self) -> None:
        self.gateway = Gateway(session(self.symbols), self.options)
        address = await self.gateway.start(HOST, self.port)
        self.port = int(address.rsplit(":", 1)[1])

    async def stop_gateway(self) -> None:
        gateway, self.gateway = self.gateway, None
        if gateway is not None:
            await gateway.stop()

    def new_connection(self, client_id: int = CLIENT_ID, **changes: Any) -> IbkrConnection:
        settings = {"connect_timeout_s": 5.0, "first_backoff_s": 0.05, "max_backoff_s": 0.2, **changes}
        connection = IbkrConnection(HOST, self.port, client_id, **settings)
        self._adapters.append(connection)
        return connection

    def new_feed(self, **changes: Any) -> IbkrFeed:
        feed = IbkrFeed(self.connection, BAR_SIZE_S, HISTORY_BARS, **changes)
        self._feeds.append(feed)
        return feed

    async def start(self, *symbols: str) -> list[Instrument]:
        """Connect, resolve and subscribe to symbols; without any the replay stands still."""
        await self.broker.connect(self.recorder)
        instruments = list(await self.feed.resolve(symbols or self.symbols))
        if symbols:
            self.history = await self.feed.subscribe(instruments, self.recorder)
        return instruments

    def server_side(self) -> Any:
        """The gateway's end of our connection."""
        assert self.gateway is not None
        return self.gateway.connections[CLIENT_ID]

    def drop(self) -> None:
        """Hang up on us."""
        self.server_side().close()


def intent(instrument: Instrument, side: Side, quantity: int, **changes: Any) -> OrderIntent:
    """An order without a bracket; give it a stop and purpose ENTRY for one with."""
    values: dict[str, Any] = {
        "intent_id": uuid.uuid4().hex,
        "decision_id": "d",
        "con_id": instrument.con_id,
        "symbol": instrument.symbol,
        "side": side,
        "purpose": Purpose.EXIT,
        "quantity": Decimal(quantity),
        "limit_price": None,
        "stop_price": None,
        "take_profit_price": None,
        "created_ns": 1,
    }
    return OrderIntent(**{**values, **changes})


def price(value: float) -> Decimal:
    """A price on the grid of a stock."""
    return Decimal(str(round(value, 2)))
