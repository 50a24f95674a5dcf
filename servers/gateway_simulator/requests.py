"""Answers to API requests, by message number. Orders and the account are in `order_requests`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway_simulator import history, messages, order_requests
from gateway_simulator.contracts import NO_CONTRACT, ContractQuery, find
from gateway_simulator.history import HistoryError, HistoryRequest
from gateway_simulator.market_data import (
    MAX_DEPTH_ROWS,
    BarLine,
    DepthLine,
    QuoteLine,
    RealTimeBarLine,
    TickLine,
)
from gateway_simulator.session import DAY_S, NS_PER_S
from gateway_simulator.wire import FieldReader, encode

if TYPE_CHECKING:
    from gateway_simulator.connection import Connection

START_API = 71
MAX_QUOTE_LINES = 100
MAX_TICK_LINES = 5
MAX_BAR_LINES = 50
TICK_KINDS = {"Last": 1, "AllLast": 2, "BidAsk": 3, "MidPoint": 4}

Handler = Callable[["Connection", FieldReader, int], None]


def answer(connection: Connection, kind: int, fields: FieldReader, received_ns: int) -> None:
    """Answer one request; an unknown kind gets error 320, as an unsupported one does.

    Raises:
        WireError: The request is malformed.
        ValueError: A number in it is none.
    """
    handler = HANDLERS.get(kind)
    if handler is None:
        connection.error(-1, 320, f"Error reading request: message {kind} is not simulated")
        return
    handler(connection, fields, received_ns)


def _start_api(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    fields.skip(1)
    connection.start(fields.integer())


def _contract_details(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    fields.skip(1)
    request_id = fields.integer()
    found = find(list(connection.gateway.listings.values()), ContractQuery.read(fields))
    if not found:
        connection.error(request_id, 200, NO_CONTRACT)
        return
    gateway = connection.gateway
    for listing in found:
        frame = messages.contract_details(
            connection.version, request_id, listing, gateway.session, gateway.hours
        )
        connection.send(frame)
    connection.send(encode(52, 1, request_id))


def _matching_symbols(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    request_id, pattern = fields.integer(), fields.text().upper()
    found = [one for one in connection.gateway.listings.values() if pattern in one.symbol]
    connection.send(messages.symbol_samples(connection.version, request_id, found))


def _market_data(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    fields.skip(1)
    request_id = fields.integer()
    query = ContractQuery.read(fields)
    if query.security_type == "BAG":
        connection.error(request_id, 321, "Error validating request.-combinations are not simulated")
        return
    if fields.flag():
        fields.skip(3)
    generic, snapshot = fields.text().split(","), fields.flag()
    listing = connection.look_up(request_id, query)
    if listing is None:
        return
    live = connection.subscriptions.quotes
    if len(live) >= MAX_QUOTE_LINES:
        connection.error(request_id, 101, "Max number of tickers has been reached")
        return
    line = connection.gateway.replay.lines[listing.instrument.con_id]
    quotes = QuoteLine(request_id, line, connection.data_type in (3, 4), "233" in generic)
    connection.send(
        encode(81, request_id, messages.number(line.instrument.min_tick), "9c0001", 3),
        encode(58, 1, request_id, connection.data_type),
        *quotes.messages(),
    )
    if snapshot:
        connection.send(encode(57, 1, request_id))
    else:
        live[request_id] = quotes


def _market_depth(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    fields.skip(1)
    request_id = fields.integer()
    listing = connection.look_up(request_id, ContractQuery.read(fields))
    if listing is None:
        return
    rows, smart = fields.integer(), fields.flag()
    live, most = connection.subscriptions.depth, connection.gateway.options.depth_lines
    if len(live) >= most:
        connection.error(request_id, 309, f"Max number ({most}) of market depth requests has been reached")
        return
    line = connection.gateway.replay.lines[listing.instrument.con_id]
    depth = DepthLine(request_id, line, max(1, min(rows, MAX_DEPTH_ROWS)), smart)
    live[request_id] = depth
    connection.send(*depth.messages())


def _tick_by_tick(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    request_id = fields.integer()
    listing = connection.look_up(request_id, ContractQuery.read(fields))
    if listing is None:
        return
    kind = fields.text()
    if kind not in TICK_KINDS:
        connection.error(request_id, 321, f"Error validating request.-unknown tick type {kind!r}")
    elif len(connection.subscriptions.ticks) >= MAX_TICK_LINES:
        connection.error(request_id, 10190, "Max number of tick-by-tick requests has been reached.")
    else:
        line = connection.gateway.replay.lines[listing.instrument.con_id]
        connection.subscriptions.ticks[request_id] = TickLine(request_id, line, TICK_KINDS[kind])


def _real_time_bars(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    fields.skip(1)
    request_id = fields.integer()
    listing = connection.look_up(request_id, ContractQuery.read(fields))
    if listing is None:
        return
    size_s = fields.integer()
    if connection.gateway.session.bar_size_s == DAY_S:
        connection.error(request_id, 420, "Invalid Real-time Query:this session has daily bars only")
    elif size_s != 5:
        connection.error(
            request_id, 321, f"Error validating request.-real-time bars have 5 seconds, not {size_s}"
        )
    else:
        line = connection.gateway.replay.lines[listing.instrument.con_id]
        connection.subscriptions.real_time_bars[request_id] = RealTimeBarLine(request_id, line)
        connection.gateway.bars_wanted()


def _historical_data(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    request_id = fields.integer()
    query = ContractQuery.read(fields)
    fields.skip(1)
    end, bar_size, duration = fields.text(), fields.text(), fields.text()
    fields.skip(1)
    what, format_date = fields.text(), fields.integer()
    request = HistoryRequest(end, bar_size, duration, what, format_date, fields.flag())
    listing = connection.look_up(request_id, query)
    if listing is None:
        return
    gateway = connection.gateway
    line = gateway.replay.lines[listing.instrument.con_id]
    live = connection.subscriptions.bars
    try:
        history.check(request, gateway.session, line.instrument.security_type)
        if request.keep_up_to_date and len(live) >= MAX_BAR_LINES:
            raise HistoryError(162, "Historical Market Data Service error message:too many open requests")
        span, rows = history.rows(request, gateway.session, line, gateway.replay.now_ns)
    except HistoryError as problem:
        connection.error(request_id, problem.code, str(problem))
        return
    connection.send(messages.historical_data(request_id, span, rows))
    if request.keep_up_to_date:
        live[request_id] = BarLine(request_id, line, request, gateway.session, line.bar.index)
        gateway.bars_wanted()


def _head_timestamp(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    request_id = fields.integer()
    listing = connection.look_up(request_id, ContractQuery.read(fields))
    if listing is None:
        return
    fields.skip(3)  # include expired, regular hours, what to show
    format_date = fields.integer()
    start_ns = int(connection.gateway.replay.lines[listing.instrument.con_id].series.start_ns[0])
    text = messages.utc_text(start_ns).removesuffix(" UTC").replace(" ", "-")
    connection.send(encode(88, request_id, start_ns // NS_PER_S if format_date == 2 else text))


def _current_time(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    connection.send(encode(49, 1, connection.gateway.replay.now_ns // NS_PER_S))


def _next_id(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    connection.send(encode(9, 1, connection.gateway.exchange.next_id(connection.client_id)))


def _accounts(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    connection.send(encode(15, 1, connection.gateway.account.number))


def _data_type(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    fields.skip(1)
    connection.data_type = fields.integer()


def _depth_exchanges(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    connection.send(encode(80, 1, "ISLAND", "STK", "", "Deep2", 2147483647))


def _ignore(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    """Accept a request that needs no answer (server log level, automatic binding, …)."""


def _cancel(name: str, *, versioned: bool = True) -> Handler:
    def handler(connection: Connection, fields: FieldReader, received_ns: int) -> None:
        if versioned:
            fields.skip(1)
        getattr(connection.subscriptions, name).pop(fields.integer(), None)

    return handler


HANDLERS: dict[int, Handler] = {
    START_API: _start_api,
    9: _contract_details,
    81: _matching_symbols,
    1: _market_data,
    2: _cancel("quotes"),
    10: _market_depth,
    11: _cancel("depth"),
    97: _tick_by_tick,
    98: _cancel("ticks", versioned=False),
    50: _real_time_bars,
    51: _cancel("real_time_bars"),
    20: _historical_data,
    25: _cancel("bars"),
    87: _head_timestamp,
    90: _ignore,
    49: _current_time,
    8: _next_id,
    17: _accounts,
    59: _data_type,
    82: _depth_exchanges,
    14: _ignore,
    15: _ignore,
    **order_requests.HANDLERS,
}
