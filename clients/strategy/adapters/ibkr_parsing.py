"""Turn what the gateway says about markets into our values; pure functions.

Every function raises ValueError, naming the field, for what it can't understand.
Source: Nautilus Trader's Interactive Brokers parsing showed which shapes occur.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from market.bars import check_bar
from market.events import Bar, Instrument

NS_PER_S = 1_000_000_000
DAY_S = 86_400

LAST_TIMESTAMP_TICK = 45
RT_VOLUME_TICK = 48
HALTED_TICK = 49
BID_TICKS = frozenset({1, 66})
ASK_TICKS = frozenset({2, 67})
LAST_TICKS = frozenset({4, 68})
BID_SIZE_TICKS = frozenset({0, 69})
ASK_SIZE_TICKS = frozenset({3, 70})
LAST_SIZE_TICKS = frozenset({5, 71})
LIVE_DATA_TYPE = 1

BAR_SIZE_SETTINGS = {
    5: "5 secs",
    10: "10 secs",
    15: "15 secs",
    30: "30 secs",
    60: "1 min",
    120: "2 mins",
    180: "3 mins",
    300: "5 mins",
    600: "10 mins",
    900: "15 mins",
    1200: "20 mins",
    1800: "30 mins",
    3600: "1 hour",
    7200: "2 hours",
    10800: "3 hours",
    14400: "4 hours",
    28800: "8 hours",
    86400: "1 day",
}
"""What the gateway can be asked for, by length in seconds."""

_REGULAR_SESSION_S = 23_400
_WEEK_DAYS = 5
_ZONES = {
    "EST": "America/New_York",
    "EST5EDT": "America/New_York",
    "US/Eastern": "America/New_York",
    "CST": "America/Chicago",
    "US/Central": "America/Chicago",
    "MET": "Europe/Berlin",
    "GB-Eire": "Europe/London",
    "Japan": "Asia/Tokyo",
    "JST": "Asia/Tokyo",
    "Hongkong": "Asia/Hong_Kong",
}
_CASH_SYMBOL = re.compile(r"([A-Z]{3})[./]([A-Z]{3})")
_SESSION = re.compile(r"(\d{8}):(\d{4})-(?:(\d{8}):)?(\d{4})")


def redact_account(account: str) -> str:
    """Return an account number that may be shown: its last three characters."""
    return f"***{account[-3:]}" if len(account) > 3 else "***"


# --- instruments and hours -----------------------------------------------------------------------


def contract_fields(symbol: str, exchange: str = "SMART", currency: str = "USD") -> dict[str, str]:
    """Return the fields of the contract that a symbol of the configuration stands for.

    "AAPL" is a stock on `exchange` in `currency`, "EUR.USD" is the currency pair on IDEALPRO.
    """
    text = symbol.strip().upper()
    if pair := _CASH_SYMBOL.fullmatch(text):
        return {"symbol": pair[1], "secType": "CASH", "exchange": "IDEALPRO", "currency": pair[2]}
    if not text or any(c.isspace() and c != " " for c in text):
        raise ValueError(f"symbol {symbol!r} is empty or holds odd blanks")
    return {"symbol": text, "secType": "STK", "exchange": exchange, "currency": currency}


def parse_instrument(symbol: str, details: Any) -> Instrument:
    """Return the instrument of contract details; it keeps the symbol it was asked for by."""
    contract = details.contract
    min_tick = float(details.minTick)
    if not contract.conId:
        raise ValueError(f"contract details of {symbol}: conId is missing")
    if not (math.isfinite(min_tick) and min_tick > 0):
        raise ValueError(
            f"contract details of {symbol}: minTick is {details.minTick!r}, a number > 0 is needed"
        )
    return Instrument(
        con_id=int(contract.conId),
        symbol=symbol.strip().upper(),
        currency=contract.currency,
        min_tick=min_tick,
        security_type=contract.secType,
    )


def parse_zone(name: str) -> ZoneInfo:
    """Return the time zone of "US/Eastern", "EST (Eastern Standard Time)" or an IANA name."""
    key = name.split("(")[0].strip()
    try:
        return ZoneInfo(_ZONES.get(key, key))
    except (ZoneInfoNotFoundError, ValueError, OSError) as e:
        raise ValueError(f"time zone {name!r} is unknown (is the tzdata package installed?)") from e


def parse_hours(hours: str, zone_name: str) -> tuple[tuple[int, int], ...]:
    """Return the sessions of `liquidHours` or `tradingHours` as (start_ns, end_ns), UTC, in order.

    Both of the gateway's spellings are read: "20180323:0400-20180323:2000;20180324:CLOSED" and the
    older "20180323:0400-2000,2015-2100".
    """
    if not hours.strip():
        return ()
    zone = parse_zone(zone_name)
    sessions: list[tuple[int, int]] = []
    for day in filter(None, (part.strip() for part in hours.split(";"))):
        if day.upper().endswith(":CLOSED"):
            continue
        day_text = day[:8]
        for number, span in enumerate(day.split(",")):
            text = span if number == 0 or span[:8].isdigit() else f"{day_text}:{span}"
            found = _SESSION.fullmatch(text.strip())
            if found is None:
                raise ValueError(f"trading hours: {span!r} is not like 20180323:0930-20180323:1600")
            start_ns = _local_ns(found[1], found[2], zone)
            end_ns = _local_ns(found[3] or found[1], found[4], zone)
            if end_ns <= start_ns:
                end_ns += DAY_S * NS_PER_S
            sessions.append((start_ns, end_ns))
    return tuple(sorted(set(sessions)))


def _local_ns(day: str, clock: str, zone: ZoneInfo) -> int:
    whole_day = clock == "2400"
    at = datetime.strptime(day + ("0000" if whole_day else clock), "%Y%m%d%H%M").replace(tzinfo=zone)
    return _datetime_ns(at + timedelta(days=1) if whole_day else at)


# --- bars ----------------------------------------------------------------------------------------


def bar_size_setting(bar_size_s: int) -> str:
    """Return the gateway's name of a bar size."""
    try:
        return BAR_SIZE_SETTINGS[bar_size_s]
    except KeyError:
        known = ", ".join(str(size) for size in BAR_SIZE_SETTINGS)
        raise ValueError(f"bar_size_s is {bar_size_s}; the gateway makes bars of {known} seconds") from None


