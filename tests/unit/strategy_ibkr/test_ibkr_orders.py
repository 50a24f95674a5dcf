from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from strategy.adapters.ibkr_codes import CodeKind, describe, meaning_of
from strategy.adapters.ibkr_connection import latest_executions
from strategy.adapters.ibkr_orders import (
    REJECTED,
    UNCONFIRMED,
    decimal_of,
    execution_family,
    order_specs,
    parse_account,
    parse_commission,
    parse_fill,
    parse_position,
    parse_side,
    parse_working_order,
    status_after_error,
)
from strategy.core.values import Fill, OrderIntent, Purpose, Side

UNSET = 1.7976931348623157e308


def intent(**changes: Any) -> OrderIntent:
    values: dict[str, Any] = {
        "intent_id": "a" * 32,
        "decision_id": "d",
        "con_id": 7,
        "symbol": "AAPL",
        "side": Side.BUY,
        "purpose": Purpose.ENTRY,
        "quantity": Decimal(100),
        "limit_price": Decimal("190.10"),
        "stop_price": Decimal("188.00"),
        "take_profit_price": Decimal(195),
        "created_ns": 1,
    }
    return OrderIntent(**{**values, **changes})


def test_an_entry_is_a_bracket_that_only_its_last_message_sets_to_work() -> None:
    specs = order_specs(intent())
    assert [(s.order_ref[-1], s.action, s.order_type, s.tif) for s in specs] == [
        ("E", "BUY", "LMT", "DAY"),
        ("T", "SELL", "LMT", "GTC"),
        ("S", "SELL", "STP", "GTC"),
    ]
    assert [s.transmit for s in specs] == [False, False, True]
    assert [s.child for s in specs] == [False, True, True]
    assert specs[1].oca_group == specs[2].oca_group == "ts/" + "a" * 32
    assert (specs[0].limit_price, specs[1].limit_price, specs[2].stop_price) == ("190.1", "195", "188")


def test_an_entry_without_take_profit_still_carries_its_stop() -> None:
    specs = order_specs(
        intent(side=Side.SELL, limit_price=None, take_profit_price=None, stop_price=Decimal(200))
    )
    assert [(s.order_type, s.action, s.transmit, s.oca_group) for s in specs] == [
        ("MKT", "SELL", False, ""),
        ("STP", "BUY", True, ""),
    ]


@pytest.mark.parametrize("purpose", [Purpose.EXIT, Purpose.FLATTEN])
def test_an_exit_is_one_order(purpose: Purpose) -> None:
    (spec,) = order_specs(intent(purpose=purpose, side=Side.SELL, limit_price=None))
    assert (spec.order_type, spec.quantity, spec.tif, spec.transmit) == ("MKT", "100", "DAY", True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stop_price": None}, "stop_price"),
        ({"side": Side.HOLD}, "HOLD"),
        ({"quantity": Decimal(0)}, "quantity"),
        ({"quantity": Decimal("1.5")}, "quantity"),
        ({"quantity": Decimal("NaN")}, "quantity"),
        ({"limit_price": Decimal(-1)}, "limit_price"),
        ({"take_profit_price": Decimal(0)}, "take_profit_price"),
    ],
)
def test_a_wrong_intent_names_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        order_specs(intent(**changes))


def test_large_and_small_numbers_are_written_without_an_exponent() -> None:
    specs = order_specs(
        intent(quantity=Decimal("1E+6"), limit_price=Decimal("0.00001"), take_profit_price=None)
    )
    assert (specs[0].quantity, specs[0].limit_price) == ("1000000", "0.00001")


def execution(**changes: Any) -> SimpleNamespace:
    values = {
        "execId": "0000e0d5.00000001.01.01",
        "orderRef": "ts/x/E",
        "permId": 5,
        "side": "BOT",
        "shares": 30.0,
        "price": 190.11,
        "time": datetime(2024, 1, 31, 14, 30, tzinfo=UTC),
    }
    return SimpleNamespace(**{**values, **changes})


def contract(**changes: Any) -> SimpleNamespace:
    values = {"conId": 7, "symbol": "AAPL", "secType": "STK", "currency": "USD", "multiplier": ""}
    return SimpleNamespace(**{**values, **changes})


def test_an_execution_becomes_a_fill_with_exact_numbers() -> None:
    fill = parse_fill(contract(), execution())
    assert (fill.quantity, fill.price, fill.side) == (Decimal(30), Decimal("190.11"), Side.BUY)
    assert fill.event_ns == 1706711400 * 1_000_000_000


def test_an_execution_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time"):
        parse_fill(contract(), execution(time=datetime(2024, 1, 31)))  # noqa: DTZ001 - what is tested


