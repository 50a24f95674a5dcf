from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway_simulator.orders import commission

FLAT = (100.0, 100.02, 1000.0)


def test_a_market_order_takes_the_touch_and_is_told_in_the_gateways_order(desk: Callable[..., Any]) -> None:
    one = desk(FLAT)
    order = one.place("BUY", 100)
    assert one.kinds == ["OrderChanged", "OrderFilled"]
    assert order.status == "Filled"
    assert one.fills == [(100, 100.02)]
    assert one.news[-1].execution.order_ref == "ref-1"


def test_an_order_larger_than_the_displayed_size_fills_in_parts(desk: Callable[..., Any]) -> None:
    one = desk((100.0, 100.02, 300.0))
    order = one.place("BUY", 700, "LMT", limit_price=100.02)
    assert one.fills == [(300, 100.02)]
    assert (order.status, order.remaining) == ("Submitted", 400)
    one.step()
    assert one.fills == [(300, 100.02), (300, 100.02)]
    one.step()
    assert order.status == "Filled"
    assert one.position == 700


def test_displayed_size_is_not_sold_twice_between_two_steps(desk: Callable[..., Any]) -> None:
    one = desk((100.0, 100.02, 300.0))
    one.place("BUY", 200, "LMT", limit_price=100.02)
    second = one.place("BUY", 200, "LMT", limit_price=100.02)
    assert second.filled == 100


def test_a_resting_limit_order_fills_at_its_limit(desk: Callable[..., Any]) -> None:
    one = desk(FLAT, FLAT, (99.5, 99.52, 1000.0))
    order = one.place("BUY", 10, "LMT", limit_price=99.9)
    one.step()
    assert order.status == "Submitted"
    one.step()
    assert one.fills == [(10, 99.9)]


def test_an_order_never_fills_at_a_price_shown_before_it_came(desk: Callable[..., Any]) -> None:
    one = desk((99.0, 99.02, 1000.0), FLAT)
    one.step()
    order = one.place("BUY", 10, "LMT", limit_price=99.5)
    one.step(5)
    assert order.filled == 0


def test_a_sell_stop_waits_for_a_print_and_then_takes_the_bid(desk: Callable[..., Any]) -> None:
    one = desk(FLAT, FLAT, (98.0, 98.02, 1000.0))
    order = one.place("SELL", 10, "STP", stop_price=99.0)
    assert order.status == "PreSubmitted"
    one.step()
    assert order.filled == 0
    one.step()
    assert one.fills == [(10, 98.0)]


def test_a_bracket_is_told_of_only_when_its_last_leg_transmits(desk: Callable[..., Any]) -> None:
    one = desk(FLAT)
    entry = one.place("BUY", 10, "LMT", limit_price=99.0, transmit=False)
    assert one.news == []
    one.place("SELL", 10, "STP", stop_price=98.0, parent_id=entry.order_id)
    assert [news.order.order_id for news in one.news] == [1, 2]
    assert [news.order.status for news in one.news] == ["Submitted", "PreSubmitted"]


def test_one_child_of_a_bracket_filling_cancels_the_other(desk: Callable[..., Any]) -> None:
    one = desk(FLAT, FLAT, (101.0, 101.02, 1000.0))
    entry, take, protect = one.bracket(100, limit=100.05, profit=100.5, stop=99.0)
    assert entry.status == "Filled"
    one.step(2)
    assert take.status == "Filled"
    assert protect.status == "Cancelled"
    assert one.position == 0


def test_children_cover_exactly_what_the_entry_has_filled(desk: Callable[..., Any]) -> None:
    thin = (100.0, 100.02, 40.0)
    one = desk(thin, (98.0, 98.02, 1000.0), FLAT)
    entry, take, protect = one.bracket(100, limit=100.02, profit=102.0, stop=99.0)
    assert entry.filled == 40
    one.step()
    # The rest of the entry fills in the same fall that triggers the stop: nothing is left open.
    assert entry.status == "Filled"
    one.step()
    assert protect.filled + take.filled == entry.filled
    assert one.position == 0


def test_a_profit_taken_in_parts_shrinks_the_stop(desk: Callable[..., Any]) -> None:
    one = desk(FLAT, FLAT, (101.0, 101.02, 30.0), (101.0, 101.02, 30.0))
    _, take, protect = one.bracket(100, limit=100.05, profit=101.0, stop=99.0)
    one.step(2)
    assert (take.filled, protect.quantity) == (30, 70)
    one.step()
    assert (take.filled, protect.quantity) == (60, 40)


def test_cancelling_a_partly_filled_entry_keeps_the_stop_for_what_is_held(desk: Callable[..., Any]) -> None:
    one = desk((100.0, 100.02, 40.0), FLAT)
    entry, take, protect = one.bracket(100, limit=100.02, profit=102.0, stop=99.0)
    one.exchange.cancel(7, entry.order_id)
    assert entry.status == "Cancelled"
    assert (take.quantity, protect.quantity) == (40, 40)
    assert not protect.done


