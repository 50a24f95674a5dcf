"""What the engine needs from the outside world, as Protocols; adapters implement them.

Everything runs on one asyncio loop. Market and broker events are delivered synchronously to the
engine's listener methods, in the order they came off the socket; a listener must not block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from journal.rows import Row
from market.events import Bar, BookSnapshot, Instrument, Quote, Trade
from strategy.core.values import (
    Account,
    Commission,
    Fill,
    Neighbor,
    OrderEvent,
    OrderIntent,
    Position,
    Probabilities,
    WorkingOrder,
)
from tradeserve_client.answers import Attempt, Outcome
from tradeserve_client.chart_reading import ChartQuery, ChartReading


class Clock(Protocol):
    """Time. The only place the strategy gets it from."""

    def monotonic_ns(self) -> int:
        """Return a clock that never steps; latencies and deadlines are on it."""

    def wall_ns(self) -> int:
        """Return nanoseconds since the epoch, UTC."""


# --- market data ---------------------------------------------------------------------------------


class FeedListener(Protocol):
    """Receives market data."""

    def on_bar(self, bar: Bar) -> None:
        """A bar closed; `bar.receive_ns` is when the message that closed it came off the socket."""

    def on_quote(self, quote: Quote) -> None:
        """Best bid or ask changed."""

    def on_trade(self, trade: Trade) -> None:
        """A print came."""

    def on_book(self, book: BookSnapshot) -> None:
        """The order book changed."""

    def on_data_type(self, con_id: int, live: bool) -> None:
        """The gateway switched an instrument between live and delayed or frozen data."""

    def on_halt(self, con_id: int, halted: bool) -> None:
        """Trading in an instrument was halted or resumed."""


class MarketFeed(Protocol):
    """Streams market data for instruments; resubscribes by itself after a reconnect."""

    async def resolve(self, symbols: Sequence[str]) -> Sequence[Instrument]:
        """Look the symbols up at the broker.

        Raises:
            FeedError: A symbol is unknown or ambiguous; the message names it.
        """

    async def subscribe(
        self, instruments: Sequence[Instrument], listener: FeedListener
    ) -> Mapping[int, Sequence[Bar]]:
        """Subscribe to bars, quotes and depth; return the closed bars of the past by con_id."""

    def trading_hours(self, con_id: int) -> Sequence[tuple[int, int]]:
        """Return the sessions (start_ns, end_ns) the broker announced; empty when unknown."""

    async def close(self) -> None:
        """Unsubscribe from everything."""


# --- broker --------------------------------------------------------------------------------------


class ConnectionState(StrEnum):
    """Where the connection to the broker stands; orders go out only when READY."""

    CONNECTING = "connecting"
    RECONCILING = "reconciling"
    READY = "ready"
    DISCONNECTED = "disconnected"


@dataclass(frozen=True, slots=True)
class BrokerSnapshot:
    """What the broker said after a (re)connect: the truth that the strategy reconciles with."""

    positions: Sequence[Position]
    working_orders: Sequence[WorkingOrder]
    fills: Sequence[Fill]
    commissions: Sequence[Commission]
    account: Account


class BrokerListener(Protocol):
    """Receives what the broker reports."""

    def on_connection(self, state: ConnectionState, reason: str) -> None:
        """The connection changed; `reason` says why in words (code and text of the gateway)."""

    def on_reconciled(self, snapshot: BrokerSnapshot) -> None:
        """Positions, open orders and executions have all arrived after a (re)connect."""

    def on_order(self, event: OrderEvent) -> None:
        """An order changed."""

    def on_fill(self, fill: Fill) -> None:
        """An execution came (also once for each that happened while away)."""

    def on_commission(self, commission: Commission) -> None:
        """The cost of an execution came."""

    def on_position(self, position: Position) -> None:
        """The broker reports a position."""

    def on_account(self, account: Account) -> None:
        """Account figures changed."""


class Broker(Protocol):
    """Sends orders. Never resends one by itself."""

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands."""

    async def connect(self, listener: BrokerListener) -> None:
        """Connect and reconcile; afterwards reconnect by itself until close().

        Raises:
            BrokerError: No connection within the connect timeout; the message says what to do.
        """

    def place(self, intent: OrderIntent) -> int:
        """Write the order, or the bracket, to the socket at once.

        Returns:
            Monotonic time when the last of its messages was handed to the socket.

        Raises:
            BrokerError: Not READY, or the library refused the order; nothing was sent.
        """

    def cancel(self, order_ref: str) -> bool:
        """Ask to cancel one working order; False when it is unknown or done, or nobody can be asked now."""

    def cancel_all(self) -> int:
        """Ask to cancel every working order of this account; return how many are known.

        While nobody can be asked the wish is kept, and sent as soon as the connection is back.
        """

    async def close(self) -> None:
        """Disconnect for good."""