def test_a_corrected_execution_replaces_the_one_it_corrects() -> None:
    def fill(exec_id: str, at: int) -> Fill:
        return Fill(exec_id, "r", 1, 7, "AAPL", Side.BUY, Decimal(1), Decimal(1), at)

    fills = [fill("a.1.01.01", 1), fill("a.2.01.01", 2), fill("a.1.01.02", 1)]
    assert [f.exec_id for f in latest_executions(fills)] == ["a.1.01.02", "a.2.01.01"]
    assert execution_family("a.1.01.01") == execution_family("a.1.01.02")
    assert execution_family("plain") == "plain"


def test_an_unset_realized_pnl_is_none() -> None:
    report = SimpleNamespace(execId="e", commission=1.0, currency="USD", realizedPNL=UNSET)
    assert parse_commission(report).realized_pnl is None
    report.realizedPNL = -2.5
    assert parse_commission(report).realized_pnl == Decimal("-2.5")


def test_numbers_of_the_wire_lose_their_float_tail() -> None:
    assert decimal_of(100.0) == Decimal(100)
    assert str(decimal_of(100.0)) == "100"
    assert decimal_of(UNSET) == 0
    assert decimal_of(0.1) == Decimal("0.1")


def test_sides_are_known_in_both_spellings_and_nothing_else() -> None:
    assert [parse_side(s) for s in ("BOT", "SLD", "BUY", "SELL")] == [
        Side.BUY,
        Side.SELL,
        Side.BUY,
        Side.SELL,
    ]
    with pytest.raises(ValueError, match="'X'"):
        parse_side("X")


def test_a_position_in_a_future_has_a_price_per_unit() -> None:
    position = parse_position(contract(multiplier="50"), -2.0, 280_000.0)
    assert (position.quantity, position.average_price) == (Decimal(-2), 5600.0)
    assert parse_position(contract(secType="CASH", symbol="EUR"), 1.0, 1.08).symbol == "EUR.USD"


def test_a_working_order_has_zero_for_prices_it_lacks() -> None:
    order = SimpleNamespace(
        orderRef="r",
        permId=1,
        orderId=2,
        action="SELL",
        orderType="STP",
        totalQuantity=10.0,
        lmtPrice=UNSET,
        auxPrice=9.5,
    )
    working = parse_working_order(contract(), order, "PreSubmitted", Decimal(4))
    assert (working.limit_price, working.stop_price, working.filled) == (0.0, 9.5, Decimal(4))


def test_account_figures_are_in_the_currency_of_its_net_liquidation() -> None:
    values = {
        ("NetLiquidation", "EUR"): "1000.5",
        ("TotalCashValue", "EUR"): "900",
        ("BuyingPower", "EUR"): "4000",
        ("TotalCashValue", "BASE"): "1",
        ("AccountType", ""): "INDIVIDUAL",
    }
    account = parse_account(values)
    assert (account.equity, account.cash, account.buying_power, account.currency) == (
        1000.5,
        900.0,
        4000.0,
        "EUR",
    )
    with pytest.raises(ValueError, match="NetLiquidation"):
        parse_account({})
    with pytest.raises(ValueError, match="TotalCashValue"):
        parse_account({("NetLiquidation", "USD"): "1", ("TotalCashValue", "USD"): "much"})


@pytest.mark.parametrize(
    ("code", "last", "acknowledged", "expected"),
    [
        (201, "", False, REJECTED),
        (201, "PreSubmitted", True, REJECTED),
        (110, "", False, REJECTED),
        (110, "Submitted", True, UNCONFIRMED),
        (135, "", False, REJECTED),
        (202, "Submitted", True, UNCONFIRMED),
        (202, "Cancelled", True, "Cancelled"),
        (10147, "Submitted", True, UNCONFIRMED),
        (321, "Submitted", True, UNCONFIRMED),
        (321, "", False, UNCONFIRMED),
        (10349, "Submitted", True, "Submitted"),
        (10349, "", False, "PendingSubmit"),
        (399, "PreSubmitted", True, "PreSubmitted"),
        (2109, "Submitted", True, "Submitted"),
        (10148, "Filled", True, "Filled"),
        (99999, "Submitted", True, UNCONFIRMED),
    ],
)
def test_only_an_order_status_cancels_an_order(
    code: int, last: str, acknowledged: bool, expected: str
) -> None:
    assert status_after_error(code, last, acknowledged) == expected


def test_a_code_is_described_with_what_to_do() -> None:
    assert "client id" in describe(326, "in use.\n  Retry")
    assert describe(2104, "  farm   OK ") == "2104: farm OK"
    assert meaning_of(123456).kind is CodeKind.INFO
