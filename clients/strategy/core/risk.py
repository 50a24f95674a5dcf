"""Whether an entry may be sent, and whether the strategy must halt.

Every check is listed with its value and limit, also after the first that failed. A value that is
not a number fails its check. Prices and quantities are Decimal and exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal, localcontext

from strategy.core.pricing import (
    EXACT,
    BracketPlan,
    BracketPrices,
    bracket_prices,
    bracket_quantity,
    decimal_of,
    is_price,
    quote_is_usable,
)
from strategy.core.risk_limits import RiskLimits, RiskState
from strategy.core.values import Purpose, RiskCheck, Side, Signal


@dataclass(frozen=True, slots=True)
class RiskVerdict:
    """Whether an entry may be sent.

    Attributes:
        plan: The sized bracket; None when refused.
        checks: Every limit with what was measured.
        refusal: The failed checks in words; "" when allowed.
    """

    plan: BracketPlan | None
    checks: tuple[RiskCheck, ...]
    refusal: str


def check_entry(signal: Signal, state: RiskState, limits: RiskLimits) -> RiskVerdict:
    """Size an entry within every limit, or refuse it.

    Raises:
        ValueError: The signal is not an entry.
    """
    if signal.purpose is not Purpose.ENTRY or signal.side is Side.HOLD:
        raise ValueError(f"only an ENTRY signal is checked for entry, not {signal}")
    with localcontext(EXACT):
        checks = list(_state_checks(signal, state, limits))
        prices = bracket_prices(signal.side, state, limits) if _can_be_sized(signal, state) else None
        quantity = bracket_quantity(prices, signal.strength, state, limits) if prices else Decimal(0)
        checks += _size_checks(prices, quantity, state, limits)
        failed = [check for check in checks if not check.passed]
        if failed or prices is None:
            refusal = "; ".join(f"{check.name} {check.value:g}, limit {check.limit:g}" for check in failed)
            return RiskVerdict(None, tuple(checks), refusal or "no usable prices")
        plan = BracketPlan(
            side=signal.side,
            quantity=quantity,
            limit_price=prices.worst,
            stop_price=prices.stop,
            take_profit_price=prices.take_profit,
            notional=quantity * prices.highest,
            loss_at_stop=quantity * abs(prices.worst - prices.stop),
        )
    return RiskVerdict(plan, tuple(checks), "")


def halts(state: RiskState, limits: RiskLimits) -> tuple[RiskCheck, ...]:
    """Return the limits whose breach halts the whole strategy; empty when none is breached.

    An equity that is not known (nan) refuses entries but does not halt.
    """
    return tuple(
        check for check in _loss_checks(state, limits) if not check.passed and not math.isnan(check.value)
    )


def loss_pct(equity: float, reference: float) -> float:
    """Return how far `equity` lies below `reference`, in percent of it; nan when that has no sense."""
    if not (math.isfinite(equity) and math.isfinite(reference) and reference > 0):
        return math.nan
    return (1.0 - equity / reference) * 100.0


def _loss_checks(state: RiskState, limits: RiskLimits) -> tuple[RiskCheck, RiskCheck]:
    daily = loss_pct(state.equity, state.day_start_equity)
    drawdown = loss_pct(state.equity, state.peak_equity)
    return (
        RiskCheck("daily_loss_pct", daily, limits.max_daily_loss_pct, daily < limits.max_daily_loss_pct),
        RiskCheck("drawdown_pct", drawdown, limits.max_drawdown_pct, drawdown < limits.max_drawdown_pct),
    )


def _flag(name: str, passed: bool) -> RiskCheck:
    return RiskCheck(name, 1.0 if passed else 0.0, 1.0, passed)


def _at_most(name: str, value: float, limit: float) -> RiskCheck:
    return RiskCheck(name, value, limit, value <= limit)


def _state_checks(signal: Signal, state: RiskState, limits: RiskLimits) -> tuple[RiskCheck, ...]:
    mode_ok = state.trading_mode == "paper" or (state.trading_mode == "live" and state.live_confirmed)
    orders = 3 if limits.take_profit_multiple > 0 else 2
    spread = _spread_bps(state)
    quantity = float(state.position_quantity)
    return (
        _flag("trading_mode", mode_ok),
        _flag("trading_state", state.trading_state == "running"),
        _flag("connection_ready", state.connection_ready),
        _flag("data_live", state.data_live),
        _flag("not_halted", not state.halted),
        _flag("trading_hours", state.within_trading_hours),
        RiskCheck("signal_strength", signal.strength, 0.0, 0 < signal.strength <= 1),
        RiskCheck("equity", state.equity, 0.0, math.isfinite(state.equity) and state.equity > 0),
        *_loss_checks(state, limits),
        RiskCheck("position_flat", quantity, 0.0, quantity == 0),
        _at_most("open_positions", state.open_positions + 1.0, float(limits.max_open_positions)),
        _at_most(
            "orders_per_minute", float(state.orders_last_minute + orders), float(limits.max_orders_per_minute)
        ),
        RiskCheck("spread_bps", spread, limits.max_spread_bps, 0 <= spread <= limits.max_spread_bps),
        RiskCheck(
            "quote_age_ms",
            state.quote_age_ms,
            limits.max_quote_age_ms,
            0 <= state.quote_age_ms <= limits.max_quote_age_ms,
        ),
        RiskCheck("atr", state.atr, 0.0, math.isfinite(state.atr) and state.atr > 0),
    )


def _size_checks(
    prices: BracketPrices | None, quantity: Decimal, state: RiskState, limits: RiskLimits
) -> tuple[RiskCheck, ...]:
    named_limits = {
        "stop_bps": limits.max_stop_bps,
        "order_notional": limits.max_order_notional,
        "position_pct": limits.max_position_pct,
        "risk_pct": limits.risk_per_trade_pct,
        "gross_notional_pct": limits.max_gross_notional_pct,
    }
    if prices is None:
        unknown = [RiskCheck(name, math.nan, limit, False) for name, limit in named_limits.items()]
        return RiskCheck("quantity", 0.0, 1.0, False), *unknown
    equity, hundred = decimal_of(state.equity), Decimal(100)
    notional = quantity * prices.highest
    values = {
        "stop_bps": prices.stop_bps,
        "order_notional": notional,
        "position_pct": notional / equity * hundred,
        "risk_pct": quantity * abs(prices.worst - prices.stop) / equity * hundred,
        "gross_notional_pct": (decimal_of(state.gross_notional) + notional) / equity * hundred,
    }
    measured = [
        RiskCheck(name, float(values[name]), limit, values[name] <= decimal_of(limit))
        for name, limit in named_limits.items()
    ]
    return RiskCheck("quantity", float(quantity), 1.0, quantity >= 1), *measured


def _spread_bps(state: RiskState) -> float:
    if not (is_price(state.bid_price) and is_price(state.ask_price)):
        return math.inf
    return (state.ask_price - state.bid_price) / ((state.ask_price + state.bid_price) / 2) * 1e4


def _can_be_sized(signal: Signal, state: RiskState) -> bool:
    return (
        quote_is_usable(state)
        and 0 < signal.strength <= 1
        and math.isfinite(state.equity)
        and state.equity > 0
        and math.isfinite(state.gross_notional)
        and state.gross_notional >= 0
        and math.isfinite(state.atr)
        and state.atr > 0
    )
