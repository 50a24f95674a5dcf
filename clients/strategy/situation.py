"""The input of the policy and of the risk checks at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from market.events import Bar
from strategy.core.policy import PolicyState
from strategy.core.risk_limits import RiskState
from strategy.market_view import MarketView
from strategy.orders import OrderDesk
from strategy.portfolio import Portfolio
from strategy.ports import Clock
from strategy.trading_state import TradingGate

_NO_QUOTE_MS = 1e12


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What the engine needs to know of its configuration.

    Attributes:
        run_id: UUIDv7.
        symbols: To trade.
        trading_mode: "paper" or "live".
        live_confirmed: A person confirmed live trading for this run.
        budget_ms: Bar on the socket to order on the socket.
        kill_file: Its existence kills; None for none.
        shadow_in_flight: Questions to versions that are tried, open at once.
        last_answers_s: What shadows and readers of charts get at the run's end for answers that are still open.
    """

    run_id: str
    symbols: Sequence[str]
    trading_mode: str
    live_confirmed: bool
    budget_ms: float
    kill_file: Path | None
    shadow_in_flight: int = 16
    last_answers_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Situation:
    """Reads market, account, orders and gate together."""

    settings: RunSettings
    market: MarketView
    portfolio: Portfolio
    desk: OrderDesk
    gate: TradingGate
    clock: Clock

    def policy_state(self, bar: Bar) -> PolicyState:
        """Return what the policy sees after a bar."""
        return PolicyState(
            position_quantity=self.portfolio.quantity(bar.con_id),
            bars_held=self.portfolio.bars_held(bar.con_id),
            bars_to_session_end=self.market.bars_to_session_end(bar),
            entry_working=self.desk.entry_working(bar.con_id),
            exit_working=self.desk.exit_working(bar.con_id),
        )

    def risk_state(self, bar: Bar, atr: float) -> RiskState:
        """Return what the risk checks see after a bar; `atr` in price units."""
        quote = self.market.quotes.get(bar.con_id)
        marks = self.portfolio.marks
        others = {held.con_id for held in self.portfolio.open_positions()} | self.desk.entering()
        return RiskState(
            trading_mode=self.settings.trading_mode,
            live_confirmed=self.settings.live_confirmed,
            trading_state="running" if self.gate.may_enter else self.gate.state.value,
            connection_ready=self.gate.may_exit,
            equity=self.portfolio.equity,
            day_start_equity=marks.day_start_equity,
            peak_equity=marks.peak_equity,
            gross_notional=float(self.portfolio.book.gross_notional) + self.desk.entering_notional(),
            open_positions=len(others - {bar.con_id}),
            position_quantity=self.portfolio.quantity(bar.con_id),
            orders_last_minute=self.portfolio.rate.count(self.market.now_ns),
            bid_price=quote.bid_price if quote else 0.0,
            ask_price=quote.ask_price if quote else 0.0,
            quote_age_ms=(self.clock.monotonic_ns() - quote.receive_ns) / 1e6 if quote else _NO_QUOTE_MS,
            data_live=self.market.is_live(bar.con_id),
            halted=self.market.is_halted(bar.con_id),
            within_trading_hours=self.market.in_session(bar),
            atr=atr,
            min_tick=Decimal(repr(self.market.instruments[bar.con_id].min_tick)),
        )
