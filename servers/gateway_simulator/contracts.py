"""Contracts as the gateway describes them: look-up, details, trading hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from gateway_simulator.session import DAY_S, TAIL_BARS, Session
from gateway_simulator.wire import Field, FieldReader
from market.events import Instrument

MAX_HOURS_DAYS = 30
NO_CONTRACT = "No security definition has been found for the request"


@dataclass(frozen=True, slots=True)
class ContractQuery:
    """What a client said about a contract; empty fields match everything."""

    con_id: int
    symbol: str
    security_type: str
    currency: str
    local_symbol: str
    exchange: str

    @classmethod
    def read(cls, fields: FieldReader, *, has_primary: bool = True) -> ContractQuery:
        """Read the eleven or twelve fields of a contract in a request."""
        con_id = fields.integer()
        symbol, security_type = fields.text(), fields.text()
        fields.skip(4)  # expiry, strike, right, multiplier
        exchange = fields.text()
        if has_primary:
            fields.skip(1)
        currency, local_symbol = fields.text(), fields.text()
        fields.skip(1)  # trading class
        return cls(con_id, symbol, security_type, currency, local_symbol, exchange)


@dataclass(frozen=True, slots=True)
class Listing:
    """How an instrument of the session is listed.

    Attributes:
        instrument: What it is.
        symbol: IB's symbol: the base currency of a pair.
        local_symbol: The exchange's: "EUR.USD" of a pair.
        exchange: Where it is routed: "SMART" or "IDEALPRO".
        primary: Primary exchange.
        long_name: For people; says that a generated instrument is no company.
    """

    instrument: Instrument
    symbol: str
    local_symbol: str
    exchange: str
    primary: str
    long_name: str

    def fields(self, exchange: str = "") -> list[Field]:
        """Return the eleven contract fields of server messages."""
        one = self.instrument
        return [
            one.con_id,
            self.symbol,
            one.security_type,
            "",
            0.0,
            "",
            "",
            exchange or self.exchange,
            one.currency,
            self.local_symbol,
            self.local_symbol,
        ]


def list_instruments(session: Session) -> dict[int, Listing]:
    """Return a session's listings by contract id."""
    listings = {}
    for series in session.series:
        one = series.instrument
        if one.security_type == "CASH":
            base = one.symbol.removesuffix(one.currency).rstrip("./")
            listing = Listing(
                one, base, f"{base}.{one.currency}", "IDEALPRO", "IDEALPRO", f"{base} {one.currency}"
            )
        else:
            name = f"{one.symbol} ({session.source} session of the simulated gateway)"
            listing = Listing(one, one.symbol, one.symbol, "SMART", "NASDAQ", name)
        listings[one.con_id] = listing
    return listings


def find(listings: Sequence[Listing], query: ContractQuery) -> list[Listing]:
    """Return the listings that a query matches."""
    if query.con_id:
        return [one for one in listings if one.instrument.con_id == query.con_id]
    if not query.symbol and not query.local_symbol:
        return []
    return [
        one
        for one in listings
        if query.symbol in ("", one.symbol)
        and query.local_symbol in ("", one.local_symbol)
        and query.security_type in ("", one.instrument.security_type)
        and query.currency in ("", one.instrument.currency)
    ]


def trading_hours(session: Session, *, liquid: bool) -> str:
    """Return the session's days as IB writes hours: "20250312:0930-20250312:1600;…".

    Liquid hours are those of the session's bars. Trading hours go on for the time the clock does.
    """
    hours = session.daily_hours()[:MAX_HOURS_DAYS]
    extra = (
        timedelta(seconds=TAIL_BARS * session.bar_size_s)
        if session.bar_size_s < DAY_S
        else timedelta(hours=4)
    )
    texts = []
    for start, end in hours:
        last_minute = start.replace(hour=23, minute=59)
        close = end if liquid else min(end + extra, last_minute)
        texts.append(f"{start:%Y%m%d:%H%M}-{close:%Y%m%d:%H%M}")
    return ";".join(texts)
