import math
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from strategy.core.decision import DecisionRules
from strategy.core.pricing import ExitPlan, plan_exit
from strategy.core.risk import RiskVerdict, check_entry, halts, loss_pct
from strategy.core.risk_limits import RiskState
from strategy.core.values import Purpose, Side, Signal

BUY = Signal(Side.BUY, 1.0, Purpose.ENTRY, "")
SELL = Signal(Side.SELL, 1.0, Purpose.ENTRY, "")


def failed(verdict: RiskVerdict) -> set[str]:
    return {check.name for check in verdict.checks if not check.passed}


def test_a_long_entry_is_sized_by_its_notional_and_protected(
    risk_state: RiskState, rules: DecisionRules
) -> None:
    verdict = check_entry(BUY, risk_state, rules.risk)
    assert verdict.refusal == ""
    plan = verdict.plan
    assert plan is not None
    assert plan.side is Side.BUY
    # 2 bps beyond 100.01 is 100.030002: down to the tick.
    assert plan.limit_price == Decimal("100.03")
    # 2 x ATR below the bid of 99.99.
    assert plan.stop_price == Decimal("99.49")
    # 1.5 x the loss of 0.54 above the limit.
    assert plan.take_profit_price == Decimal("100.84")
    # 2 % of 100,000 is 2000: 19 x 100.03.
    assert plan.quantity == Decimal(19)
    assert plan.notional == Decimal("1900.57")
    assert plan.loss_at_stop == Decimal("10.26")


def test_a_short_entry_is_the_mirror_image(risk_state: RiskState, rules: DecisionRules) -> None:
    plan = check_entry(SELL, risk_state, rules.risk).plan
    assert plan is not None
    assert (plan.limit_price, plan.stop_price, plan.take_profit_price) == (
        Decimal("99.98"),
        Decimal("100.51"),
        Decimal("99.19"),
    )
    assert plan.quantity == Decimal(19)


def test_the_loss_at_the_stop_bounds_the_size(risk_state: RiskState, rules: DecisionRules) -> None:
    plan = check_entry(BUY, risk_state, replace(rules.risk, risk_per_trade_pct=0.005)).plan
    assert plan is not None
    assert plan.quantity == Decimal(9)
    assert plan.loss_at_stop <= 5


def test_strength_scales_the_size(risk_state: RiskState, rules: DecisionRules) -> None:
    plan = check_entry(replace(BUY, strength=0.5), risk_state, rules.risk).plan
    assert plan is not None
    assert plan.quantity == Decimal(9)


def test_an_order_s_notional_and_the_gross_room_bound_the_size(
    risk_state: RiskState, rules: DecisionRules
) -> None:
    small = check_entry(BUY, risk_state, replace(rules.risk, max_order_notional=500.0)).plan
    assert small is not None
    assert small.quantity == Decimal(4)
    room = check_entry(BUY, replace(risk_state, gross_notional=19_700.0), rules.risk).plan
    assert room is not None
    assert room.quantity == Decimal(2)


def test_stops_are_bounded_in_quiet_and_in_wild_markets(risk_state: RiskState, rules: DecisionRules) -> None:
    quiet = check_entry(BUY, replace(risk_state, atr=1e-6), rules.risk).plan
    assert quiet is not None
    assert quiet.stop_price == Decimal("99.85")  # 15 bps below the bid, up to the tick
    wild = check_entry(BUY, replace(risk_state, atr=50.0), rules.risk).plan
    assert wild is not None
    assert wild.stop_price == Decimal("97.00")  # 300 bps


