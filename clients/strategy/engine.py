"""The loop: a bar closes, the services are asked, a decision is made, an order goes out, all is recorded.

One engine runs one strategy on one asyncio loop. It knows the outside world only through ports, so
that tests, replays and backtests run the same code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from journal.rows import RiskEventRow
from market.events import Bar, BookSnapshot, Quote, Trade
from strategy import recording
from strategy.core.decision import DecisionRules
from strategy.core.values import Account, Commission, Fill, OrderEvent, OrderIntent, Position
from strategy.decider import Decided, Decider
from strategy.departure import Departure
from strategy.garbage import GarbageKeeper
from strategy.ledger import RunLedger
from strategy.market_view import MarketView
from strategy.narrator import Narrator
from strategy.orders import OrderDesk
from strategy.portfolio import Portfolio
from strategy.ports import (
    Broker,
    BrokerSnapshot,
    Clock,
    ConnectionState,
    Forecaster,
    Journal,
    LateAnswer,
    MarketFeed,
    ShadowForecaster,
    VoterInfo,
)
from strategy.screen import Screen
from strategy.shadow import ShadowTap
from strategy.situation import RunSettings, Situation
from strategy.status import DecisionFeed, StatusView, status_view
from strategy.trading_state import TradingGate, TradingState
from strategy.vision import Readings, VisionPlan, VisionTap

_log = structlog.get_logger(__name__)

_HOUSEKEEPING_S = 0.5


class Engine:
    """Runs a strategy; implements the feed's, the broker's and the desk's listeners.

    Args:
        settings: Of this run.
        rules: Weights and limits.
        market: Empty view of the market.
        clock, feed, broker, forecaster, journal: The outside world.
        gate: Whether orders may go out.
        screen: For a person.
        voters: Who votes, as the started forecaster reported.
        rows: Tells how many rows are recorded and how many wait; for the screen.
        trace: Told of every decision, with its symbol; None for nobody.
        garbage: Keeps collections off the decisions; None leaves them to Python.
        shadow: Asks versions that are tried, after the decisions; None asks none.
        vision: Has charts read, after the decisions; None has none read.
    """

    def __init__(
        self,
        settings: RunSettings,
        rules: DecisionRules,
        market: MarketView,
        *,
        clock: Clock,
        feed: MarketFeed,
        broker: Broker,
        forecaster: Forecaster,
        journal: Journal,
        gate: TradingGate,
        screen: Screen,
        voters: Sequence[VoterInfo],
        rows: Callable[[], tuple[int, int]],
        trace: Callable[[Decided, str], None] | None = None,
        garbage: GarbageKeeper | None = None,
        shadow: ShadowForecaster | None = None,
        vision: VisionPlan | None = None,
    ) -> None:
        self.ledger = RunLedger()
        self.portfolio = Portfolio()
        self.decisions = DecisionFeed()
        self.voters = voters
        self._settings = settings
        self._market = market
        self._clock = clock
        self._feed = feed
        self._broker = broker
        self._journal = journal
        self._gate = gate
        self._screen = screen
        self._desk = OrderDesk(broker, journal, gate, clock, self.portfolio.quantity, self)
        situation = Situation(settings, market, self.portfolio, self._desk, gate, clock)
        self._narrator = Narrator(
            self.ledger, self.decisions, self.portfolio, screen, settings.budget_ms, rows, trace
        )
        self._garbage = garbage or GarbageKeeper()
        readings = Readings(vision, clock, market.bar_size_s)
        self._decider = Decider(
            rules,
            settings.budget_ms,
            market,
            forecaster,
            self._desk,
            journal,
            clock,
            situation,
            self._garbage,
            readings.effect,
        )
        self._departure = Departure(situation, rules.risk, gate, self._desk, self.portfolio, self.on_trouble)
        self._shadow = ShadowTap(
            shadow, self._decider, rules, journal, self.ledger, settings.shadow_in_flight
        )
        self._vision = VisionTap(
            readings, self._decider, market, self.portfolio, journal, self.ledger, screen
        )
        self._start_ns = clock.wall_ns()
        self._early_bars: list[Bar] | None = []
        self._busy: dict[int, asyncio.Task[None]] = {}
        self._finished: set[int] = set()
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Trade until the run's end, or until stop().

        Raises:
            BrokerError, FeedError: It can't begin; the message says what to do.
        """
        await self._broker.connect(self)
        instruments = await self._feed.resolve(self._settings.symbols)
        self._market.add(instruments)
        for instrument in instruments:
            self._journal.record(recording.instrument_row(instrument))
        history = await self._feed.subscribe(instruments, self)
        self._market.seed(history)
        for bars in history.values():
            for bar in bars:
                self._journal.record(recording.bar_row(bar))
        for instrument in instruments:
            self._market.sessions[instrument.con_id] = self._feed.trading_hours(instrument.con_id)
        if self._gate.killed:  # latched by an earlier run, so that nothing changes now
            self.on_state(self._gate.state, self._gate.reason)
        self._gate.started()
        early, self._early_bars = self._early_bars or [], None
        for bar in early:
            self.on_bar(bar)
        housekeeping = asyncio.create_task(self._keep_house())
        try:
            await self._stop.wait()
        finally:
            housekeeping.cancel()
            await asyncio.gather(housekeeping, *self._busy.values(), return_exceptions=True)
            await self._departure.leave(flatten=bool(self._finished))
            grace_s = self._settings.last_answers_s
            await asyncio.gather(self._shadow.close(grace_s), self._vision.close(grace_s))

    def stop(self) -> None:
        """End the run; entries are cancelled, positions keep their stops."""
        self._stop.set()

    @property
    def started(self) -> bool:
        """Whether it has everything it trades with; from then on stop() ends it in order."""
        return self._early_bars is None

    @property
    def deciding(self) -> bool:
        """Whether a bar is being dealt with."""
        return bool(self._busy)

    # --- market -----------------------------------------------------------------------------------

    def on_bar(self, bar: Bar) -> None:
        """A bar closed."""
        if self._early_bars is not None:
            self._early_bars.append(bar)  # bounded by the time the history takes to come
            return
        self._journal.record(recording.bar_row(bar))
        problem = self._market.windows[bar.con_id].append(bar)
        if problem is not None:
            self.on_trouble("bar rejected", bar.con_id, problem)
            return
        self.portfolio.on_bar(bar.con_id, bar.close)
        if bar.receive_ns == 0 or self._stop.is_set():
            return  # it came with a gap's history, too old to act on; or the run is over
        if bar.con_id in self._busy:
            self.on_trouble(
                "overrun", bar.con_id, "the last bar's decision is still being made; this one is skipped"
            )
            return
        task = asyncio.create_task(self._on_closed_bar(bar))
        self._busy[bar.con_id] = task
        task.add_done_callback(lambda done: self._bar_done(bar.con_id, done))

    def on_quote(self, quote: Quote) -> None:
        """Best bid or ask changed."""
        self._market.quotes[quote.con_id] = quote
        if quote.mid_price:
            self.portfolio.mark(quote.con_id, quote.mid_price)
        self._journal.record(recording.quote_row(quote))

    def on_trade(self, trade: Trade) -> None:
        """A print came."""
        self._journal.record(recording.trade_row(trade))

    def on_book(self, book: BookSnapshot) -> None:
        """The order book changed."""
        self._journal.record(recording.book_row(book))

    def on_data_type(self, con_id: int, live: bool) -> None:
        """Data became delayed or live."""
        was_live = self._market.is_live(con_id)
        self._market.set_live(con_id, live)
        if was_live and not live:
            self.on_trouble("delayed data", con_id, "no entries on delayed data")

    def on_halt(self, con_id: int, halted: bool) -> None:
        """Trading was halted or resumed."""
        if halted == self._market.is_halted(con_id):
            return
        self._market.set_halted(con_id, halted)
        self.on_trouble("halt", con_id, f"{self._market.symbol(con_id)} {'halted' if halted else 'resumed'}")

    # --- broker -----------------------------------------------------------------------------------

    def on_connection(self, state: ConnectionState, reason: str) -> None:
        """The connection to the gateway changed."""
        self._gate.connection(state, reason)

    def on_reconciled(self, snapshot: BrokerSnapshot) -> None:
        """The broker told everything it knows."""
        for fill in snapshot.fills:
            self._journal.record(recording.fill_row(fill))
        for commission in snapshot.commissions:
            self._journal.record(recording.commission_row(commission))
        for difference in self.portfolio.on_reconciled(snapshot, self._clock.wall_ns()):
            self.on_trouble("position differs", difference.con_id, str(difference))
        for position in snapshot.positions:
            self._journal.record(recording.position_row(position, self._clock.wall_ns()))
        self._desk.on_reconciled(snapshot)
        if not self.started:
            for held, stop_price in self.open_positions():
                stop = f"its stop at {stop_price:g}" if stop_price else "no stop of ours"
                self._screen.line(f"position found: {held.symbol} {held.quantity:+}, {stop}")

    def on_order(self, event: OrderEvent) -> None:
        """An order changed."""
        self._desk.on_order(event)
        self._narrator.changed(event, self._market.symbol(event.con_id))

    def on_fill(self, fill: Fill) -> None:
        """An execution came."""
        self._journal.record(recording.fill_row(fill))
        if not self.portfolio.on_fill(fill):
            return
        self.ledger.fills += 1
        held = self.portfolio.book.state(fill.con_id)
        self._departure.moved()
        self._screen.fill(fill, held.quantity)
        position = Position(fill.con_id, fill.symbol, held.quantity, float(held.average_price))
        self._journal.record(recording.position_row(position, fill.event_ns))

    def on_commission(self, commission: Commission) -> None:
        """The cost of an execution came."""
        self.portfolio.on_commission(commission)
        self._journal.record(recording.commission_row(commission))

    def on_position(self, position: Position) -> None:
        """The broker reports a position; it is compared at the next reconciliation."""

    def on_account(self, account: Account) -> None:
        """Account figures changed."""
        self.portfolio.on_account(account)

    # --- orders and services ----------------------------------------------------------------------

    def on_intent_sent(self, intent: OrderIntent) -> None:
        """An order went out."""
        legs = 1 + (intent.stop_price is not None) + (intent.take_profit_price is not None)
        self.portfolio.rate.record(self._market.now_ns, legs)
        self._narrator.sent(intent)

    def on_trouble(self, kind: str, con_id: int, detail: str) -> None:
        """Something a person should know."""
        symbol = self._market.symbol(con_id) if con_id else ""
        if symbol not in detail:
            detail = f"{symbol}: {detail}"
        _log.warning(kind, con_id=con_id, detail=detail)
        self._screen.attention(f"{kind}: {detail}")
        self._journal.record(RiskEventRow(kind, con_id, self._clock.wall_ns(), detail))

    def on_late(self, late: LateAnswer) -> None:
        """An answer came after its deadline; it is written down and never used."""
        self.ledger.service(late.service).late_reported += 1
        self._journal.record(recording.late_row(late))

    def on_state(self, state: TradingState, reason: str) -> None:
        """The gate changed."""
        text = f"{state}{': ' + reason if reason else ''}"
        _log.info("state", state=state.value, reason=reason)
        self._journal.record(RiskEventRow("state", 0, self._clock.wall_ns(), text))
        wanted = state in (TradingState.STARTING, TradingState.TRADING) or self._stop.is_set()
        self._screen.state(state.value, reason, alarming=not wanted)
        if state is TradingState.KILLED:
            file = self._settings.kill_file
            first = f"remove {file}; then " if file is not None and file.exists() else ""
            self._screen.line(f"      no orders until a person resets it: {first}{self._gate.how_to_reset}")

    def on_recording(self, text: str) -> None:
        """The journal says where rows go now."""
        if self._stop.is_set():  # it closes: nothing can be recorded about it any more
            self._screen.line(f"journal: {text}")
        else:
            self.on_trouble("journal", 0, text)

    # --- control ----------------------------------------------------------------------------------

    def status(self) -> StatusView:
        """Return the state of the run."""
        return status_view(
            self._settings, self._gate, self.portfolio, self.ledger, self.voters, self._start_ns
        )

    def open_positions(self) -> Sequence[tuple[Position, float]]:
        """Return what is held, each with the price of its stop."""
        return [(held, self._desk.stop_price(held.con_id)) for held in self.portfolio.open_positions()]

    def pause(self, reason: str) -> TradingState:
        """Stop entries."""
        self._gate.pause(reason)
        self._desk.cancel_entries()
        return self._gate.state

    def resume(self, reason: str) -> TradingState:
        """Allow entries again."""
        self._gate.resume()
        _log.info("resumed", reason=reason)
        return self._gate.state

    def kill(self, reason: str) -> int:
        """Cancel every order, send none, until a person resets it."""
        self._gate.kill(reason)
        return self._desk.cancel_all() if self._gate.may_exit else 0

    def reset_kill(self, reason: str) -> TradingState:
        """Unlatch the kill switch; the strategy is paused afterwards."""
        self._gate.reset_kill()
        self.on_trouble("kill reset", 0, reason)
        return self._gate.state

    # --- inside -----------------------------------------------------------------------------------

    async def _on_closed_bar(self, bar: Bar) -> None:
        symbol = self._market.symbol(bar.con_id)
        window = self._market.windows[bar.con_id]
        decided = await self._decider.decide(bar) if window.ready else None
        if decided is not None:
            self._narrator.decided(decided, symbol)
        else:
            self._screen.attention(
                f"{symbol}: {len(window)} of {self._market.window_bars} bars, no decision yet"
            )
        await self._desk.keep_protected(bar.con_id, symbol)
        await self._departure.halt_on_losses(bar)
        if decided is not None:
            self._shadow.decided(decided)
            self._vision.decided(decided)

    def _bar_done(self, con_id: int, task: asyncio.Task[None]) -> None:
        self._busy.pop(con_id, None)
        bar = self._market.windows[con_id].last_bar
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("decision failed", con_id=con_id, exc_info=error)
            self.on_trouble("decision failed", con_id, f"{type(error).__name__}: {error}")
        if bar is not None and self._market.until_ns is not None and bar.end_ns >= self._market.until_ns:
            self._finished.add(con_id)
            if self._finished >= set(self._market.instruments):
                self._stop.set()
        if bar is not None and not self._busy and self._market.is_complete(bar.end_ns):
            self._narrator.bar_done(bar)
            # The next bars are as far away as they ever are.
            asyncio.get_running_loop().call_soon(self._garbage.tidy)

    async def _keep_house(self) -> None:
        while True:
            kill_file = self._settings.kill_file
            if kill_file is not None and kill_file.exists() and not self._gate.killed:
                self.kill(f"kill file {kill_file}")
            await asyncio.sleep(_HOUSEKEEPING_S)
