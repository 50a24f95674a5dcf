from __future__ import annotations

import time

import pytest

from fakes.ibkr_world import BAR_SIZE_S, HISTORY_BARS, World, session
from fakes.waiting import until
from gateway_simulator.faults import Fault
from strategy.adapters.errors import FeedError

NS = 1_000_000_000
FAST = 600.0  # ten bars a second


BOTH = ("AAPL", "MSFT")


def expected_starts(symbol: str, first_ns: int, last_ns: int) -> list[int]:
    """The begins of the session's bars between two of them."""
    series = next(s for s in session(BOTH).series if s.instrument.symbol == symbol)
    return [int(start) for start in series.start_ns if first_ns <= start <= last_ns]


async def test_history_and_live_bars_come_exactly_once_in_order_with_their_arrival() -> None:
    async with World(FAST, symbols=BOTH) as world:
        before_ns = time.monotonic_ns()
        instruments = await world.start(*BOTH)
        await until(lambda: all(len(world.recorder.starts(i.con_id)) >= 5 for i in instruments))
        for instrument in instruments:
            past = world.history[instrument.con_id]
            live = [bar for bar in world.recorder.bars if bar.con_id == instrument.con_id]
            starts = [bar.start_ns for bar in (*past, *live)]
            assert len(past) == HISTORY_BARS
            assert starts == expected_starts(instrument.symbol, starts[0], starts[-1])
            assert all(bar.receive_ns == 0 for bar in past)
            arrivals = [bar.receive_ns for bar in live]
            assert before_ns < arrivals[0] < arrivals[-1] <= time.monotonic_ns()
            assert arrivals == sorted(arrivals)
            assert all(bar.end_ns - bar.start_ns == BAR_SIZE_S * NS for bar in live)


async def test_closed_bars_equal_the_sessions_bars() -> None:
    async with World(FAST) as world:
        (aapl,) = await world.start("AAPL")
        await until(lambda: len(world.recorder.bars) >= 3)
        series = next(s for s in session().series if s.instrument.con_id == aapl.con_id)
        rows = {int(start): n for n, start in enumerate(series.start_ns)}
        for bar in (*world.history[aapl.con_id], *world.recorder.bars):
            row = rows[bar.start_ns]
            assert (bar.open, bar.high, bar.low, bar.close, bar.volume) == pytest.approx(
                tuple(
                    float(c[row]) for c in (series.open, series.high, series.low, series.close, series.volume)
                )
            )


async def test_quotes_prints_and_books_are_streamed() -> None:
    async with World(FAST, symbols=BOTH) as world:
        instruments = await world.start(*BOTH)
        got = world.recorder
        await until(lambda: len(got.quotes) > 6 and len(got.books) > 6 and len(got.trades) > 4)
        assert all(0 < q.bid_price < q.ask_price and q.bid_size > 0 < q.receive_ns for q in got.quotes)
        assert all(t.price > 0 and t.size > 0 for t in got.trades)
        for book in got.books:
            prices = [level.price for level in book.bids]
            assert len(prices) == 10 == len(book.asks)
            assert prices == sorted(prices, reverse=True)
            assert book.bids[0].price < book.asks[0].price
        ids = {i.con_id for i in instruments}
        assert {q.con_id for q in got.quotes} == ids == {b.con_id for b in got.books}
        assert set(got.data_types) == {(i, True) for i in ids}
        start_ns, end_ns = session().start_ns, session().end_ns
        times = [q.event_ns for q in got.quotes] + [t.event_ns for t in got.trades]
        assert all(start_ns <= at <= end_ns for at in times + [b.event_ns for b in got.books])


async def test_the_market_of_a_symbol_is_described() -> None:
    async with World(FAST) as world:
        (aapl,) = await world.start()
        assert (aapl.symbol, aapl.currency, aapl.security_type) == ("AAPL", "USD", "STK")
        assert aapl.min_tick == 0.01
        hours = world.feed.trading_hours(aapl.con_id)
        assert any(begin <= session().start_ns < end for begin, end in hours)
        assert world.feed.trading_hours(1) == ()


async def test_an_unknown_symbol_is_named() -> None:
    async with World(FAST) as world:
        with pytest.raises(FeedError, match="symbol NOPE: 200"):
            await world.feed.resolve(["AAPL", "NOPE"])


async def test_bars_of_a_size_the_gateway_refuses_name_the_symbol() -> None:
    async with World(FAST) as world:
        (aapl,) = await world.start()
        from strategy.adapters.ibkr_feed import IbkrFeed

        feed = IbkrFeed(world.connection, 3600, 10)
        await feed.resolve(["AAPL"])
        try:
            with pytest.raises(FeedError, match="AAPL: 162"):
                await feed.subscribe([aapl], world.recorder)
        finally:
            await feed.close()