def history_duration(bar_count: int, bar_size_s: int) -> str:
    """Return the `durationStr` that holds at least `bar_count` bars, also over nights and weekends."""
    if bar_size_s >= DAY_S:
        days = bar_count + 1
        return f"{days} D" if days <= 365 else f"{math.ceil(days / 252)} Y"
    days = math.ceil(bar_count * bar_size_s / _REGULAR_SESSION_S) + 1
    return f"{days} D" if days <= 4 * _WEEK_DAYS else f"{math.ceil(days / _WEEK_DAYS)} W"


def bar_start_ns(when: str | int | datetime | date) -> int:
    """Return the begin of a bar, UTC, from any of the shapes the gateway and the libraries use.

    Epoch seconds, "20240131" (a day: its midnight UTC), "20240131 09:30:00 US/Eastern",
    "20240131  09:30:00" (UTC), or a date or datetime (naive is UTC).
    """
    if isinstance(when, datetime):
        return _datetime_ns(when if when.tzinfo else when.replace(tzinfo=UTC))
    if isinstance(when, date):
        return _datetime_ns(datetime.combine(when, time(), UTC))
    text = str(when).strip()
    try:
        if text.isdigit() and len(text) != 8:
            return int(text) * NS_PER_S
        if len(text) == 8:
            return _datetime_ns(datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC))
        day, clock, *zone = text.split()
        zone_info = parse_zone(zone[0]) if zone else UTC
        return _datetime_ns(datetime.strptime(f"{day} {clock}", "%Y%m%d %H:%M:%S").replace(tzinfo=zone_info))
    except ValueError as e:
        raise ValueError(
            f"bar date {text!r} is neither epoch seconds, YYYYMMDD nor YYYYMMDD HH:MM:SS ZONE"
        ) from e


def _datetime_ns(at: datetime) -> int:
    return round(at.timestamp()) * NS_PER_S


def parse_bar(con_id: int, raw: Any, bar_size_s: int) -> Bar:
    """Return a bar of the gateway's; `receive_ns` is 0 until its end was seen live.

    Currency bars come with volume -1, which stands for none.
    """
    start_ns = bar_start_ns(raw.date)
    bar = Bar(
        con_id=con_id,
        start_ns=start_ns,
        end_ns=start_ns + bar_size_s * NS_PER_S,
        open=float(raw.open),
        high=float(raw.high),
        low=float(raw.low),
        close=float(raw.close),
        volume=max(0.0, float(raw.volume)),
    )
    if (problem := check_bar(bar)) is not None:
        raise ValueError(f"bar of {raw.date}: {problem}")
    return bar


# --- ticks ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RtVolume:
    """A print from generic tick 233."""

    price: float
    size: float
    event_ns: int


def parse_rt_volume(text: str) -> RtVolume | None:
    """Return the print in "price;size;ms since epoch;total;vwap;single", None when it has no price."""
    parts = text.split(";")
    if len(parts) < 3:
        raise ValueError(f"RTVolume {text!r} has {len(parts)} parts, 6 are needed")
    if not parts[0] or not parts[2]:
        return None
    try:
        price, size, event_ns = float(parts[0]), float(parts[1] or 0), int(parts[2]) * 1_000_000
    except ValueError as e:
        raise ValueError(f"RTVolume {text!r} is not price;size;milliseconds;…") from e
    return RtVolume(price, size, event_ns) if price > 0 and size > 0 else None


def parse_halted(value: float) -> bool | None:
    """Return whether tick 49 says that trading is halted; None when it says that it does not know."""
    return None if value < 0 else value > 0
