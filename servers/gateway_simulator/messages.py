"""Server messages as fields; the ones whose layout depends on the negotiated version take it.

Source: the decoders of ib_insync 0.9.86 and ib_async 2.1.0, and IB's API reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from gateway_simulator.contracts import Listing
from gateway_simulator.orders import Execution, Order
from gateway_simulator.session import NS_PER_S, Session
from gateway_simulator.wire import UNSET_DOUBLE, Field, encode

MIN_VERSION, MAX_VERSION = 157, 178
# Server versions that changed a layout.
_DURATION, _POST_TO_ATS, _AUTO_CANCEL_PARENT, _SIZE_RULES = 158, 160, 162, 164
_REJECT_JSON, _PEG_BEST, _ISSUER_ID, _NO_FA_PROFILE, _PENDING_PRICE = 166, 170, 176, 177, 178

_ORDER_TYPES = "ACTIVETIM,ADJUST,ALERT,LMT,MKT,STP,STPLMT,WHATIF"

TICK_BID, TICK_ASK, TICK_LAST, TICK_HIGH, TICK_LOW, TICK_VOLUME, TICK_CLOSE, TICK_OPEN = (
    1,
    2,
    4,
    6,
    7,
    8,
    9,
    14,
)
TICK_LAST_TIME, TICK_RT_VOLUME, TICK_HALTED = 45, 48, 49
DELAYED = {1: 66, 2: 67, 4: 68, 6: 72, 7: 73, 8: 74, 9: 75, 14: 76, 45: 88}


def number(value: float) -> str:
    """Return a number as the gateway prints it: no exponent, no needless ".0"."""
    text = f"{value:.8f}".rstrip("0").rstrip(".")
    return text if text not in ("-0", "") else "0"


def utc_text(time_ns: int) -> str:
    """Return "20250312 13:30:00 UTC"."""
    return f"{datetime.fromtimestamp(time_ns // NS_PER_S, UTC):%Y%m%d %H:%M:%S} UTC"


def error(version: int, request_id: int, code: int, message: str) -> bytes:
    """An error, a warning or a notice; request_id -1 where it belongs to none."""
    extra: list[Field] = [""] if version >= _REJECT_JSON else []
    return encode(4, 2, request_id, code, message, *extra)


def contract_details(
    version: int, request_id: int, listing: Listing, session: Session, hours: tuple[str, str]
) -> bytes:
    """Everything about a contract; `hours` are trading and liquid hours in the session's zone."""
    old = version < _SIZE_RULES
    one = listing.instrument
    stock = one.security_type == "STK"
    zone = "US/Eastern" if session.zone == "America/New_York" else session.zone
    fields: list[Field] = [10, *([8] if old else []), request_id]
    fields += [listing.symbol, one.security_type, "", 0.0, "", listing.exchange, one.currency]
    fields += [
        listing.local_symbol,
        listing.local_symbol,
        listing.local_symbol,
        one.con_id,
        number(one.min_tick),
    ]
    fields += [1] if old else []
    fields += ["", _ORDER_TYPES, f"{listing.exchange},{listing.primary}", 1, 0, listing.long_name]
    fields += [listing.primary, "", "Simulated", "Simulated", session.source.split(":")[0], zone, *hours]
    fields += ["", 0, 0, 1, "", "", "26", "", "COMMON" if stock else ""]
    fields += [] if old else [1, 1, 100]
    return encode(*fields)


def historical_data(request_id: int, span: tuple[str, str], rows: Sequence[Sequence[Field]]) -> bytes:
    """Closed (and perhaps one forming) bars: date, open, high, low, close, volume, average, count."""
    flat = [field for row in rows for field in row]
    return encode(17, request_id, *span, len(rows), *flat)


def historical_update(request_id: int, row: Sequence[Field]) -> bytes:
    """The forming bar of a subscription; takes a row of `historical_data`, sends IB's other order."""
    date, opened, high, low, close, volume, average, count = row
    return encode(90, request_id, count, date, opened, close, high, low, average, volume)