def test_cancelling_an_unfilled_entry_cancels_its_children(desk: Callable[..., Any]) -> None:
    one = desk(FLAT)
    legs = one.bracket(100, limit=99.0, profit=102.0, stop=98.0)
    one.exchange.cancel(7, legs[0].order_id)
    assert [leg.status for leg in legs] == ["Cancelled"] * 3


def test_an_oca_group_of_type_one_is_cancelled_at_the_first_fill(desk: Callable[..., Any]) -> None:
    one = desk((100.0, 100.02, 40.0))
    other = one.place("BUY", 100, "LMT", limit_price=99.0, oca_group="g", oca_type=1)
    one.place("BUY", 100, "LMT", limit_price=100.02, oca_group="g", oca_type=1)
    assert other.status == "Cancelled"


def test_an_immediate_or_cancel_order_leaves_nothing_behind(desk: Callable[..., Any]) -> None:
    one = desk((100.0, 100.02, 40.0))
    order = one.place("BUY", 100, "LMT", limit_price=100.02, tif="IOC")
    assert (order.filled, order.status) == (40, "Cancelled")


@pytest.mark.parametrize(
    ("shares", "price", "cost"), [(10, 100.0, 1.0), (1000, 100.0, 5.0), (10, 1.0, 0.1), (200, 50.0, 1.0)]
)
def test_commission_is_half_a_cent_a_share_with_a_floor_and_a_cap(
    shares: int, price: float, cost: float
) -> None:
    assert commission(shares, shares * price) == pytest.approx(cost)


def test_the_minimum_commission_is_charged_once_per_order(desk: Callable[..., Any]) -> None:
    one = desk((100.0, 100.02, 50.0))
    one.place("BUY", 100, "LMT", limit_price=100.02)
    one.step()
    assert [one.commission for one in one.exchange.executions] == [1.0, 0.0]


def test_realized_pnl_is_after_both_commissions(desk: Callable[..., Any]) -> None:
    one = desk(FLAT)
    one.place("BUY", 100)
    one.place("SELL", 100)
    opened, closed = one.exchange.executions
    assert opened.realized_pnl is None
    assert closed.realized_pnl == pytest.approx(-2.0 - 2.0)
    assert one.exchange.account.cash == pytest.approx(1_000_000 - 4.0)


@pytest.mark.parametrize(
    ("terms", "code"),
    [
        ({"quantity": 0}, 201),
        ({"quantity": 1.5}, 10243),
        ({"order_type": "TRAIL"}, 387),
        ({"tif": "GTD"}, 201),
        ({"order_type": "LMT", "limit_price": 100.001}, 110),
        ({"order_type": "LMT"}, 201),
        ({"order_type": "STP", "stop_price": 99.999}, 110),
        ({"parent_id": 99}, 135),
        ({"quantity": 100_000}, 201),
        ({"action": "HOLD"}, 201),
    ],
)
def test_a_bad_order_is_refused_with_ibs_code(
    desk: Callable[..., Any], terms: dict[str, Any], code: int
) -> None:
    one = desk(FLAT)
    one.place(**{"action": "BUY", "quantity": 10, **terms})
    assert one.refusals == [code]
    assert one.exchange.orders == {}


def test_ids_are_refused_when_they_repeat_and_when_they_are_unknown(desk: Callable[..., Any]) -> None:
    one = desk(FLAT)
    order = one.place("BUY", 10)
    one.place("BUY", 10, order_id=order.order_id)
    assert one.refusals == [104]
    assert one.exchange.cancel(7, 99)[0].code == 10147
    assert one.exchange.cancel(7, order.order_id)[0].code == 10148
    one.exchange.orders.clear()
    one.place("BUY", 10, order_id=order.order_id)
    assert one.refusals == [104, 103]


def test_a_modified_order_is_matched_at_its_new_price(desk: Callable[..., Any]) -> None:
    one = desk(FLAT)
    order = one.place("BUY", 10, "LMT", limit_price=99.0)
    one.place("BUY", 10, "LMT", limit_price=100.5, order_id=order.order_id)
    assert one.fills == [(10, 100.02)]


def test_nothing_trades_while_halted_or_without_connectivity(desk: Callable[..., Any]) -> None:
    one = desk(FLAT)
    resting = one.place("BUY", 10, "LMT", limit_price=99.0)
    line = one.replay.lines[resting.con_id]
    line.halted = True
    one.place("BUY", 10)
    line.halted, one.exchange.connected = False, False
    one.place("BUY", 10)
    assert one.refusals == [201, 201]
    one.exchange.connected = True
    one.exchange.refuse_next = 1
    one.place("BUY", 10)
    one.place("BUY", 10)
    assert one.refusals == [201, 201, 201]
    assert one.position == 10