def test_settings_that_can_not_work_are_refused_at_once() -> None:
    from strategy.adapters.ibkr_connection import IbkrConnection
    from strategy.adapters.ibkr_feed import IbkrFeed

    connection = IbkrConnection("127.0.0.1", 1, 7)
    with pytest.raises(FeedError, match="bar_size_s is 77"):
        IbkrFeed(connection, 77, 60)
    with pytest.raises(FeedError, match="bar_source"):
        IbkrFeed(connection, 60, 60, bar_source="ticks")
    with pytest.raises(FeedError, match="5-second"):
        IbkrFeed(connection, 86_400, 60, bar_source="realtime")


@pytest.mark.parametrize("at_bar", [2, 3])
async def test_bars_missed_while_disconnected_are_filled_in_once_and_are_not_live(at_bar: int) -> None:
    async with World(FAST, [Fault(at_bar, "disconnect")]) as world:
        (aapl,) = await world.start("AAPL")
        await until(lambda: world.recorder.ready_count() >= 2)
        seen = len(world.recorder.bars)
        await until(lambda: len(world.recorder.bars) >= seen + 6)
        live = world.recorder.bars
        starts = [bar.start_ns for bar in (*world.history[aapl.con_id], *live)]
        assert starts == expected_starts("AAPL", starts[0], starts[-1])
        assert live[-1].receive_ns > 0
        assert world.recorder.quotes[-1].receive_ns > world.recorder.bars[at_bar].receive_ns


async def test_after_a_loss_of_data_everything_is_subscribed_again() -> None:
    async with World(FAST, [Fault(2, "1100"), Fault(5, "1101")]) as world:
        (aapl,) = await world.start("AAPL")
        got = world.recorder
        await until(lambda: got.ready_count() >= 2)
        quotes, books, bars = len(got.quotes), len(got.books), len(got.bars)
        await until(
            lambda: len(got.quotes) > quotes + 2 and len(got.books) > books + 2 and len(got.bars) > bars + 2
        )
        reasons = [reason[:5] for _, reason in got.connections]
        assert "1100:" in reasons
        assert "1101:" in reasons
        starts = [bar.start_ns for bar in (*world.history[aapl.con_id], *got.bars)]
        assert starts == expected_starts("AAPL", starts[0], starts[-1])


async def test_after_a_loss_without_data_lost_the_streams_go_on() -> None:
    async with World(FAST, [Fault(2, "1100"), Fault(4, "1102")]) as world:
        await world.start("AAPL")
        got = world.recorder
        await until(lambda: got.ready_count() >= 2)
        bars = len(got.bars)
        await until(lambda: len(got.bars) > bars + 3)
        starts = got.starts(got.bars[0].con_id)
        assert starts == expected_starts("AAPL", starts[0], starts[-1])


async def test_bars_missed_in_a_stall_that_nobody_announced_are_filled_in() -> None:
    async with World(FAST, [Fault(2, "stall_ms", value=400)]) as world:
        (aapl,) = await world.start("AAPL")
        got = world.recorder
        await until(lambda: len(got.bars) >= 10)
        starts = [bar.start_ns for bar in (*world.history[aapl.con_id], *got.bars)]
        assert starts == expected_starts("AAPL", starts[0], starts[-1])
        live = [bar.receive_ns for bar in got.bars if bar.receive_ns]
        assert 3 < len(live) < len(got.bars)
        assert live == sorted(set(live))


async def test_a_silent_subscription_is_asked_for_again_and_said() -> None:
    async with World(60.0) as world:
        await world.broker.connect(world.recorder)
        feed = world.new_feed(stale_after_s=0.5, depth_rows=0)
        instruments = await feed.resolve(["AAPL"])
        await feed.subscribe(instruments, world.recorder)
        await until(lambda: bool(world.recorder.quotes))
        world.server_side().subscriptions.quotes.clear()
        await until(lambda: any("AAPL quotes silent" in reason for _, reason in world.recorder.connections))
        count = len(world.recorder.quotes)
        await until(lambda: len(world.recorder.quotes) > count)


async def test_halts_are_told() -> None:
    faults = [Fault(1, "halt", symbol="AAPL"), Fault(6, "resume", symbol="AAPL")]
    async with World(FAST, faults) as world:
        (aapl,) = await world.start("AAPL")
        await until(lambda: len(world.recorder.halts) >= 3)
        assert world.recorder.halts[:3] == [(aapl.con_id, False), (aapl.con_id, True), (aapl.con_id, False)]


async def test_five_second_bars_are_put_together_into_the_same_bars() -> None:
    async with World(300.0) as world:
        await world.broker.connect(world.recorder)
        feed = world.new_feed(bar_source="realtime", quotes=False, depth_rows=0)
        (aapl,) = await feed.resolve(["AAPL"])
        past = (await feed.subscribe([aapl], world.recorder))[aapl.con_id]
        await until(lambda: len(world.recorder.bars) >= 4)
        starts = [bar.start_ns for bar in (*past, *world.recorder.bars)]
        assert starts == expected_starts("AAPL", starts[0], starts[-1])
        assert world.recorder.bars[-1].receive_ns > 0