def open_order(
    version: int, order: Order, listing: Listing, account: str, margins: Sequence[str] = ()
) -> bytes:
    """An order with its state; `margins` are a what-if's nine figures and the commission."""
    none = UNSET_DOUBLE
    fields: list[Field] = [5, order.order_id, *listing.fields(order.exchange)]
    fields += _order_terms(order, account)
    fields += [order.client_id, order.perm_id, order.outside_rth, 0, 0.0, ""]
    fields += [
        "",
        *_fa(version),
        "",
        "",
        "",
        "",
        "",
    ]  # shares allocation, FA, model, good till, 80A, offset, settling
    fields += [0, "", -1, 0, "", "", "", "", ""]  # short sale slot .. stock range
    fields += ["", 0, 0, 0, "", order.oca_type or 3, 0, 0, "", order.parent_id, 0]
    fields += [
        "",
        0,
        "None",
        "",
        0,
        "",
        "",
        "",
        "?",
        0,
        0,
        "",
    ]  # volatility; the gateway says None AND sends 8 fields
    fields += [0, 0, "", "", "", "", ""]  # continuous update .. combo description
    fields += [0, 0, 0, "", "", "", ""]  # no legs, no parameters, no scale, no hedge
    fields += [0, "", "IB", 0, 0, "", 0, order.what_if]
    fields += [order.status, *(margins[:9] or [none] * 9)]
    fields += [margins[9] if margins else none, "", "", "USD" if margins else "", ""]
    fields += [0, 0, 0]  # randomize size, randomize price, conditions
    fields += ["None", none, none, none, none, none, none, 0, "", "", "", 0.0, 0, 0, 0, 0]
    fields += [""] if version >= _DURATION else []
    fields += [""] if version >= _POST_TO_ATS else []
    fields += [0] if version >= _AUTO_CANCEL_PARENT else []
    fields += [""] * 5 if version >= _PEG_BEST else []
    return encode(*fields)


def completed_order(version: int, order: Order, listing: Listing, account: str, at_ns: int) -> bytes:
    """An order that is done."""
    none = UNSET_DOUBLE
    fields: list[Field] = [101, *listing.fields(order.exchange), *_order_terms(order, account)]
    fields += [order.perm_id, order.outside_rth, 0, 0.0, ""]
    fields += [*_fa(version), "", "", "", "", "", 0, "", -1, "", "", "", "", ""]
    fields += ["", 0, 0, "", 3, 0, "", 0, "None", "", 0, 0, 0, ""]
    fields += [0, 0, "", "", "", 0, 0, 0, "", "", "", ""]
    fields += ["", "IB", 0, 0, "", 0, order.status, 0, 0, 0]
    fields += [
        none,
        none,
        0.0,
        0,
        0,
        "",
        number(order.filled),
        0,
        0,
        "",
        0,
        0,
        0,
        utc_text(at_ns),
        order.status,
    ]
    fields += [""] * 5 if version >= _PEG_BEST else []
    return encode(*fields)


def _order_terms(order: Order, account: str) -> list[Field]:
    return [
        order.action,
        number(order.quantity),
        order.order_type,
        number(order.limit_price),
        number(order.stop_price),
        order.tif,
        order.oca_group,
        account,
        "",
        0,
        order.order_ref,
    ]


def _fa(version: int) -> list[Field]:
    return [""] * (3 if version >= _NO_FA_PROFILE else 4)


def order_status(order: Order, why_held: str = "") -> bytes:
    """How far an order is."""
    return encode(
        3,
        order.order_id,
        order.status,
        number(order.filled),
        number(order.remaining),
        number(order.average_price),
        order.perm_id,
        order.parent_id,
        number(order.last_price),
        order.client_id,
        why_held,
        0.0,
    )


def execution_details(
    version: int, request_id: int, execution: Execution, listing: Listing, account: str
) -> bytes:
    """A fill; request_id -1 for a live one."""
    fields: list[Field] = [11, request_id, execution.order_id, *listing.fields(execution.exchange)]
    fields += [execution.exec_id, utc_text(execution.time_ns), account, execution.exchange]
    fields += [
        "BOT" if execution.action == "BUY" else "SLD",
        number(execution.shares),
        number(execution.price),
    ]
    fields += [execution.perm_id, execution.client_id, 0, number(execution.cumulative)]
    fields += [number(execution.average_price), execution.order_ref, "", "", "", 2]
    fields += [0] if version >= _PENDING_PRICE else []
    return encode(*fields)


def commission_report(execution: Execution, currency: str) -> bytes:
    """What a fill cost, and what it realized."""
    realized = UNSET_DOUBLE if execution.realized_pnl is None else number(execution.realized_pnl)
    return encode(
        59, 1, execution.exec_id, number(execution.commission), currency, realized, UNSET_DOUBLE, ""
    )


def position(listing: Listing, account: str, quantity: float, average_cost: float) -> bytes:
    """What the account holds of a contract."""
    return encode(61, 3, account, *listing.fields(listing.primary), number(quantity), number(average_cost))


def portfolio_value(
    listing: Listing, account: str, quantity: float, price: float, average_cost: float, realized: float
) -> bytes:
    """A holding with its value and PnL."""
    contract = listing.fields()
    contract[7] = listing.primary
    value, unrealized = quantity * price, quantity * (price - average_cost)
    figures = (quantity, price, value, average_cost, unrealized, realized)
    return encode(7, 8, *contract, *(number(figure) for figure in figures), account)


def symbol_samples(version: int, request_id: int, listings: Sequence[Listing]) -> bytes:
    """Contracts whose symbol matches a pattern."""
    fields: list[Field] = []
    for listing in listings:
        one = listing.instrument
        fields += [one.con_id, listing.symbol, one.security_type, listing.primary, one.currency, 0]
        fields += [listing.long_name, ""] if version >= _ISSUER_ID else []
    return encode(79, request_id, len(listings), *fields)
