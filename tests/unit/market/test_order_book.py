import math

import pytest

from market.book import BookSide, DepthOperation, DepthUpdate, OrderBook
from market.events import BookLevel

INSERT, UPDATE, DELETE = DepthOperation.INSERT, DepthOperation.UPDATE, DepthOperation.DELETE


def update(
    side: BookSide, operation: DepthOperation, position: int, price: float = 1.0, size: float = 1.0
) -> DepthUpdate:
    return DepthUpdate(5, side, operation, position, price, size, receive_ns=9)


def filled_book() -> OrderBook:
    book = OrderBook(1, 3)
    for row in range(3):
        assert book.apply(update(BookSide.BID, INSERT, row, 10.0 - row)) is None
        assert book.apply(update(BookSide.ASK, INSERT, row, 11.0 + row)) is None
    return book


def prices(levels: tuple[BookLevel, ...]) -> list[float]:
    return [level.price for level in levels]


def test_an_insert_shifts_rows_down_and_the_last_one_out() -> None:
    book = filled_book()
    assert book.apply(update(BookSide.BID, INSERT, 1, 9.5)) is None
    assert prices(book.snapshot().bids) == [10.0, 9.5, 9.0]


def test_a_delete_shifts_rows_up() -> None:
    book = filled_book()
    assert book.apply(update(BookSide.ASK, DELETE, 0, price=0.0)) is None
    assert prices(book.snapshot().asks) == [12.0, 13.0]


def test_an_update_replaces_one_row() -> None:
    book = filled_book()
    assert book.apply(update(BookSide.ASK, UPDATE, 2, 13.0, 77.0)) is None
    snapshot = book.snapshot()
    assert snapshot.asks[2] == BookLevel(13.0, 77.0)
    assert (snapshot.con_id, snapshot.event_ns, snapshot.receive_ns) == (1, 5, 9)


@pytest.mark.parametrize(
    "wrong",
    [
        update(BookSide.BID, UPDATE, 3),
        update(BookSide.BID, DELETE, 3),
        update(BookSide.BID, INSERT, 3),
        update(BookSide.BID, INSERT, -1),
        update(BookSide.BID, UPDATE, 0, price=math.nan),
        update(BookSide.BID, UPDATE, 0, price=0.0),
        update(BookSide.BID, INSERT, 0, size=-1.0),
        update(BookSide.BID, INSERT, 0, size=math.inf),
    ],
)
def test_an_operation_that_can_not_be_right_is_rejected_and_changes_nothing(wrong: DepthUpdate) -> None:
    book = filled_book()
    before = book.snapshot()
    problem = book.apply(wrong)
    assert problem is not None
    assert f"bid row {wrong.position}" in problem
    assert book.snapshot() == before


def test_an_insert_below_the_last_row_leaves_no_hole() -> None:
    book = OrderBook(1, 3)
    assert book.apply(update(BookSide.BID, INSERT, 1)) is not None


def test_problems_of_a_book_are_named() -> None:
    book = filled_book()
    assert book.problem() is None
    assert not book.crossed
    book.apply(update(BookSide.BID, UPDATE, 0, 11.0))
    assert book.crossed
    assert "crossed" in (book.problem() or "")
    book.apply(update(BookSide.BID, UPDATE, 0, 10.0))
    book.apply(update(BookSide.ASK, UPDATE, 1, 11.0))
    assert "ask row 1" in (book.problem() or "")
    book.apply(update(BookSide.BID, UPDATE, 1, 10.5))
    assert "bid row 1" in (book.problem() or "")
    book.reset()
    assert book.problem() == "empty: no bids"


def test_a_book_needs_rows() -> None:
    with pytest.raises(ValueError, match="depth_rows is 0"):
        OrderBook(1, 0)
