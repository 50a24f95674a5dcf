"""What the risk checks are given: the limits of a strategy, and the state that is held against them."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

from tradeserve_client.bounds import Within


@dataclass(frozen=True, slots=True)
class RiskLimits:
    """The limits of a strategy. Money is in the account's currency; pct is of equity.

    Attributes:
        max_position_pct: Notional of one position at its entry.
        risk_per_trade_pct: Loss at the stop, from the worst entry price, before slippage.
        max_order_notional: Notional of one order.
        max_gross_notional_pct: Notional of all positions and working entries together.
        max_open_positions: Instruments held or being entered at once.
        max_daily_loss_pct: Loss since the day's first equity that halts the strategy.
        max_drawdown_pct: Loss since the highest equity that halts the strategy.
        flatten_on_halt: Whether a halt closes the positions (else their stops stay and work).
        max_orders_per_minute: Orders handed to the broker in 60 s; a bracket counts 2 or 3.
        max_spread_bps: Widest quote to enter on.
        max_quote_age_ms: Oldest quote to enter on.
        atr_period_bars: True ranges averaged for the stop.
        stop_atr_multiple: Distance of the stop, in average true ranges, from the price at which it
            would be hit now (the bid of a long position).
        min_stop_bps: Smallest such distance.
        max_stop_bps: Largest such distance.
        take_profit_multiple: Gain taken, in multiples of the loss at the stop; 0 = none.
        limit_offset_bps: How far beyond the touch an entry may pay.
        exit_offset_bps: How far beyond the touch an exit may pay; 0 = market orders.
    """

    max_position_pct: Annotated[float, Within(0.001, 100)]
    risk_per_trade_pct: Annotated[float, Within(0.0001, 100)]
    max_order_notional: Annotated[float, Within(0.01, 1e9)]
    max_gross_notional_pct: Annotated[float, Within(0.001, 1000)]
    max_open_positions: Annotated[int, Within(1, 10_000)]
    max_daily_loss_pct: Annotated[float, Within(0.001, 100)]
    max_drawdown_pct: Annotated[float, Within(0.001, 100)]
    flatten_on_halt: bool
    max_orders_per_minute: Annotated[int, Within(1, 3000)]
    max_spread_bps: Annotated[float, Within(0.01, 1000)]
    max_quote_age_ms: Annotated[float, Within(1, 86_400_000)]
    atr_period_bars: Annotated[int, Within(1, 1000)]
    stop_atr_multiple: Annotated[float, Within(0.01, 100)]
    min_stop_bps: Annotated[float, Within(0.1, 5000)]
    max_stop_bps: Annotated[float, Within(0.1, 5000)]
    take_profit_multiple: Annotated[float, Within(0, 100)]
    limit_offset_bps: Annotated[float, Within(0, 500)]
    exit_offset_bps: Annotated[float, Within(0, 500)]


@dataclass(frozen=True, slots=True)
class RiskState:
    """What the risk checks see; recorded with the decision.

    Attributes:
        trading_mode: "paper" or "live".
        live_confirmed: Whether a person confirmed live trading for this run.
        trading_state: "running" allows entries; anything else ("paused", "halted", "killed") not.
        connection_ready: Connected to the broker and reconciled.
        equity: Account's equity now.
        day_start_equity: First equity of the trading day.
        peak_equity: Highest equity seen.
        gross_notional: Absolute value of all positions and working entries.
        open_positions: Other instruments held or being entered.
        position_quantity: Signed position in this instrument; an entry needs 0.
        orders_last_minute: Orders handed to the broker in the last 60 s.
        bid_price: Best bid; 0 when there is none.
        ask_price: Best ask; 0 when there is none.
        quote_age_ms: Since that quote came.
        data_live: The gateway sends live, not delayed or frozen, data.
        halted: Trading in the instrument is halted.
        within_trading_hours: The instrument's session is open.
        atr: Average true range, in price units.
        min_tick: Price step of the instrument, > 0.
    """

    trading_mode: str
    live_confirmed: bool
    trading_state: str
    connection_ready: bool
    equity: float
    day_start_equity: float
    peak_equity: float
    gross_notional: float
    open_positions: int
    position_quantity: Decimal
    orders_last_minute: int
    bid_price: float
    ask_price: float
    quote_age_ms: float
    data_live: bool
    halted: bool
    within_trading_hours: bool
    atr: float
    min_tick: Decimal
