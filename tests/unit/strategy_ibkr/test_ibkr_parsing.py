from __future__ import annotations

from datetime import UTC, date, datetime
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest

from strategy.adapters.ibkr_parsing import (
    RtVolume,
    bar_size_setting,
    bar_start_ns,
    contract_fields,
    history_duration,
    parse_bar,
    parse_halted,
    parse_hours,
    parse_instrument,
    parse_rt_volume,
    parse_zone,
    redact_account,
)

NS = 1_000_000_000


def ns(*parts: int, zone: str = "UTC") -> int:
    return int(datetime(*parts, tzinfo=ZoneInfo(zone)).timestamp()) * NS  # type: ignore[arg-type, misc]


def raw(**changes: object) -> SimpleNamespace:
    values = {"date": "1706693400", "open": 10.0, "high": 11.0, "low": 9.0, "close": 10.5, "volume": 100.0}
    return SimpleNamespace(**{**values, **changes})


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("1706693400", ns(2024, 1, 31, 9, 30)),
        (1706693400, ns(2024, 1, 31, 9, 30)),
        ("20240131", ns(2024, 1, 31)),
        ("20240131  09:30:00", ns(2024, 1, 31, 9, 30)),
        ("20240131 09:30:00 US/Eastern", ns(2024, 1, 31, 9, 30, zone="America/New_York")),
        ("20240701 09:30:00 America/New_York", ns(2024, 7, 1, 13, 30)),
        (date(2024, 1, 31), ns(2024, 1, 31)),
        (datetime(2024, 1, 31, 9, 30, tzinfo=UTC), ns(2024, 1, 31, 9, 30)),
        (datetime(2024, 1, 31, 9, 30), ns(2024, 1, 31, 9, 30)),  # noqa: DTZ001 - naive is what is tested
    ],
)
def test_the_begin_of_a_bar_is_utc_whatever_shape_its_date_has(when: object, expected: int) -> None:
    assert bar_start_ns(when) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "when", ["", "yesterday", "2024-01-31", "20241331", "20240131 9h30", "20240131 09:30:00 Moon/Base"]
)
def test_a_bar_date_that_is_none_names_itself(when: str) -> None:
    with pytest.raises(ValueError, match="bar date"):
        bar_start_ns(when)


def test_a_bar_ends_one_bar_size_after_its_begin_and_is_not_live() -> None:
    bar = parse_bar(7, raw(), 300)
    assert (bar.con_id, bar.end_ns - bar.start_ns, bar.close, bar.receive_ns) == (7, 300 * NS, 10.5, 0)


def test_a_currency_bar_without_volume_has_volume_zero() -> None:
    assert parse_bar(7, raw(volume=-1), 60).volume == 0.0


@pytest.mark.parametrize("changes", [{"open": -1.0}, {"close": float("nan")}, {"high": 8.0}, {"low": 0.0}])
def test_a_bar_with_impossible_prices_is_refused_with_its_date(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="bar of 1706693400"):
        parse_bar(7, raw(**changes), 60)


def test_liquid_hours_become_sessions_in_utc_and_closed_days_are_left_out() -> None:
    hours = "20240308:0930-20240308:1600;20240309:CLOSED;20240311:0930-20240311:1600"
    assert parse_hours(hours, "US/Eastern") == (
        (ns(2024, 3, 8, 14, 30), ns(2024, 3, 8, 21)),
        (ns(2024, 3, 11, 13, 30), ns(2024, 3, 11, 20)),  # daylight saving time began in between
    )


