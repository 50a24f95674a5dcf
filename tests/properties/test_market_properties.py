from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from market.bars import BarAggregator, check_bar
from market.book import BookSide, DepthOperation, DepthUpdate, OrderBook
from market.events import Bar, Trade
from market.indicators import average_true_range, log_returns, realized_volatility, true_ranges
from market.windows import BarWindow

S = 1_000_000_000
any_float = st.floats(allow_nan=True, allow_infinity=True)
price = st.floats(min_value=1e-6, max_value=1e6)


@st.composite
def bars(draw: st.DrawFn) -> Bar:
    """Good, overlapping, repeated and broken bars."""
    start = draw(st.integers(0, 20))
    length = draw(st.sampled_from([1, 1, 1, 2, 0]))
    if draw(st.integers(0, 5)) == 0:
        opened, high, low, close, volume = (draw(any_float) for _ in range(5))
    else:
        low, opened, close, high = sorted(draw(price) for _ in range(4))
        volume = draw(st.floats(0, 1e9))
    con_id = draw(st.sampled_from([1, 1, 1, 2]))
    return Bar(con_id, start * S, (start + length) * S, opened, high, low, close, volume)


@given(st.lists(bars(), max_size=40), st.integers(1, 6))
def test_a_window_holds_the_last_accepted_bars_in_order(stream: list[Bar], window_bars: int) -> None:
    window = BarWindow(window_bars)
    accepted: list[Bar] = []
    for bar in stream:
        reason = window.append(bar)
        assert reason is None or reason
        if reason is None:
            assert check_bar(bar) is None
            accepted.append(bar)
        expected = accepted[-window_bars:]
        assert list(window.bars) == expected
        assert window.ready == (len(expected) == window_bars)
        if window.ready:
            array = window.as_array()
            rows = [[each.open, each.high, each.low, each.close, each.volume] for each in expected]
            assert np.array_equal(array, np.array(rows, dtype=np.float32))
            assert np.isfinite(array).all()
            assert (array[:, 2] <= array[:, :4].min(axis=1)).all()
            assert array.flags["C_CONTIGUOUS"]
    for earlier, later in pairwise(accepted):
        assert earlier.end_ns <= later.start_ns
    assert all(gap.duration_ns > 0 for gap in window.gaps)


@given(
    st.lists(st.tuples(st.integers(0, 600), price, st.floats(0.01, 1e4)), max_size=60), st.integers(1, 120)
)
def test_bars_of_trades_never_overlap_and_lose_no_volume(
    ticks: list[tuple[int, float, float]], bar_size_s: int
) -> None:
    aggregator = BarAggregator(1, bar_size_s, origin_ns=S)
    made: list[Bar] = []
    ordered = sorted(ticks, key=lambda tick: tick[0])
    for at_s, paid, size in ordered:
        made += aggregator.add_trade(Trade(1, (at_s + 1) * S, paid, size))
    made += aggregator.advance(10_000 * S)
    assert aggregator.rejected_count == 0
    for earlier, later in pairwise(made):
        assert earlier.end_ns <= later.start_ns
    for bar in made:
        assert check_bar(bar) is None
        assert (bar.start_ns - S) % (bar_size_s * S) == 0
        assert bar.end_ns - bar.start_ns == bar_size_s * S
        inside = [tick for tick in ordered if bar.start_ns <= (tick[0] + 1) * S < bar.end_ns]
        assert (bar.open, bar.close) == (inside[0][1], inside[-1][1])
        assert bar.high == max(tick[1] for tick in inside)
        assert bar.low == min(tick[1] for tick in inside)
    assert math.isclose(sum(bar.volume for bar in made), sum(size for _, _, size in ticks), abs_tol=1e-6)


operations = st.builds(
    DepthUpdate,
    event_ns=st.integers(0, 100),
    side=st.sampled_from(BookSide),
    operation=st.sampled_from(DepthOperation),
    position=st.integers(-2, 7),
    price=st.one_of(st.floats(1, 100), any_float),
    size=st.one_of(st.floats(0, 100), any_float),
)


@given(st.lists(operations, max_size=60), st.integers(1, 5))
def test_a_book_is_a_bounded_list_that_rejects_without_change(
    stream: list[DepthUpdate], depth_rows: int
) -> None:
    book = OrderBook(1, depth_rows)
    model: dict[BookSide, list[tuple[float, float]]] = {BookSide.BID: [], BookSide.ASK: []}
    for update in stream:
        before = book.snapshot()
        if book.apply(update) is not None:
            assert book.snapshot() == before
            continue
        rows = model[update.side]
        if update.operation is DepthOperation.INSERT:
            rows.insert(update.position, (update.price, update.size))
            del rows[depth_rows:]
        elif update.operation is DepthOperation.UPDATE:
            rows[update.position] = (update.price, update.size)
        else:
            rows.pop(update.position)
        snapshot = book.snapshot()
        assert [(level.price, level.size) for level in snapshot.bids] == model[BookSide.BID]
        assert [(level.price, level.size) for level in snapshot.asks] == model[BookSide.ASK]
        assert max(len(snapshot.bids), len(snapshot.asks)) <= depth_rows
        if book.crossed:
            assert book.problem() is not None
        if book.problem() is None:
            assert snapshot.bids[0].price < snapshot.asks[0].price


@given(st.lists(price, min_size=2, max_size=50), st.floats(0.01, 100))
def test_volatility_does_not_depend_on_the_scale_of_prices(prices: list[float], scale: float) -> None:
    array = np.array(prices)
    volatility = realized_volatility(array)
    assert volatility >= 0
    assert math.isclose(realized_volatility(array * scale), volatility, rel_tol=1e-6, abs_tol=1e-9)
    assert math.isclose(float(np.sum(log_returns(array))), math.log(prices[-1] / prices[0]), abs_tol=1e-6)


@given(st.lists(st.lists(price, min_size=4, max_size=4), min_size=2, max_size=30), st.integers(1, 40))
def test_true_ranges_cover_each_bar_and_bound_their_average(
    quadruples: list[list[float]], period: int
) -> None:
    rows = [[values[1], values[3], values[0], values[2], 1.0] for values in map(sorted, quadruples)]
    window = np.array(rows)
    ranges = true_ranges(window)
    assert (ranges >= window[1:, 1] - window[1:, 2]).all()
    average = average_true_range(window, period)
    assert ranges.min() * (1 - 1e-12) <= average <= ranges.max() * (1 + 1e-12)
