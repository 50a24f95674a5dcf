import dataclasses

import pytest

from market.bars import BarAggregator
from market.events import Bar, Trade

S = 1_000_000_000


def part(start_s: int, price: float, volume: float = 10.0) -> Bar:
    return Bar(1, start_s * S, (start_s + 5) * S, price, price + 1, price - 1, price + 0.5, volume, start_s)


def trade(at_s: float, price: float, size: float = 1.0) -> Trade:
    return Trade(1, int(at_s * S), price, size)


def test_five_second_bars_make_a_minute_that_closes_with_its_last_part() -> None:
    aggregator = BarAggregator(1, 60)
    for index in range(11):
        assert aggregator.add_bar(part(60 + 5 * index, 10.0 + index)) == ()
    (minute,) = aggregator.add_bar(part(115, 5.0))
    assert minute == Bar(1, 60 * S, 120 * S, 10.0, 21.0, 4.0, 5.5, 120.0, receive_ns=115)


def test_the_first_interval_is_dropped_when_its_begin_was_missed() -> None:
    aggregator = BarAggregator(1, 10)
    assert aggregator.add_bar(part(65, 10.0)) == ()
    assert aggregator.add_bar(part(70, 11.0)) == ()
    (bar,) = aggregator.add_bar(part(75, 12.0))
    assert (bar.start_ns, bar.open) == (70 * S, 11.0)


def test_a_missing_last_part_closes_the_interval_with_the_next_one() -> None:
    aggregator = BarAggregator(1, 10)
    aggregator.add_bar(part(60, 10.0))
    (bar,) = aggregator.add_bar(part(80, 11.0))
    assert (bar.start_ns, bar.end_ns, bar.volume) == (60 * S, 70 * S, 10.0)


def test_one_part_can_close_two_bars() -> None:
    aggregator = BarAggregator(1, 10)
    aggregator.add_bar(part(60, 10.0))
    whole = dataclasses.replace(part(70, 11.0), end_ns=80 * S)
    assert [bar.start_ns for bar in aggregator.add_bar(whole)] == [60 * S, 70 * S]


def test_trades_make_bars_from_the_begin_of_a_session() -> None:
    aggregator = BarAggregator(1, 60, origin_ns=90 * S)
    assert aggregator.add_trade(trade(91, 10.0)) == ()
    assert aggregator.add_trade(trade(120, 12.0, size=3.0)) == ()
    assert aggregator.add_trade(trade(149.9, 9.0)) == ()
    (bar,) = aggregator.add_trade(trade(150, 11.0))
    assert bar == Bar(1, 90 * S, 150 * S, 10.0, 12.0, 9.0, 9.0, 5.0)
    (second,) = aggregator.advance(210 * S, receive_ns=7)
    assert (second.open, second.volume, second.receive_ns) == (11.0, 1.0, 7)
    assert aggregator.advance(270 * S) == ()


def test_the_first_interval_of_trades_without_a_known_begin_is_dropped() -> None:
    aggregator = BarAggregator(1, 60)
    aggregator.advance(65 * S)
    aggregator.add_trade(trade(70, 10.0))
    assert aggregator.add_trade(trade(121, 11.0)) == ()
    assert len(aggregator.advance(180 * S)) == 1


def test_a_new_session_closes_the_short_last_bar_and_realigns() -> None:
    aggregator = BarAggregator(1, 3600, origin_ns=1800 * S)
    aggregator.add_trade(trade(1900, 10.0))
    (short,) = aggregator.start_session(3000 * S)
    assert short.close == 10.0
    aggregator.add_trade(trade(3001, 11.0))
    (bar,) = aggregator.advance(6600 * S)
    assert (bar.start_ns, bar.end_ns) == (3000 * S, 6600 * S)
    with pytest.raises(ValueError, match="lies before data already seen"):
        aggregator.start_session(10)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (part(60, 10.0), "already seen"),
        (dataclasses.replace(part(70, 10.0), con_id=2), "con_id 2 is not 1"),
        (dataclasses.replace(part(70, 10.0), end_ns=90 * S), "crosses the end"),
        (part(70, -1.0), "open is"),
    ],
)
def test_wrong_input_is_counted_with_its_reason(wrong: Bar, reason: str) -> None:
    aggregator = BarAggregator(1, 10)
    aggregator.add_bar(part(60, 10.0))
    assert aggregator.add_bar(wrong) == ()
    assert aggregator.rejected_count == 1
    assert reason in aggregator.rejection


def test_a_bar_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match="bar_size_s is 0"):
        BarAggregator(1, 0)
