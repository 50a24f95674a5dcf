"""Answers historical-data requests from a session, never with anything after the replay's time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from gateway_simulator.messages import number
from gateway_simulator.replay import FormingBar, Line
from gateway_simulator.session import DAY_S, NS_PER_S, Session
from gateway_simulator.wire import Field

MAX_BARS = 10_000
BAR_SIZE_NAMES = {60: ("1 min",), 300: ("5 mins",), 3600: ("1 hour",), DAY_S: ("1 day", "1D", "1d")}
_UNITS_DAYS = {"W": 7, "M": 30.44, "Y": 365.25}


class HistoryError(Exception):
    """A request cannot be answered; `code` is IB's."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class HistoryRequest:
    """A reqHistoricalData."""

    end: str
    bar_size: str
    duration: str
    what_to_show: str
    format_date: int
    keep_up_to_date: bool


def check(request: HistoryRequest, session: Session, security_type: str) -> None:
    """Refuse what the session cannot answer.

    Raises:
        HistoryError: It can't.
    """
    known = [name for names in BAR_SIZE_NAMES.values() for name in names]
    names = BAR_SIZE_NAMES[session.bar_size_s]
    prefix = "Historical Market Data Service error message:"
    if request.bar_size not in known:
        raise HistoryError(
            321, f"Error validating request.-Invalid bar size {request.bar_size!r}; known: {known}"
        )
    if request.bar_size not in names:
        raise HistoryError(162, f"{prefix}this session has bars of {names[0]!r}, not {request.bar_size!r}")
    allowed = ("TRADES", "ADJUSTED_LAST") if security_type == "STK" else ("MIDPOINT", "TRADES")
    if request.what_to_show not in allowed:
        raise HistoryError(
            162, f"{prefix}{request.what_to_show} is not in this session; ask for {allowed[0]}"
        )
    if request.keep_up_to_date and request.end:
        raise HistoryError(321, "Error validating request.-keepUpToDate takes no end date and time")
    if request.format_date not in (1, 2):
        raise HistoryError(
            321, f"Error validating request.-formatDate must be 1 or 2, not {request.format_date}"
        )
    _duration(request.duration)


def rows(
    request: HistoryRequest, session: Session, line: Line, now_ns: int
) -> tuple[tuple[str, str], list[list[Field]]]:
    """Return ((start, end) texts, bars) of a checked request.

    A request that stays up to date gets the forming bar as its last one, as IB sends it; a plain
    one only when that bar has traded.
    """
    end_ns = _end_ns(request.end, session.zone) if request.end else now_ns
    series = line.series
    closed = min(line.bar.index, int(np.searchsorted(series.end_ns, end_ns, side="right")))
    first = _first_bar(request, session, line, closed, end_ns)
    answer = [bar_row(request, session, line, index) for index in range(first, closed)]
    forming_counts = not request.end and line.bar.index < len(series.start_ns)
    if forming_counts and (request.keep_up_to_date or line.bar.count):
        answer.append(forming_row(request, session, line.bar))
    if not answer:
        raise HistoryError(162, "Historical Market Data Service error message:HMDS query returned no data")
    begin_ns = int(series.start_ns[first]) if first < closed else line.bar.start_ns
    return (_text(begin_ns, session.zone), _text(end_ns, session.zone)), answer


def bar_row(request: HistoryRequest, session: Session, line: Line, index: int) -> list[Field]:
    """Return a closed bar as a row."""
    series = line.series
    values = [float(column[index]) for column in (series.open, series.high, series.low, series.close)]
    return _row(request, session, int(series.start_ns[index]), values, float(series.volume[index]), 1)


def forming_row(request: HistoryRequest, session: Session, bar: FormingBar) -> list[Field]:
    """Return the forming bar as a row."""
    values = [bar.open, bar.high, bar.low, bar.close]
    return _row(request, session, bar.start_ns, values, bar.volume, bar.count)


def _row(
    request: HistoryRequest,
    session: Session,
    start_ns: int,
    values: Sequence[float],
    volume: float,
    count: int,
) -> list[Field]:
    date = bar_date(session, start_ns, request.format_date)
    average = sum(values) / 4
    return [date, *(number(value) for value in values), number(volume), number(average), count]


def bar_date(session: Session, start_ns: int, format_date: int) -> str:
    """Return a bar's date: of a daily bar the day, else local time with zone or epoch seconds."""
    if session.bar_size_s == DAY_S:
        return f"{_local(start_ns, session.zone):%Y%m%d}"
    return str(start_ns // NS_PER_S) if format_date == 2 else _text(start_ns, session.zone)


def _local(time_ns: int, zone: str) -> datetime:
    return datetime.fromtimestamp(time_ns // NS_PER_S, UTC).astimezone(ZoneInfo(zone))


def _text(time_ns: int, zone: str) -> str:
    name = "US/Eastern" if zone == "America/New_York" else zone
    return f"{_local(time_ns, zone):%Y%m%d %H:%M:%S} {name}"


def _duration(text: str) -> tuple[int, str]:
    count, _, unit = text.partition(" ")
    if not count.isdigit() or int(count) < 1 or unit not in ("S", "D", *_UNITS_DAYS):
        raise HistoryError(
            321, f"Error validating request.-Invalid duration {text!r}; write for example '2 D'"
        )
    return int(count), unit


def _first_bar(request: HistoryRequest, session: Session, line: Line, closed: int, end_ns: int) -> int:
    count, unit = _duration(request.duration)
    starts = line.series.start_ns
    if unit == "S":
        first = closed - -(-count // session.bar_size_s)
    elif unit == "D":
        days_seen: set[object] = set()
        first = closed
        if line.bar.count and not request.end:
            days_seen.add(_local(line.bar.start_ns, session.zone).date())
        while first > 0:
            days_seen.add(_local(int(starts[first - 1]), session.zone).date())
            if len(days_seen) > count:
                break
            first -= 1
    else:
        span = timedelta(days=count * _UNITS_DAYS[unit])
        begin_ns = end_ns - int(span.total_seconds()) * NS_PER_S
        first = int(np.searchsorted(starts, begin_ns))
    return max(0, first, closed - MAX_BARS)


def _end_ns(text: str, zone: str) -> int:
    for pattern, in_utc in (("%Y%m%d-%H:%M:%S", True), ("%Y%m%d %H:%M:%S", False)):
        head = " ".join(text.split(" ")[:2])
        try:
            naive = datetime.strptime(head, pattern)  # noqa: DTZ007 - the zone comes after
        except ValueError:
            continue
        named = text.removeprefix(head).strip()
        try:
            info = ZoneInfo("UTC" if in_utc else named or zone)
        except (KeyError, ValueError) as problem:
            raise HistoryError(321, f"Error validating request.-unknown time zone {named!r}") from problem
        return int(naive.replace(tzinfo=info).timestamp()) * NS_PER_S
    raise HistoryError(321, f"Error validating request.-Invalid end date and time {text!r}")
