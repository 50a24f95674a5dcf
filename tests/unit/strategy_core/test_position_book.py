from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from strategy.core.position import PositionBook, PositionDifference
from strategy.core.values import Commission, Fill, Position, Side


def fill(exec_id: str, side: Side, quantity: str, price: str, con_id: int = 1, event_ns: int = 5) -> Fill:
    return Fill(exec_id, "ts/x/E", 1, con_id, "AAPL", side, Decimal(quantity), Decimal(price), event_ns)


def cost(exec_id: str, amount: str) -> Commission:
    return Commission(exec_id, Decimal(amount), "USD", None)


def test_fills_average_and_a_partial_close_realises_its_share() -> None:
    book = PositionBook()
    book.apply_fill(fill("1", Side.BUY, "10", "100"))
    book.apply_fill(fill("2", Side.BUY, "10", "110"))
    state = book.apply_fill(fill("3", Side.SELL, "5", "115"))
    assert state is not None
    assert (state.quantity, state.average_price, state.realized_pnl) == (
        Decimal(15),
        Decimal(105),
        Decimal(50),
    )
    book.mark(1, 106.0)
    assert book.state(1).unrealized_pnl == Decimal(15)
    assert book.gross_notional == Decimal(1590)
    assert book.total_pnl == Decimal(65)


def test_a_fill_through_zero_closes_and_opens_the_other_side() -> None:
    book = PositionBook()
    book.apply_fill(fill("1", Side.BUY, "10", "100", event_ns=5))
    state = book.apply_fill(fill("2", Side.SELL, "15", "90", event_ns=8))
    assert state is not None
    assert (state.quantity, state.average_price, state.realized_pnl) == (
        Decimal(-5),
        Decimal(90),
        Decimal(-100),
    )
    assert state.opened_ns == 8
    closed = book.apply_fill(fill("3", Side.BUY, "5", "80"))
    assert closed is not None
    assert (closed.quantity, closed.cost, closed.realized_pnl, closed.opened_ns) == (
        Decimal(0),
        Decimal(0),
        Decimal(-50),
        0,
    )
    assert book.open_states == ()


def test_an_execution_and_its_commission_count_once() -> None:
    book = PositionBook()
    assert book.apply_fill(fill("1", Side.BUY, "10", "100")) is not None
    assert book.apply_fill(fill("1", Side.BUY, "10", "100")) is None
    assert book.apply_commission(cost("1", "1.5")) is not None
    assert book.apply_commission(cost("1", "1.5")) is None
    assert (book.state(1).quantity, book.commission) == (Decimal(10), Decimal("1.5"))


def test_a_commission_before_its_execution_waits_for_it() -> None:
    book = PositionBook()
    assert book.apply_commission(cost("1", "1.5")) is None
    assert book.commission == 0
    book.apply_fill(fill("1", Side.BUY, "10", "100"))
    assert book.commission == Decimal("1.5")


def test_executions_are_remembered_up_to_a_bound() -> None:
    book = PositionBook(max_executions=2)
    for exec_id in ("1", "2", "3"):
        book.apply_fill(fill(exec_id, Side.BUY, "1", "100"))
    assert book.apply_fill(fill("3", Side.BUY, "1", "100")) is None
    with pytest.raises(ValueError, match="max_executions"):
        PositionBook(0)


@pytest.mark.parametrize(
    "wrong",
    [
        fill("1", Side.BUY, "0", "1"),
        fill("1", Side.BUY, "NaN", "1"),
        fill("1", Side.BUY, "1", "-1"),
        fill("1", Side.HOLD, "1", "1"),
    ],
)
def test_a_fill_that_can_not_be_is_refused_and_changes_nothing(wrong: Fill) -> None:
    book = PositionBook()
    with pytest.raises(ValueError, match="fill 1"):
        book.apply_fill(wrong)
    assert book.states == ()
    assert book.apply_fill(replace(wrong, side=Side.BUY, quantity=Decimal(1), price=Decimal(1))) is not None


def test_differences_from_the_broker_are_reported_and_its_word_is_taken() -> None:
    book = PositionBook()
    book.apply_fill(fill("1", Side.BUY, "10", "100"))
    book.apply_fill(fill("2", Side.BUY, "4", "50", con_id=2))
    broker = [Position(1, "AAPL", Decimal(10), 100.0), Position(3, "SPY", Decimal(-7), 20.0)]
    expected = (
        PositionDifference(2, "AAPL", Decimal(4), Decimal(0)),
        PositionDifference(3, "SPY", Decimal(0), Decimal(-7)),
    )
    assert book.compare(broker) == expected
    assert str(expected[1]) == "SPY: we have 0, the broker -7"
    assert book.reconcile(broker, 9) == expected
    assert book.reconcile(broker, 9) == ()
    assert [(state.con_id, state.quantity, state.cost) for state in book.open_states] == [
        (1, Decimal(10), Decimal(1000)),
        (3, Decimal(-7), Decimal(-140)),
    ]


def test_a_mark_that_is_no_price_is_ignored() -> None:
    book = PositionBook()
    book.apply_fill(fill("1", Side.BUY, "10", "100"))
    for price in (float("nan"), 0.0, -1.0, float("inf")):
        book.mark(1, price)
    book.mark(99, 5.0)
    assert book.unrealized_pnl == 0
