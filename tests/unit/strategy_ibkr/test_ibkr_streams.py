from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from market.events import Bar, BookSnapshot, Instrument, Quote, Trade
from strategy.adapters.ibkr_bars import BarStream, RealtimeBarStream
from strategy.adapters.ibkr_streams import DepthStream, ExchangeClock, FeedTime, QuoteStream, Stream

NS = 1_000_000_000
START_S = 1_706_693_400
AAPL = Instrument(265598, "AAPL")


class Received:
    def __init__(self) -> None:
        self.bars: list[Bar] = []
        self.quotes: list[Quote] = []
        self.trades: list[Trade] = []
        self.books: list[BookSnapshot] = []
        self.halts: list[bool] = []
        self.data_types: list[bool] = []

    def on_bar(self, bar: Bar) -> None:
        self.bars.append(bar)

    def on_quote(self, quote: Quote) -> None:
        self.quotes.append(quote)

    def on_trade(self, trade: Trade) -> None:
        self.trades.append(trade)

    def on_book(self, book: BookSnapshot) -> None:
        self.books.append(book)

    def on_halt(self, con_id: int, halted: bool) -> None:
        self.halts.append(halted)

    def on_data_type(self, con_id: int, live: bool) -> None:
        self.data_types.append(live)


class World:
    """The clocks of a feed, set by hand, and what the listener got."""

    def __init__(self) -> None:
        self.now_ns = 1
        self.received = Received()
        self.exchange = ExchangeClock(lambda: 5 * NS)
        self.time = FeedTime(lambda: self.now_ns, self.exchange.now_ns, self.exchange.observe)

    def bars(self, bar_size_s: int = 60, history_bars: int = 60) -> BarStream:
        stream = BarStream(AAPL, self.received, self.time, bar_size_s, history_bars)
        stream.requested(1, self.now_ns)
        return stream


def raw(number: int, close: float = 10.0, size_s: int = 60) -> SimpleNamespace:
    date = str(START_S + number * size_s)
    return SimpleNamespace(date=date, open=10.0, high=20.0, low=5.0, close=close, volume=1.0)


def update(stream: BarStream, bar: SimpleNamespace) -> None:
    stream.on_bar_update(bar)
    stream.flush()


def answer(stream: BarStream, numbers: list[int], size_s: int = 60) -> None:
    for number in numbers:
        stream.on_history(raw(number, size_s=size_s))
    stream.on_history_end()