def test_the_older_spelling_of_hours_and_sessions_over_midnight_are_read() -> None:
    assert parse_hours("20180323:0930-1200,1300-1600", "UTC") == (
        (ns(2018, 3, 23, 9, 30), ns(2018, 3, 23, 12)),
        (ns(2018, 3, 23, 13), ns(2018, 3, 23, 16)),
    )
    assert parse_hours("20180323:1715-20180324:1700", "UTC") == (
        (ns(2018, 3, 23, 17, 15), ns(2018, 3, 24, 17)),
    )
    assert parse_hours("20180323:1800-1700", "UTC") == ((ns(2018, 3, 23, 18), ns(2018, 3, 24, 17)),)
    assert parse_hours("20180323:0000-20180323:2400", "UTC") == ((ns(2018, 3, 23), ns(2018, 3, 24)),)


def test_missing_hours_are_no_sessions_and_wrong_ones_name_the_part() -> None:
    assert parse_hours("", "US/Eastern") == ()
    with pytest.raises(ValueError, match="20180323:9-16"):
        parse_hours("20180323:9-16", "US/Eastern")


def test_time_zones_are_understood_in_the_gateways_spellings() -> None:
    assert parse_zone("EST (Eastern Standard Time)").key == "America/New_York"
    assert parse_zone("MET (Middle Europe Time)").key == "Europe/Berlin"
    assert parse_zone("Asia/Tokyo").key == "Asia/Tokyo"
    with pytest.raises(ValueError, match="Nowhere"):
        parse_zone("Nowhere")


def test_symbols_stand_for_stocks_or_currency_pairs() -> None:
    assert contract_fields(" aapl ") == {
        "symbol": "AAPL",
        "secType": "STK",
        "exchange": "SMART",
        "currency": "USD",
    }
    assert contract_fields("EUR.USD") == {
        "symbol": "EUR",
        "secType": "CASH",
        "exchange": "IDEALPRO",
        "currency": "USD",
    }
    assert contract_fields("BRK B")["symbol"] == "BRK B"
    assert contract_fields("VOD", "LSE", "GBP")["currency"] == "GBP"
    with pytest.raises(ValueError, match="empty"):
        contract_fields(" ")


def test_an_instrument_needs_an_id_and_a_price_step() -> None:
    contract = SimpleNamespace(conId=265598, currency="USD", secType="STK")
    assert parse_instrument("aapl", SimpleNamespace(contract=contract, minTick=0.01)).symbol == "AAPL"
    with pytest.raises(ValueError, match="minTick"):
        parse_instrument("AAPL", SimpleNamespace(contract=contract, minTick=0.0))
    contract.conId = 0
    with pytest.raises(ValueError, match="conId"):
        parse_instrument("AAPL", SimpleNamespace(contract=contract, minTick=0.01))


def test_bar_sizes_have_the_gateways_names() -> None:
    assert [bar_size_setting(s) for s in (60, 300, 3600, 86400)] == ["1 min", "5 mins", "1 hour", "1 day"]
    with pytest.raises(ValueError, match="bar_size_s is 77"):
        bar_size_setting(77)


@pytest.mark.parametrize(
    ("bars", "size", "expected"),
    [
        (61, 60, "2 D"),
        (61, 300, "2 D"),
        (61, 3600, "11 D"),
        (300, 3600, "10 W"),
        (61, 86400, "62 D"),
        (400, 86400, "2 Y"),
    ],
)
def test_the_duration_holds_the_bars_over_nights_and_weekends(bars: int, size: int, expected: str) -> None:
    assert history_duration(bars, size) == expected


def test_prints_are_read_from_rt_volume() -> None:
    assert parse_rt_volume("701.28;1;1348075471534;67854;701.46918464;true") == RtVolume(
        701.28, 1.0, 1348075471534 * 1_000_000
    )
    assert parse_rt_volume(";;1348075471534;67854;701.46;true") is None
    with pytest.raises(ValueError, match="RTVolume"):
        parse_rt_volume("x;y;z")


def test_an_unknown_halt_state_is_none() -> None:
    assert [parse_halted(v) for v in (-1.0, 0.0, 1.0, 2.0)] == [None, False, True, True]


def test_an_account_number_is_never_shown_in_full() -> None:
    assert redact_account("DU1234567") == "***567"
    assert redact_account("U12") == "***"