# --- forecasts -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one model says about a window.

    Attributes:
        probabilities: Of the close over the model's horizon.
        embedding: (dimension,) float32, L2-normalised; None when the model has none.
    """

    probabilities: Probabilities
    embedding: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class ForecastRequest:
    """One question to all services.

    Attributes:
        decision_id: UUIDv7 of the decision.
        con_id: Instrument.
        window: (window_bars, 5) float32: open, high, low, close, volume; oldest first.
        event_ns: End of the last bar; neighbours must have been known before it.
        start_ns: Monotonic begin of the budget (the bar came off the socket).
    """

    decision_id: str
    con_id: int
    window: NDArray[np.float32]
    event_ns: int
    start_ns: int


@dataclass(frozen=True, slots=True)
class ForecastReply:
    """Everything that came back in time, and the reason for everything that did not.

    `attempts` has, by service, where its call was sent, in order; only for those that several servers provide,
    and empty for one that was to be sent and could not be.
    """

    forecasts: Mapping[str, Outcome[Forecast]]
    neighbors: Outcome[Sequence[Neighbor]]
    attempts: Mapping[str, Sequence[Attempt]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VoterInfo:
    """What the strategy knows about a voter from its model card and the server.

    Attributes:
        name: Model name, equal to the voter's name in the configuration.
        target: Where it is served; several separated by commas.
        version: Version served.
        artifact_sha256: Hex digest.
        demonstrated_skill: What the card says; False is shown on the screen and in the report.
        statement: The card's words on skill.
        problem: Why it is not called (contract mismatch, down); "" when fine.
    """

    name: str
    target: str
    version: int = 0
    artifact_sha256: str = ""
    demonstrated_skill: bool = False
    statement: str = ""
    problem: str = ""


@dataclass(slots=True)
class LateAnswer:
    """An answer that came after its deadline: journalled, never used."""

    decision_id: str
    service: str
    request_id: str
    late_ns: int
    detail: str = field(default="")


class Forecaster(Protocol):
    """Asks every service in parallel, each within its share of the budget."""

    async def start(self) -> Sequence[VoterInfo]:
        """Connect, check contracts, warm up; a service that is away is reported, not fatal.

        Raises:
            ContractError: A server is there and serves something else than the strategy was
                tested with; the message spells the difference out.
        """

    async def forecast(self, request: ForecastRequest) -> ForecastReply:
        """Ask; return by the end of the forecast share of the budget whatever happened."""

    async def close(self) -> None:
        """Close the channels."""


@dataclass(frozen=True, slots=True)
class ShadowVersion:
    """A version of a voter's model that is tried: asked after the decisions, recorded, never used.

    Attributes:
        voter: In whose place it would vote.
        version: Its number.
        artifact_sha256: Hex digest; "" when the server does not say.
    """

    voter: str
    version: int
    artifact_sha256: str = ""


class ShadowForecaster(Protocol):
    """Asks versions that are tried, over a connection and within limits of their own."""

    @property
    def versions(self) -> Sequence[ShadowVersion]:
        """Those announced now that fit what the strategy expects of the voter."""

    async def ask(self, shadow: ShadowVersion, request: ForecastRequest) -> Outcome[Forecast]:
        """Ask one what its voter was asked; return by a deadline of its own, which begins now."""


class ChartReader(Protocol):
    """Has charts read, over a connection and within limits of its own."""

    async def read(self, query: ChartQuery) -> Outcome[ChartReading]:
        """Ask; return by a deadline of its own, which begins now."""


# --- journal -------------------------------------------------------------------------------------


class Journal(Protocol):
    """Records rows off the decision path."""

    def record(self, row: Row) -> None:
        """Take a row; never blocks and never raises for load."""

    async def record_durably(self, row: Row) -> None:
        """Return once the row survives a crash of this machine.

        Raises:
            JournalError: It could not be made durable; what depends on it must not happen.
        """