def starts(bars: list[Bar], size_s: int = 60) -> list[int]:
    return [(bar.start_ns // NS - START_S) // size_s for bar in bars]


async def test_the_last_bar_of_the_answer_is_still_forming() -> None:
    world = World()
    stream = world.bars()
    answer(stream, [0, 1, 2])
    assert starts(stream.history) == [0, 1]
    assert stream.history_arrived.done()


async def test_only_as_many_bars_of_the_past_are_kept_as_were_asked_for() -> None:
    stream = World().bars(history_bars=2)
    answer(stream, [0, 1, 2, 3])
    assert starts(stream.history) == [1, 2]


async def test_a_bar_closes_when_the_next_ones_date_appears_and_carries_that_arrival() -> None:
    world = World()
    stream = world.bars()
    answer(stream, [0, 1])
    stream.holding = False
    world.now_ns = 100
    update(stream, raw(1, close=11.0))
    assert world.received.bars == []
    world.now_ns = 200
    update(stream, raw(2))
    (bar,) = world.received.bars
    assert (bar.close, bar.receive_ns) == (11.0, 200)


async def test_revised_and_repeated_bars_are_never_delivered_again() -> None:
    world = World()
    stream = world.bars()
    answer(stream, [0, 1])
    stream.holding = False
    for number in (1, 2, 1, 0, 2, 2, 3, 2):
        update(stream, raw(number))
    assert starts(world.received.bars) == [1, 2]
    assert stream.revision_count == 3


async def test_bars_missed_while_away_come_once_in_order_and_are_not_live() -> None:
    world = World()
    stream = world.bars()
    answer(stream, [0, 1])
    stream.holding = False
    update(stream, raw(2))
    stream.requested(9, world.now_ns)
    answer(stream, [0, 1, 2, 3, 4, 5])
    assert starts(world.received.bars) == [1, 2, 3, 4]
    assert [bar.receive_ns for bar in world.received.bars[1:]] == [0, 0, 0]
    world.now_ns = 300
    update(stream, raw(5))
    update(stream, raw(6))
    assert (starts(world.received.bars)[-1], world.received.bars[-1].receive_ns) == (5, 300)


async def test_a_bar_whose_successor_comes_much_later_is_not_live() -> None:
    world = World()
    stream = world.bars()
    answer(stream, [0, 1])
    stream.holding = False
    update(stream, raw(1))
    world.now_ns += 61 * NS
    update(stream, raw(1000))
    assert [bar.receive_ns for bar in world.received.bars] == [0]


async def test_of_several_bars_that_close_in_one_packet_only_the_last_one_is_live() -> None:
    world = World()
    stream = world.bars()
    answer(stream, [0, 1])
    stream.holding = False
    for number in (1, 2, 3, 4):
        stream.on_bar_update(raw(number))
    stream.flush()
    assert [bar.receive_ns for bar in world.received.bars] == [0, 0, 1]


async def test_missing_bars_of_trading_hours_are_asked_for_before_anything_is_delivered() -> None:
    world = World()
    stream = world.bars()
    asked: list[object] = []
    stream.on_gap = asked.append
    stream.trades_between = lambda start_ns, end_ns: start_ns < end_ns
    answer(stream, [0, 1])
    stream.holding = False
    update(stream, raw(1, close=10.1))
    update(stream, raw(4))
    update(stream, raw(5))
    assert (asked, world.received.bars) == ([stream], [])
    stream.requested(2, world.now_ns)
    answer(stream, [0, 1, 2, 3, 4, 5])
    assert starts(world.received.bars) == [1, 2, 3, 4]
    update(stream, raw(9))  # too soon to ask again: it has no trades
    assert starts(world.received.bars) == [1, 2, 3, 4, 5]
    assert len(asked) == 1


async def test_while_the_link_is_lost_nothing_is_believed_until_a_fresh_answer() -> None:
    world = World()
    stream = world.bars()
    answer(stream, [0, 1])
    stream.holding = False
    stream.suspend()
    update(stream, raw(2))
    assert world.received.bars == []
    stream.requested(2, world.now_ns)
    answer(stream, [0, 1, 2, 3])
    assert starts(world.received.bars) == [1, 2]


async def test_a_daily_bar_closes_live_when_the_next_trading_day_begins() -> None:
    world = World()
    stream = world.bars(86_400)
    for day in ("20240131", "20240201"):
        stream.on_history(SimpleNamespace(**{**vars(raw(0)), "date": day}))
    stream.on_history_end()
    stream.holding = False
    update(stream, SimpleNamespace(**{**vars(raw(0)), "date": "20240202"}))
    world.now_ns += 65 * 3600 * NS
    update(stream, SimpleNamespace(**{**vars(raw(0)), "date": "20240205"}))
    assert [bar.receive_ns > 0 for bar in world.received.bars] == [True, True]


async def test_a_bar_that_can_not_be_read_is_dropped_and_the_next_one_counts() -> None:
    world = World()
    stream = world.bars()
    answer(stream, [0, 1])
    stream.holding = False
    update(stream, SimpleNamespace(**{**vars(raw(1)), "high": -1.0}))
    update(stream, raw(2))
    assert starts(world.received.bars) == [1]


async def test_bars_that_close_before_the_past_is_handed_over_belong_to_it() -> None:
    world = World()
    stream = world.bars()
    answer(stream, [0, 1])
    update(stream, raw(2))
    assert starts(stream.history) == [0, 1]
    assert world.received.bars == []


async def test_five_second_bars_build_bars_and_ask_for_what_they_missed() -> None:
    world = World()
    stream = RealtimeBarStream(AAPL, world.received, world.time, 60, 60)
    gaps: list[int] = []
    stream.on_history_gap = lambda s: gaps.append(s.last_start_ns)
    stream.requested(1, 1)
    begin_s = START_S - START_S % 60
    base = (begin_s - START_S) // 60
    answer(stream, [base - 2, base - 1, base])
    stream.holding = False
    for second in range(30, 180, 5):
        world.now_ns = second
        stream.on_realtime_bar(begin_s + second, (10.0, 11.0, 9.0, 10.0), 1.0)
        stream.flush()
        if len(gaps) == 1 and stream.last_start_ns < begin_s * NS:
            answer(stream, [base - 1, base])
    assert len(gaps) == 1
    assert [bar.start_ns // NS - begin_s for bar in world.received.bars] == [0, 60, 120]
    assert [bar.receive_ns for bar in world.received.bars] == [0, 115, 175]
    assert world.received.bars[-1].volume == 12.0


def quotes(world: World) -> QuoteStream:
    stream = QuoteStream(AAPL, world.received, world.time)
    stream.requested(1, 1)
    return stream


def test_a_packet_with_both_sides_is_one_quote() -> None:
    world = World()
    stream = quotes(world)
    stream.on_price(1, 10.0, 100.0)
    stream.on_price(2, 10.02, 200.0)
    stream.flush()
    stream.flush()
    (quote,) = world.received.quotes
    assert (quote.bid_price, quote.bid_size, quote.ask_price, quote.ask_size, quote.receive_ns) == (
        10.0,
        100.0,
        10.02,
        200.0,
        1,
    )
    stream.on_size(3, 300.0)
    stream.flush()
    assert world.received.quotes[-1].ask_size == 300.0
    stream.on_price(2, -1.0, 0.0)
    stream.flush()
    assert world.received.quotes[-1].ask_price == 0.0


def test_a_print_is_delivered_once_when_it_comes_as_last_price_and_as_rt_volume() -> None:
    world = World()
    stream = quotes(world)
    stream.on_price(4, 10.0, 5.0)
    stream.on_string(48, "10.0;5;1706693400123;1000;10.0;true")
    stream.flush()
    stream.on_price(4, 10.1, 6.0)
    stream.on_string(48, "10.1;6;1706693401000;1006;10.0;true")
    stream.flush()
    assert [(t.price, t.size) for t in world.received.trades] == [(10.0, 5.0), (10.1, 6.0)]
    assert world.received.trades[0].event_ns == 1706693400123 * 1_000_000


def test_without_rt_volume_the_last_price_is_a_print_except_the_first_one() -> None:
    world = World()
    stream = quotes(world)
    stream.on_price(68, 10.0, 5.0)
    stream.flush()
    stream.on_price(68, 10.1, 6.0)
    stream.flush()
    assert [(t.price, t.size) for t in world.received.trades] == [(10.1, 6.0)]


def test_halts_and_delayed_data_are_told_when_they_change() -> None:
    world = World()
    stream = quotes(world)
    for value in (-1.0, 0.0, 0.0, 1.0, -1.0, 0.0):
        stream.on_generic(49, value)
    for data_type in (1, 1, 3, 4, 1):
        stream.on_data_type(data_type)
    assert world.received.halts == [False, True, False]
    assert world.received.data_types == [True, False, True]


def depth(world: World) -> tuple[DepthStream, list[Stream]]:
    stream = DepthStream(AAPL, world.received, world.time, 3)
    problems: list[Stream] = []
    stream.on_problem = problems.append
    stream.requested(1, 1)
    for row in range(3):
        stream.on_depth(row, 0, 1, 100.0 - row, 10.0)
        stream.on_depth(row, 0, 0, 101.0 + row, 10.0)
    stream.flush()
    return stream, problems


def test_the_book_follows_list_semantics() -> None:
    world = World()
    stream, problems = depth(world)
    stream.on_depth(0, 2, 1, 0.0, 0.0)
    stream.on_depth(0, 0, 1, 100.5, 7.0)
    stream.flush()
    assert [level.price for level in world.received.books[-1].bids] == [100.5, 99.0, 98.0]
    assert len(world.received.books) == 2
    assert problems == []


@pytest.mark.parametrize("operation", [(9, 1, 1), (9, 0, 1), (0, 7, 1), (9, 2, 0)])
def test_an_impossible_row_asks_for_the_book_again(operation: tuple[int, int, int]) -> None:
    world = World()
    stream, problems = depth(world)
    stream.on_depth(*operation, 100.0, 1.0)
    stream.on_depth(0, 1, 1, 100.1, 1.0)
    stream.flush()
    assert problems == [stream]
    assert len(world.received.books) == 1
    assert "can't be kept up" in stream.problem


def test_a_reset_empties_the_book_and_a_refusal_is_final() -> None:
    world = World()
    stream, problems = depth(world)
    stream.on_error(317, "reset")
    assert problems == []
    stream.on_depth(0, 0, 1, 99.0, 1.0)
    stream.on_depth(0, 0, 0, 99.5, 1.0)
    stream.flush()
    assert len(world.received.books[-1].bids) == 1
    stream.on_error(309, "too many")
    assert stream.refused
    assert "309" in stream.problem


def test_exchange_time_is_ours_at_a_live_gateway_and_the_last_seen_in_a_replay() -> None:
    clock = ExchangeClock(lambda: 1_000_000 * NS)
    clock.set_gateway_time(1_000_003)
    clock.observe(5)
    assert clock.now_ns() == 1_000_000 * NS
    clock.set_gateway_time(500)
    assert clock.now_ns() == 500 * NS
    clock.observe(700 * NS)
    clock.observe(600 * NS)
    assert clock.now_ns() == 700 * NS


def test_information_about_a_stream_is_no_problem() -> None:
    world = World()
    stream = quotes(world)
    called: list[Any] = []
    stream.on_problem = called.append
    stream.on_error(2108, "inactive but should be available")
    assert called == []
    stream.on_error(10197, "competing session")
    assert called == [stream]
    assert not stream.refused
