"""What may be traded, how much of it, and where the stop lies.

Every check is listed with its value and limit, also after the first that failed. A value that is
not a number fails its check. Prices and quantities are Decimal and exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from typing import Annotated

from strategy.core.values import Purpose, RiskCheck, Side, Signal
from tradeserve_client.bounds import Within

MIN_PRICE = 1e-9
MAX_PRICE = 1e9
_EXACT = Context(prec=80)
_BPS = Decimal(10_000)
_ONE = Decimal(1)


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


@dataclass(frozen=True, slots=True)
class BracketPlan:
    """A sized entry with its protection; becomes an OrderIntent.

    Attributes:
        side: BUY or SELL.
        quantity: Whole units, >= 1.
        limit_price: Worst price of the entry.
        stop_price: Trigger of the protective stop, on the losing side of `limit_price`.
        take_profit_price: Limit of the profit-taking order; None for none.
        notional: Quantity x the highest price the entry can have.
        loss_at_stop: Quantity x the distance from `limit_price` to `stop_price`.
    """

    side: Side
    quantity: Decimal
    limit_price: Decimal
    stop_price: Decimal
    take_profit_price: Decimal | None
    notional: Decimal
    loss_at_stop: Decimal


@dataclass(frozen=True, slots=True)
class ExitPlan:
    """An order that closes a position; `limit_price` None is a market order."""

    side: Side
    quantity: Decimal
    limit_price: Decimal | None


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


@dataclass(frozen=True, slots=True)
class _Prices:
    """Prices of a bracket before it is sized."""

    worst: Decimal
    highest: Decimal
    stop: Decimal
    take_profit: Decimal | None
    stop_bps: Decimal


def check_entry(signal: Signal, state: RiskState, limits: RiskLimits) -> RiskVerdict:
    """Size an entry within every limit, or refuse it.

    Raises:
        ValueError: The signal is not an entry.
    """
    if signal.purpose is not Purpose.ENTRY or signal.side is Side.HOLD:
        raise ValueError(f"only an ENTRY signal is checked for entry, not {signal}")
    with localcontext(_EXACT):
        checks = list(_state_checks(signal, state, limits))
        prices = _bracket_prices(signal.side, state, limits) if _can_be_sized(signal, state) else None
        quantity = _quantity(prices, signal.strength, state, limits) if prices else Decimal(0)
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


def plan_exit(state: RiskState, limits: RiskLimits) -> ExitPlan:
    """Close the whole position: no check may keep a strategy in it.

    A limit beyond the touch while the quote is fresh and sound, else a market order.

    Raises:
        ValueError: There is no position.
    """
    quantity = state.position_quantity
    if not quantity.is_finite() or quantity == 0:
        raise ValueError(f"position_quantity is {quantity}; there is nothing to close")
    side = Side.SELL if quantity > 0 else Side.BUY
    usable = _quote_is_usable(state) and state.quote_age_ms <= limits.max_quote_age_ms
    if not usable or limits.exit_offset_bps == 0:
        return ExitPlan(side, abs(quantity), None)
    with localcontext(_EXACT):
        offset = _decimal(limits.exit_offset_bps) / _BPS
        # Rounded away from the touch: here the safe side is to get out.
        if side is Side.SELL:
            price = _floor(_decimal(state.bid_price) * (_ONE - offset), state.min_tick)
        else:
            price = _ceil(_decimal(state.ask_price) * (_ONE + offset), state.min_tick)
    return ExitPlan(side, abs(quantity), price if price > 0 else None)


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
    prices: _Prices | None, quantity: Decimal, state: RiskState, limits: RiskLimits
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
    equity, hundred = _decimal(state.equity), Decimal(100)
    notional = quantity * prices.highest
    values = {
        "stop_bps": prices.stop_bps,
        "order_notional": notional,
        "position_pct": notional / equity * hundred,
        "risk_pct": quantity * abs(prices.worst - prices.stop) / equity * hundred,
        "gross_notional_pct": (_decimal(state.gross_notional) + notional) / equity * hundred,
    }
    measured = [
        RiskCheck(name, float(values[name]), limit, values[name] <= _decimal(limit))
        for name, limit in named_limits.items()
    ]
    return RiskCheck("quantity", float(quantity), 1.0, quantity >= 1), *measured


def _spread_bps(state: RiskState) -> float:
    if not (_is_price(state.bid_price) and _is_price(state.ask_price)):
        return math.inf
    return (state.ask_price - state.bid_price) / ((state.ask_price + state.bid_price) / 2) * 1e4


def _is_price(price: float) -> bool:
    return math.isfinite(price) and MIN_PRICE <= price <= MAX_PRICE


def _quote_is_usable(state: RiskState) -> bool:
    tick = state.min_tick
    tick_ok = tick.is_finite() and _decimal(MIN_PRICE) <= tick <= _decimal(MAX_PRICE)
    return (
        tick_ok
        and _is_price(state.bid_price)
        and _is_price(state.ask_price)
        and state.bid_price <= state.ask_price
    )


def _can_be_sized(signal: Signal, state: RiskState) -> bool:
    return (
        _quote_is_usable(state)
        and 0 < signal.strength <= 1
        and math.isfinite(state.equity)
        and state.equity > 0
        and math.isfinite(state.gross_notional)
        and state.gross_notional >= 0
        and math.isfinite(state.atr)
        and state.atr > 0
    )


def _bracket_prices(side: Side, state: RiskState, limits: RiskLimits) -> _Prices | None:
    """Return the prices of a bracket; None when one would not be > 0."""
    tick, bid, ask = state.min_tick, _decimal(state.bid_price), _decimal(state.ask_price)
    offset = _decimal(limits.limit_offset_bps) / _BPS
    # A stop is hit at the price one would leave at: a long position's bid, a short one's ask.
    leave = bid if side is Side.BUY else ask
    distance = _decimal(state.atr) * _decimal(limits.stop_atr_multiple)
    distance = max(distance, leave * _decimal(limits.min_stop_bps) / _BPS)
    distance = min(distance, leave * _decimal(limits.max_stop_bps) / _BPS)
    multiple = _decimal(limits.take_profit_multiple)
    if side is Side.BUY:
        worst = _floor(ask * (_ONE + offset), tick)
        stop = min(_ceil(leave - distance, tick), _floor(min(leave, worst), tick) - tick)
        target = max(_floor(worst + multiple * (worst - stop), tick), worst + tick)
        highest = worst
    else:
        worst = _ceil(bid * (_ONE - offset), tick)
        stop = max(_floor(leave + distance, tick), _ceil(max(leave, worst), tick) + tick)
        target = min(_ceil(worst - multiple * (stop - worst), tick), worst - tick)
        # A sale fills at its limit or higher; its notional is bounded by the better of the two.
        highest = max(worst, ask)
    take_profit = target if multiple > 0 else None
    if min(worst, stop) <= 0 or (take_profit is not None and take_profit <= 0):
        return None
    return _Prices(worst, highest, stop, take_profit, abs(leave - stop) / leave * _BPS)


def _quantity(prices: _Prices, strength: float, state: RiskState, limits: RiskLimits) -> Decimal:
    equity, scale, hundred = _decimal(state.equity), _decimal(strength), Decimal(100)
    room = equity * _decimal(limits.max_gross_notional_pct) / hundred - _decimal(state.gross_notional)
    notional = min(
        equity * _decimal(limits.max_position_pct) / hundred * scale,
        _decimal(limits.max_order_notional),
        room,
    )
    if notional <= 0:
        return Decimal(0)
    by_notional = notional // prices.highest
    loss_per_unit = abs(prices.worst - prices.stop)
    risk = equity * _decimal(limits.risk_per_trade_pct) / hundred * scale
    if risk >= by_notional * loss_per_unit:
        return by_notional
    return risk // loss_per_unit


def _decimal(value: float) -> Decimal:
    # repr is the shortest text of a float: 189.23 becomes 189.23, not 189.229999….
    return Decimal(repr(float(value)))


def _floor(price: Decimal, tick: Decimal) -> Decimal:
    # `//` of Decimals is exact and truncates towards 0.
    steps = price // tick
    return (steps - 1 if steps * tick > price else steps) * tick


def _ceil(price: Decimal, tick: Decimal) -> Decimal:
    steps = price // tick
    return (steps + 1 if steps * tick < price else steps) * tick
