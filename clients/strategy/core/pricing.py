"""At which prices, and how much: the bracket of an entry, and the order of an exit.

Prices and quantities are Decimal and exact: brackets are to be computed in the context `EXACT`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext

from strategy.core.risk_limits import RiskLimits, RiskState
from strategy.core.values import Side

MIN_PRICE = 1e-9
MAX_PRICE = 1e9
EXACT = Context(prec=80)
_BPS = Decimal(10_000)
_ONE = Decimal(1)


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
class BracketPrices:
    """Prices of a bracket before it is sized."""

    worst: Decimal
    highest: Decimal
    stop: Decimal
    take_profit: Decimal | None
    stop_bps: Decimal


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
    usable = quote_is_usable(state) and state.quote_age_ms <= limits.max_quote_age_ms
    if not usable or limits.exit_offset_bps == 0:
        return ExitPlan(side, abs(quantity), None)
    with localcontext(EXACT):
        offset = decimal_of(limits.exit_offset_bps) / _BPS
        # Rounded away from the touch: here the safe side is to get out.
        if side is Side.SELL:
            price = _floor(decimal_of(state.bid_price) * (_ONE - offset), state.min_tick)
        else:
            price = _ceil(decimal_of(state.ask_price) * (_ONE + offset), state.min_tick)
    return ExitPlan(side, abs(quantity), price if price > 0 else None)


def is_price(price: float) -> bool:
    """Return whether a price is one that can be traded at."""
    return math.isfinite(price) and MIN_PRICE <= price <= MAX_PRICE


def quote_is_usable(state: RiskState) -> bool:
    """Return whether bid, ask and tick are sound, and the bid is not above the ask."""
    tick = state.min_tick
    tick_ok = tick.is_finite() and decimal_of(MIN_PRICE) <= tick <= decimal_of(MAX_PRICE)
    return (
        tick_ok
        and is_price(state.bid_price)
        and is_price(state.ask_price)
        and state.bid_price <= state.ask_price
    )


def bracket_prices(side: Side, state: RiskState, limits: RiskLimits) -> BracketPrices | None:
    """Return the prices of a bracket; None when one would not be > 0."""
    tick, bid, ask = state.min_tick, decimal_of(state.bid_price), decimal_of(state.ask_price)
    offset = decimal_of(limits.limit_offset_bps) / _BPS
    # A stop is hit at the price one would leave at: a long position's bid, a short one's ask.
    leave = bid if side is Side.BUY else ask
    distance = decimal_of(state.atr) * decimal_of(limits.stop_atr_multiple)
    distance = max(distance, leave * decimal_of(limits.min_stop_bps) / _BPS)
    distance = min(distance, leave * decimal_of(limits.max_stop_bps) / _BPS)
    multiple = decimal_of(limits.take_profit_multiple)
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
    return BracketPrices(worst, highest, stop, take_profit, abs(leave - stop) / leave * _BPS)


def bracket_quantity(prices: BracketPrices, strength: float, state: RiskState, limits: RiskLimits) -> Decimal:
    """Return how many whole units fit within every limit, scaled with the strength; 0 for none."""
    equity, scale, hundred = decimal_of(state.equity), decimal_of(strength), Decimal(100)
    room = equity * decimal_of(limits.max_gross_notional_pct) / hundred - decimal_of(state.gross_notional)
    notional = min(
        equity * decimal_of(limits.max_position_pct) / hundred * scale,
        decimal_of(limits.max_order_notional),
        room,
    )
    if notional <= 0:
        return Decimal(0)
    by_notional = notional // prices.highest
    loss_per_unit = abs(prices.worst - prices.stop)
    risk = equity * decimal_of(limits.risk_per_trade_pct) / hundred * scale
    if risk >= by_notional * loss_per_unit:
        return by_notional
    return risk // loss_per_unit


def decimal_of(value: float) -> Decimal:
    """Return the decimal that a float is written as."""
    # repr is the shortest text of a float: 189.23 becomes 189.23, not 189.229999….
    return Decimal(repr(float(value)))


def _floor(price: Decimal, tick: Decimal) -> Decimal:
    # `//` of Decimals is exact and truncates towards 0.
    steps = price // tick
    return (steps - 1 if steps * tick > price else steps) * tick


def _ceil(price: Decimal, tick: Decimal) -> Decimal:
    steps = price // tick
    return (steps + 1 if steps * tick < price else steps) * tick
