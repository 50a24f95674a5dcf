import pytest

from fakes.charts_to_read import chart_query
from server_runtime.errors import InvalidFieldError
from tradeserve_client.chart_messages import read_message
from vision_server.requests import parse_read


def test_everything_that_is_told_is_in_the_prompt() -> None:
    query = chart_query(1)
    assert query.extent is not None
    task = parse_read(read_message(query, "r"))
    assert (task.request_id, task.con_id, task.symbol) == ("r", query.con_id, query.symbol)
    assert task.extent is not None
    assert task.extent.low_price == query.extent.low_price
    text = task.prompt.text
    for part in (f"symbol {query.symbol}", "bars of 1m", "rsi_14", "volume forecast 1.10", "past 8 alike"):
        assert part in text


def test_what_is_not_told_is_not_in_the_prompt() -> None:
    task = parse_read(read_message(chart_query(1, told=False), "r"))
    assert task.extent is None
    assert "bars of" not in task.prompt.text
    assert "past" not in task.prompt.after_chart


def test_only_the_newest_chart_counts_of_a_contract_or_else_of_a_symbol() -> None:
    one = parse_read(read_message(chart_query(1, con_id=5), "r"))
    same = parse_read(read_message(chart_query(2, con_id=5), "r"))
    assert one.instrument == same.instrument
    unknown = [parse_read(read_message(chart_query(seed, con_id=0), "r")).instrument for seed in (1, 2, 1001)]
    assert unknown[0] != unknown[1]
    assert unknown[0] == unknown[2], "the same symbol"


@pytest.mark.parametrize("seconds", [-70_000_000_000, 300_000_000_000])
def test_times_outside_of_the_calendar_are_refused(seconds: int) -> None:
    message = read_message(chart_query(1), "r")
    message.as_of_time.seconds = seconds
    with pytest.raises(InvalidFieldError, match="as_of_time"):
        parse_read(message)


def test_an_unnamed_instrument_is_refused() -> None:
    message = read_message(chart_query(1), "r")
    message.ClearField("instrument")
    with pytest.raises(InvalidFieldError, match="instrument"):
        parse_read(message)


def test_past_outcomes_that_cannot_be_are_named() -> None:
    message = read_message(chart_query(1), "r")
    message.context.past_outcomes[0].similarity = 3.0
    with pytest.raises(InvalidFieldError, match="past_outcomes"):
        parse_read(message)
