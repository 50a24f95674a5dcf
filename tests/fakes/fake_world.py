"""The engine's outside world in memory: a broker that fills, a feed that is driven, a journal that keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np

from journal.errors import JournalError
from journal.rows import OrderIntentRow, Row
from market.events import Bar, Instrument, Quote
from strategy.adapters.errors import BrokerError
from strategy.core.values import (
    Account,
    Commission,
    Fill,
    Neighbor,
    OrderEvent,
    OrderIntent,
    Position,
    Probabilities,
    Purpose,
    Side,
    WorkingOrder,
)
from strategy.ports import (
    BrokerListener,
    BrokerSnapshot,
    ConnectionState,
    FeedListener,
    Forecast,
    ForecastReply,
    ForecastRequest,
    VoterInfo,
)
from tradeserve_client.answers import Answer, CallRecord, NoAnswer, Outcome, Reason

BAR_S = 300
BAR_NS = BAR_S * 1_000_000_000
START_NS = 1_700_000_100_000_000_000 // BAR_NS * BAR_NS
ACME = Instrument(1, "ACME")


class FakeClock:
    """A clock that moves only when told."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return START_NS + self.now_ns


class MemoryJournal:
    """Keeps rows; can be made to fail where durability is asked for."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.durable: list[Row] = []
        self.disk_full = False
        self.on_durable: Callable[[], None] = lambda: None

    def record(self, row: Row) -> None:
        self.rows.append(row)

    async def record_durably(self, row: Row) -> None:
        await asyncio.sleep(0)
        if self.disk_full:
            raise JournalError("the spool's disk is full; free some space")
        self.durable.append(row)
        self.on_durable()

    def of(self, kind: type[Row]) -> list[Row]:
        return [row for row in self.rows + self.durable if isinstance(row, kind)]


@dataclass
class FakeBroker:
    """Fills entries at their limit at once, unless told otherwise; cancels when asked."""

    journal: MemoryJournal
    fill_entries: bool = True
    confirm_cancels: bool = True
    refuse: str = ""
    placed: list[OrderIntent] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    cancel_alls: int = 0
    price: Decimal = Decimal(100)
    snapshot: BrokerSnapshot = field(
        default_factory=lambda: BrokerSnapshot(
            (), (), (), (), Account(100_000.0, 100_000.0, 100_000.0, "USD")
        )
    )
    state: ConnectionState = ConnectionState.CONNECTING
    _listener: BrokerListener | None = None
    _working: dict[str, tuple[OrderIntent, str]] = field(default_factory=dict)
    _execs: int = 0

    @property
    def listener(self) -> BrokerListener:
        assert self._listener is not None
        return self._listener

    async def connect(self, listener: BrokerListener) -> None:
        self._listener = listener
        listener.on_reconciled(self.snapshot)
        self.become(ConnectionState.READY, "")

    def become(self, state: ConnectionState, reason: str) -> None:
        self.state = state
        self.listener.on_connection(state, reason)

    def place(self, intent: OrderIntent) -> int:
        recorded = [row.intent_id for row in self.journal.durable if isinstance(row, OrderIntentRow)]
        assert intent.intent_id in recorded, "an order was sent without its intent recorded"
        if self.refuse:
            raise BrokerError(self.refuse)
        self.placed.append(intent)
        for ref, exists in (
            (intent.entry_ref, True),
            (intent.stop_ref, intent.stop_price is not None),
            (intent.take_profit_ref, intent.take_profit_price is not None),
        ):
            if exists:
                self._working[ref] = (intent, ref[-1])
                self._tell(ref, intent, "Submitted", Decimal(0), intent.quantity)
        if self.fill_entries or intent.purpose is not Purpose.ENTRY:
            self.fill(intent.entry_ref)
        return 0

    def fill(self, ref: str) -> None:
        """Fill one working order completely, as the gateway tells it: execution, status, commission."""
        intent, leg = self._working.pop(ref)
        opposite = Side.SELL if intent.side is Side.BUY else Side.BUY
        side = intent.side if leg == "E" else opposite
        price = (
            {"S": intent.stop_price, "T": intent.take_profit_price}.get(leg)
            or intent.limit_price
            or self.price
        )
        self._execs += 1
        exec_id = f"exec-{self._execs}"
        self.listener.on_fill(
            Fill(exec_id, ref, 1, intent.con_id, intent.symbol, side, intent.quantity, price, START_NS)
        )
        self._tell(ref, intent, "Filled", intent.quantity, Decimal(0))
        self.listener.on_commission(Commission(exec_id, Decimal(1), "USD", None))
        if leg in "ST":
            self.cancel(intent.stop_ref if leg == "T" else intent.take_profit_ref)

    def cancel(self, order_ref: str) -> bool:
        if order_ref not in self._working:
            return False
        self.cancelled.append(order_ref)
        if self.confirm_cancels:
            intent, _ = self._working.pop(order_ref)
            self._tell(order_ref, intent, "Cancelled", Decimal(0), intent.quantity)
        return True

    def cancel_all(self) -> int:
        self.cancel_alls += 1
        refs = list(self._working)
        for ref in refs:
            self.cancel(ref)
        return len(refs)

    def working(self) -> Sequence[str]:
        return list(self._working)

    def _tell(self, ref: str, intent: OrderIntent, status: str, filled: Decimal, remaining: Decimal) -> None:
        self.listener.on_order(OrderEvent(ref, 1, 1, intent.con_id, status, filled, remaining, 0.0, START_NS))

    async def close(self) -> None:
        self.state = ConnectionState.DISCONNECTED


@dataclass
class FakeFeed:
    """Gives history and hands over the listener."""

    clock: FakeClock
    history_bars: int = 60
    sessions: Sequence[tuple[int, int]] = ()
    level: float = 100.0
    _listener: FeedListener | None = None
    _next: int = 0

    @property
    def listener(self) -> FeedListener:
        assert self._listener is not None
        return self._listener

    async def resolve(self, symbols: Sequence[str]) -> Sequence[Instrument]:
        assert list(symbols) == [ACME.symbol]
        return [ACME]

    async def subscribe(
        self, instruments: Sequence[Instrument], listener: FeedListener
    ) -> Mapping[int, Sequence[Bar]]:
        self._listener = listener
        return {ACME.con_id: [self._bar(receive_ns=0) for _ in range(self.history_bars)]}

    def trading_hours(self, con_id: int) -> Sequence[tuple[int, int]]:
        return self.sessions

    async def close(self) -> None:
        return None

    def quote(self, bid: float = 99.99, ask: float = 100.01) -> None:
        self.listener.on_quote(Quote(ACME.con_id, START_NS, bid, 100, ask, 100, self.clock.now_ns))

    def bar(self, *, old: bool = False) -> Bar:
        bar = self._bar(receive_ns=0 if old else self.clock.now_ns)
        self.listener.on_bar(bar)
        return bar

    def _bar(self, receive_ns: int) -> Bar:
        start_ns = START_NS + self._next * BAR_NS
        close = self.level + 0.2 * np.sin(self._next)
        self._next += 1
        return Bar(
            ACME.con_id,
            start_ns,
            start_ns + BAR_NS,
            self.level,
            max(self.level, close) + 0.1,
            min(self.level, close) - 0.1,
            close,
            1000,
            receive_ns,
        )


@dataclass
class FakeForecaster:
    """Answers what it is told, after moving the clock by what it is told."""

    clock: FakeClock
    probabilities: Probabilities = field(default_factory=lambda: Probabilities(0.2, 0.2, 0.6))
    missing: dict[str, Reason] = field(default_factory=dict)
    takes_ns: int = 5_000_000
    requests: list[ForecastRequest] = field(default_factory=list)
    gate: asyncio.Event | None = None

    async def start(self) -> Sequence[VoterInfo]:
        return [VoterInfo(name, "fake") for name in ("gaf_resnet", "lstm_cnn")]

    async def forecast(self, request: ForecastRequest) -> ForecastReply:
        self.requests.append(request)
        if self.gate is not None:
            await self.gate.wait()
        self.clock.now_ns += self.takes_ns
        forecasts: dict[str, Outcome[Forecast]] = {}
        for name in ("gaf_resnet", "lstm_cnn"):
            call = CallRecord(
                name, f"id-{name}", request.start_ns, request.start_ns + 15_000_000, self.clock.now_ns
            )
            if name in self.missing:
                forecasts[name] = NoAnswer(self.missing[name], "told so", call)
            else:
                forecasts[name] = Answer(Forecast(self.probabilities), call)
        call = CallRecord(
            "similarity", "id-similarity", request.start_ns, request.start_ns + 1, self.clock.now_ns
        )
        neighbors: Outcome[Sequence[Neighbor]] = NoAnswer(Reason.DOWN, "told so", call)
        return ForecastReply(forecasts, neighbors)

    async def close(self) -> None:
        return None


def working_order(ref: str, side: Side, quantity: int, stop_price: float = 0.0) -> WorkingOrder:
    """Return an order as a gateway reports it after a reconnect."""
    amount = Decimal(quantity)
    return WorkingOrder(ref, 1, 1, ACME.con_id, side, "STP", amount, Decimal(0), 0.0, stop_price, "Submitted")


def position(quantity: int, price: float = 100.0) -> Position:
    """Return a position in ACME."""
    return Position(ACME.con_id, ACME.symbol, Decimal(quantity), price)