def test_no_take_profit_is_planned_when_switched_off(risk_state: RiskState, rules: DecisionRules) -> None:
    plan = check_entry(BUY, risk_state, replace(rules.risk, take_profit_multiple=0.0)).plan
    assert plan is not None
    assert plan.take_profit_price is None


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"trading_mode": "live"}, "trading_mode"),
        ({"trading_mode": "demo"}, "trading_mode"),
        ({"trading_state": "paused"}, "trading_state"),
        ({"connection_ready": False}, "connection_ready"),
        ({"data_live": False}, "data_live"),
        ({"halted": True}, "not_halted"),
        ({"within_trading_hours": False}, "trading_hours"),
        ({"equity": 98_000.0}, "daily_loss_pct"),
        ({"peak_equity": 106_000.0}, "drawdown_pct"),
        ({"equity": 0.0}, "equity"),
        ({"equity": math.nan}, "equity"),
        ({"position_quantity": Decimal(1)}, "position_flat"),
        ({"open_positions": 10}, "open_positions"),
        ({"orders_last_minute": 28}, "orders_per_minute"),
        ({"bid_price": 99.0}, "spread_bps"),
        ({"bid_price": 0.0}, "spread_bps"),
        ({"bid_price": 100.02}, "spread_bps"),
        ({"quote_age_ms": 5001.0}, "quote_age_ms"),
        ({"quote_age_ms": math.nan}, "quote_age_ms"),
        ({"atr": 0.0}, "atr"),
        ({"atr": math.nan}, "atr"),
        ({"gross_notional": 20_000.0}, "quantity"),
        ({"equity": 1000.0, "day_start_equity": 1000.0, "peak_equity": 1000.0}, "quantity"),
    ],
)
def test_each_limit_refuses_an_entry_and_is_named(
    change: dict[str, Any], check: str, risk_state: RiskState, rules: DecisionRules
) -> None:
    verdict = check_entry(BUY, replace(risk_state, **change), rules.risk)
    assert verdict.plan is None
    assert check in failed(verdict)
    assert check in verdict.refusal


def test_every_check_is_listed_even_after_a_failure(risk_state: RiskState, rules: DecisionRules) -> None:
    allowed = check_entry(BUY, risk_state, rules.risk)
    broken = replace(risk_state, trading_state="killed", equity=math.nan, bid_price=math.nan)
    refused = check_entry(BUY, broken, rules.risk)
    assert [check.name for check in refused.checks] == [check.name for check in allowed.checks]
    assert failed(allowed) == set()
    assert {"trading_state", "equity", "spread_bps", "quantity"} <= failed(refused)


def test_live_trading_needs_its_confirmation(risk_state: RiskState, rules: DecisionRules) -> None:
    live = replace(risk_state, trading_mode="live", live_confirmed=True)
    assert check_entry(BUY, live, rules.risk).plan is not None


def test_a_penny_stock_gets_its_stop_a_tick_away_or_nothing(
    risk_state: RiskState, rules: DecisionRules
) -> None:
    penny = replace(risk_state, bid_price=0.05, ask_price=0.05, atr=0.001)
    verdict = check_entry(BUY, penny, rules.risk)
    assert verdict.plan is None
    assert "stop_bps" in failed(verdict)


def test_only_entries_are_checked_for_entry(risk_state: RiskState, rules: DecisionRules) -> None:
    with pytest.raises(ValueError, match="only an ENTRY"):
        check_entry(Signal(Side.SELL, 1.0, Purpose.EXIT, ""), risk_state, rules.risk)


def test_losses_halt_at_their_limit(risk_state: RiskState, rules: DecisionRules) -> None:
    assert halts(risk_state, rules.risk) == ()
    assert [check.name for check in halts(replace(risk_state, equity=97_900.0), rules.risk)] == [
        "daily_loss_pct"
    ]
    low = replace(risk_state, equity=95_000.0, day_start_equity=95_500.0)
    assert [check.name for check in halts(low, rules.risk)] == ["drawdown_pct"]
    assert len(halts(replace(risk_state, equity=-1.0), rules.risk)) == 2
    assert halts(replace(risk_state, equity=math.nan), rules.risk) == ()


def test_an_exit_goes_out_beyond_the_touch_or_at_the_market(
    risk_state: RiskState, rules: DecisionRules
) -> None:
    beyond = replace(rules.risk, exit_offset_bps=10.0)
    holding = replace(risk_state, position_quantity=Decimal(7))
    assert plan_exit(holding, beyond) == ExitPlan(Side.SELL, Decimal(7), Decimal("99.89"))
    short = replace(risk_state, position_quantity=Decimal(-7))
    assert plan_exit(short, beyond) == ExitPlan(Side.BUY, Decimal(7), Decimal("100.12"))
    for broken in ({"bid_price": 0.0}, {"quote_age_ms": 1e9}, {"ask_price": math.nan}):
        changes: dict[str, Any] = broken
        assert plan_exit(replace(holding, **changes), beyond).limit_price is None
    assert plan_exit(holding, rules.risk).limit_price is None
    with pytest.raises(ValueError, match="nothing to close"):
        plan_exit(risk_state, rules.risk)


def test_a_loss_has_no_percentage_of_nothing() -> None:
    assert loss_pct(90.0, 100.0) == pytest.approx(10.0)
    assert math.isnan(loss_pct(90.0, 0.0))
    assert math.isnan(loss_pct(math.nan, 100.0))
