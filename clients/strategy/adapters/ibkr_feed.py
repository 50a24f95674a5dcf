"""Market data from Interactive Brokers: `ports.MarketFeed` over an `IbkrConnection`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import time_ns
from typing import Any

import structlog

from market.events import Bar, Instrument
from strategy.adapters.errors import BrokerError, FeedError
from strategy.adapters.ibkr_bars import BarStream, RealtimeBarStream
from strategy.adapters.ibkr_connection import IbkrConnection
from strategy.adapters.ibkr_messages import SessionError
from strategy.adapters.ibkr_parsing import (
    DAY_S,
    NS_PER_S,
    contract_fields,
    parse_hours,
    parse_instrument,
)
from strategy.adapters.ibkr_requests import StreamRequests
from strategy.adapters.ibkr_session import IbkrSession
from strategy.adapters.ibkr_streams import DepthStream, ExchangeClock, FeedTime, QuoteStream, Stream
from strategy.ports import BrokerSnapshot, ConnectionState, FeedListener

log = structlog.get_logger("ibkr")

BAR_SOURCES = ("historical", "realtime")

_CHECK_EVERY_S = 0.25
_FIRST_RETRY_S = 2.0
_MAX_RETRY_S = 60.0
_MAX_PATIENCE_DOUBLINGS = 6


class IbkrFeed:
    """Streams bars, quotes, prints and books; asks again by itself for whatever went silent.

    Args:
        connection: Shared with the broker.
        bar_size_s: Length of the bars, one of `ibkr_parsing.BAR_SIZE_SETTINGS`.
        history_bars: Closed bars of the past to return, > 0.
        depth_rows: Rows of the book per side; 0 for no book.
        quotes: Whether to subscribe to quotes and prints.
        bar_source: "historical" for historical data kept up to date, "realtime" for 5-second bars.
        regular_hours_only: Whether bars are of regular trading hours only.
        exchange: Where stocks are routed and their data come from.
        currency: Of stocks.
        stale_after_s: Silence, in trading hours, after which a subscription is asked for again;
            for bars the bar size is added.
        request_timeout_s: How long to wait for contract details and for history.
        wall_ns: Clock of exchange time at a live gateway.
    """

    def __init__(
        self,
        connection: IbkrConnection,
        bar_size_s: int,
        history_bars: int,
        *,
        depth_rows: int = 10,
        quotes: bool = True,
        bar_source: str = "historical",
        regular_hours_only: bool = True,
        exchange: str = "SMART",
        currency: str = "USD",
        stale_after_s: float = 60.0,
        request_timeout_s: float = 30.0,
        wall_ns: Callable[[], int] = time_ns,
    ) -> None:
        try:
            self._requests = StreamRequests(
                connection, bar_size_s, history_bars, regular_hours_only, self._contract_of
            )
        except ValueError as e:
            raise FeedError(str(e)) from e
        if bar_source not in BAR_SOURCES:
            raise FeedError(f"bar_source is {bar_source!r}; use one of {', '.join(BAR_SOURCES)}")
        if bar_source == "realtime" and (bar_size_s % 5 or bar_size_s >= DAY_S):
            raise FeedError(f"bar_size_s is {bar_size_s}; 5-second bars build multiples of 5 below a day")
        self._connection = connection
        self._bar_size_s = bar_size_s
        self._history_bars = history_bars
        self._depth_rows = depth_rows
        self._with_quotes = quotes
        self._bar_source = bar_source
        self._exchange, self._currency = exchange, currency
        self._stale_after_s = stale_after_s
        self._request_timeout_s = request_timeout_s
        self._clock = ExchangeClock(wall_ns)
        self._time = FeedTime(self._receive_ns, self._clock.now_ns, self._clock.observe)
        self._instruments: dict[int, Instrument] = {}
        self._hours: dict[int, tuple[tuple[int, int], ...]] = {}
        self._streams: list[Stream] = []
        self._wake = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    # --- ports.MarketFeed --------------------------------------------------------------------------

    async def resolve(self, symbols: Sequence[str]) -> Sequence[Instrument]:
        """Look the symbols up at the broker: "AAPL" is a US stock, "EUR.USD" a currency pair.

        Raises:
            FeedError: A symbol is unknown or ambiguous, or there is no connection.
        """
        try:
            await self._connection.open()
        except BrokerError as e:
            raise FeedError(str(e)) from e
        self._connection.observe(self)
        session = self._session()
        found = await asyncio.gather(*(self._resolve(session, s) for s in symbols), return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException):
                raise one
        await self._ask_time(session)
        return [one for one in found if isinstance(one, Instrument)]

    async def subscribe(
        self, instruments: Sequence[Instrument], listener: FeedListener
    ) -> Mapping[int, Sequence[Bar]]:
        """Subscribe to bars, quotes and depth; return the closed bars of the past by con_id.

        Raises:
            FeedError: History was refused or did not come in time; the message names the symbol.
        """
        if unknown := [i.symbol for i in instruments if i.con_id not in self._instruments]:
            raise FeedError(f"{', '.join(unknown)}: resolve the symbol before subscribing to it")
        self._connection.observe(self)
        bars = [self._bar_stream(i, listener) for i in instruments]
        streams: list[Stream] = list(bars)
        if self._with_quotes:
            streams += [QuoteStream(i, listener, self._time) for i in instruments]
        if self._depth_rows:
            streams += [DepthStream(i, listener, self._time, self._depth_rows) for i in instruments]
        for stream in streams:
            stream.on_problem = self._on_problem
        self._streams += streams
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="ibkr feed")
        self._wake.set()
        try:
            await self._wait_for_history(bars)
        except BaseException:
            self._streams = [s for s in self._streams if s not in streams]
            raise
        for stream in bars:
            stream.holding = False
        return {stream.instrument.con_id: tuple(stream.history) for stream in bars}

    def trading_hours(self, con_id: int) -> Sequence[tuple[int, int]]:
        """Return the sessions (start_ns, end_ns) the broker announced; empty when unknown."""
        return self._hours.get(con_id, ())

    async def close(self) -> None:
        """Unsubscribe from everything."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait({keeper})
        streams, self._streams = self._streams, []
        session = self._connection.session
        for stream in streams:
            if session is not None and session.usable and session.pacer.try_take(1):
                self._requests.cancel(session, stream)

    # --- resolving ---------------------------------------------------------------------------------

    async def _resolve(self, session: IbkrSession, symbol: str) -> Instrument:
        try:
            fields = contract_fields(symbol, self._exchange, self._currency)
            wanted = session.library.contract(**fields)
            request_id = int(session.client.getReqId())
            details = await session.ask(
                request_id,
                lambda: session.client.reqContractDetails(request_id, wanted),
                self._request_timeout_s,
            )
            by_id = {int(d.contract.conId): d for d in details}
            if len(by_id) != 1:
                found = ", ".join(f"{i} at {d.contract.primaryExchange}" for i, d in by_id.items())
                raise FeedError(
                    f"symbol {symbol}: {f'ambiguous: {found}' if by_id else 'the broker does not know it'}"
                )
            instrument = parse_instrument(symbol, next(iter(by_id.values())))
        except (SessionError, ValueError, ConnectionError) as e:
            raise FeedError(f"symbol {symbol}: {e}") from e
        details_of = by_id[instrument.con_id]
        try:
            self._hours[instrument.con_id] = parse_hours(details_of.liquidHours, details_of.timeZoneId)
        except ValueError as e:
            log.warning("trading hours unknown", symbol=symbol, problem=str(e))
        self._instruments[instrument.con_id] = instrument
        self._connection.contracts[instrument.con_id] = session.library.contract(
            conId=instrument.con_id, **fields
        )
        return instrument

    async def _ask_time(self, session: IbkrSession) -> None:
        try:
            answer = await session.ask("currentTime", session.client.reqCurrentTime, self._request_timeout_s)
        except SessionError as e:
            log.warning("the gateway does not tell its time", problem=str(e))
            return
        if answer:
            self._clock.set_gateway_time(int(answer[0]))

    def _contract_of(self, con_id: int) -> Any:
        return self._connection.contracts[con_id]

    def _session(self) -> IbkrSession:
        session = self._connection.session
        if session is None or not session.usable:
            raise FeedError(f"no market data: the connection is {self._connection.reason}")
        return session

    def _receive_ns(self) -> int:
        session = self._connection.session
        return session.receive_ns if session is not None else self._connection.monotonic_ns()

    # --- requests ----------------------------------------------------------------------------------

    def _bar_stream(self, instrument: Instrument, listener: FeedListener) -> BarStream:
        arguments = (instrument, listener, self._time, self._bar_size_s, self._history_bars)
        if self._bar_source == "realtime":
            realtime = RealtimeBarStream(*arguments)
            realtime.on_history_gap = self._on_history_gap
            return realtime
        stream = BarStream(*arguments)
        stream.on_gap = self._on_gap
        stream.trades_between = partial(self._trades_between, instrument.con_id)
        return stream

    async def _wait_for_history(self, bars: Sequence[BarStream]) -> None:
        waiting = {stream.history_arrived for stream in bars}
        if waiting:
            await asyncio.wait(waiting, timeout=self._request_timeout_s, return_when=asyncio.FIRST_EXCEPTION)
        for problem in [s.history_arrived.exception() for s in bars if s.history_arrived.done()]:
            if problem is not None:
                raise problem
        if silent := [s for s in bars if not s.history_arrived.done()]:
            why = silent[0].problem or f"no answer within {self._request_timeout_s:g} s"
            raise FeedError(f"history of {', '.join(s.instrument.symbol for s in silent)}: {why}")

    # --- keeping up --------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Request what is due, and find what went silent, until closed."""
        while True:
            try:
                async with asyncio.timeout(_CHECK_EVERY_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            session = self._connection.session
            if session is None or self._connection.state is not ConnectionState.READY:
                continue
            self._find_silent()
            for stream in self._due():
                try:
                    await self._requests.request(session, stream)
                except (SessionError, ConnectionError) as e:
                    log.info("subscription waits for the connection", stream=stream.name, problem=str(e))
                    break

    def _due(self) -> list[Stream]:
        now_ns = self._connection.monotonic_ns()
        return [s for s in self._streams if 0 < s.due_ns <= now_ns and not s.refused]

    def _find_silent(self) -> None:
        now_ns = self._connection.monotonic_ns()
        for stream in self._streams:
            if not stream.alive or stream.due_ns or stream.refused or not self._is_open(stream):
                continue
            patience_s = self._stale_after_s * 2 ** min(stream.attempts, _MAX_PATIENCE_DOUBLINGS)
            if isinstance(stream, BarStream):
                patience_s += self._bar_size_s
            silence_s = (now_ns - stream.last_message_ns) / NS_PER_S
            if silence_s > patience_s:
                stream.due_ns = now_ns
                self._connection.announce(f"{stream.name} silent for {silence_s:.0f} s: subscribing again")

    def _is_open(self, stream: Stream) -> bool:
        hours = self._hours.get(stream.instrument.con_id, ())
        now_ns = self._clock.now_ns()
        return not hours or any(start_ns <= now_ns < end_ns for start_ns, end_ns in hours)

    def _on_problem(self, stream: Stream) -> None:
        if (
            isinstance(stream, BarStream)
            and not stream.history_arrived.done()
            and not _is_pacing(stream.problem)
        ):
            stream.history_arrived.set_exception(
                FeedError(f"history of {stream.instrument.symbol}: {stream.problem}")
            )
            return
        if stream.refused:
            self._connection.announce(f"{stream.name} refused: {stream.problem}")
            return
        pause_s = min(_MAX_RETRY_S, _FIRST_RETRY_S * 2 ** min(stream.attempts, 16) / 2)
        stream.due_ns = self._connection.monotonic_ns() + int(pause_s * NS_PER_S)
        self._connection.announce(f"{stream.name}: {stream.problem}; subscribing again in {pause_s:g} s")

    def _on_gap(self, stream: BarStream) -> None:
        stream.due_ns = self._connection.monotonic_ns()
        self._wake.set()
        log.warning("bars are missing: asking for them", stream=stream.name)

    def _trades_between(self, con_id: int, start_ns: int, end_ns: int) -> bool:
        return any(start_ns < end and begin < end_ns for begin, end in self._hours.get(con_id, ()))

    def _on_history_gap(self, stream: RealtimeBarStream) -> None:
        session = self._connection.session
        if session is not None and session.usable and session.pacer.try_take(1, 1):
            self._requests.fill_gap(session, stream)  # otherwise the next interval asks again

    # --- what the connection says (ConnectionObserver) -------------------------------------------

    def on_connection_state(self, state: ConnectionState, reason: str) -> None:
        """Distrust bars from the moment the link is lost: their last state may be missing."""
        if state is ConnectionState.DISCONNECTED:
            for stream in self._streams:
                if isinstance(stream, BarStream):
                    stream.suspend()

    def on_snapshot(self, snapshot: BrokerSnapshot) -> None:
        """Nothing to do."""

    def on_session_ready(self, session: IbkrSession, resubscribe: bool) -> None:
        """Subscribe again to everything, or give what was maintained time to prove it."""
        now_ns = self._connection.monotonic_ns()
        for stream in self._streams:
            if resubscribe or (isinstance(stream, BarStream) and stream.suspended):
                stream.refused = False
                stream.due_ns = now_ns
            stream.last_message_ns = now_ns
        self._wake.set()


def _is_pacing(problem: str) -> bool:
    """Whether a refusal is only about the rate of requests: asking later helps."""
    return "pacing" in problem.lower().split("(")[0]
