"""Answers to requests about orders, executions, positions and the account."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway_simulator import messages
from gateway_simulator.contracts import ContractQuery
from gateway_simulator.orders import Order, commission
from gateway_simulator.wire import FieldReader, encode

if TYPE_CHECKING:
    from gateway_simulator.connection import Connection

Handler = Callable[["Connection", FieldReader, int], None]


def _place(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    gateway = connection.gateway
    order_id = fields.integer()
    query = ContractQuery.read(fields)
    order = _read_order(connection, fields, order_id, query.exchange or "SMART")
    gateway.wire_log.order_received(order.order_ref, received_ns)
    listing = connection.look_up(order_id, query)
    if listing is None:
        return
    order.con_id = listing.instrument.con_id
    if order.what_if:
        _answer_what_if(connection, order)
    else:
        gateway.publish(gateway.exchange.place(order))


def _read_order(connection: Connection, fields: FieldReader, order_id: int, exchange: str) -> Order:
    fields.skip(2)  # security id
    action, quantity, order_type = fields.text(), fields.number() or 0.0, fields.text()
    limit_price, stop_price = fields.number() or 0.0, fields.number() or 0.0
    tif, oca_group = fields.text() or "DAY", fields.text()
    fields.skip(3)  # account, open or close, origin
    order_ref, transmit, parent_id = fields.text(), fields.flag(), fields.integer()
    fields.skip(4)  # block, sweep, display size, trigger method
    outside_rth = fields.flag()
    fields.skip(1)  # hidden
    fields.skip(9 if connection.version < 177 else 8)  # shares allocation .. model code
    fields.skip(3)  # short sale
    oca_type = fields.integer()
    return Order(
        client_id=connection.client_id,
        order_id=order_id,
        perm_id=0,
        con_id=0,
        action=action,
        quantity=quantity,
        order_type=order_type,
        limit_price=limit_price if order_type in ("LMT", "STP LMT") else 0.0,
        stop_price=stop_price if order_type in ("STP", "STP LMT") else 0.0,
        tif=tif,
        oca_group=oca_group,
        oca_type=oca_type,
        order_ref=order_ref,
        transmit=transmit,
        parent_id=parent_id,
        outside_rth=outside_rth,
        exchange=exchange,
        what_if=_read_what_if(fields),
    )


def _read_what_if(fields: FieldReader) -> bool:
    """Read on to the what-if flag; the blocks in between have lengths of their own."""
    fields.skip(17)  # rule 80A .. volatility type
    if fields.text():  # delta-neutral order type
        fields.skip(8)
    fields.skip(1)  # delta-neutral price
    fields.skip(6)  # continuous update .. scale sizes
    increment = fields.number()
    if increment is not None and increment > 0:
        fields.skip(7)
    fields.skip(3)  # scale table, active from, active to
    if fields.text():  # hedge type
        fields.skip(1)
    fields.skip(4)  # opt out .. not held
    if fields.flag():  # delta-neutral contract
        fields.skip(3)
    if fields.text():  # algorithm
        fields.skip(2 * fields.integer())
    fields.skip(1)  # algorithm id
    return fields.flag()


def _answer_what_if(connection: Connection, order: Order) -> None:
    gateway = connection.gateway
    line = gateway.replay.lines[order.con_id]
    price = order.limit_price or line.last
    value = order.quantity * price
    equity = gateway.account.net_liquidation(gateway.exchange.prices())
    held = gateway.account.gross_position(gateway.exchange.prices()) / 4
    change = value / 4
    margins = [held, held, equity, change, change, 0.0, held + change, held + change, equity]
    texts = [f"{figure:.2f}" for figure in (*margins, commission(order.quantity, value))]
    shown = replace(order, status="PreSubmitted")
    listing = gateway.listings[order.con_id]
    connection.send(messages.open_order(connection.version, shown, listing, gateway.account.number, texts))


def _cancel(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    fields.skip(1)
    gateway = connection.gateway
    gateway.publish(gateway.exchange.cancel(connection.client_id, fields.integer()))


def _global_cancel(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    connection.gateway.publish(connection.gateway.exchange.cancel_all())


def _open_orders(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    _send_open_orders(connection, all_clients=False)


def _all_open_orders(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    _send_open_orders(connection, all_clients=True)


def _send_open_orders(connection: Connection, *, all_clients: bool) -> None:
    gateway = connection.gateway
    for order in gateway.exchange.working():
        if all_clients or order.client_id == connection.client_id:
            listing = gateway.listings[order.con_id]
            connection.send(
                messages.open_order(connection.version, order, listing, gateway.account.number),
                messages.order_status(order, gateway.why_held(order)),
            )
    connection.send(encode(53, 1))


def _completed_orders(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    gateway = connection.gateway
    for order in gateway.exchange.orders.values():
        if order.done:
            listing = gateway.listings[order.con_id]
            number, now_ns = gateway.account.number, gateway.replay.now_ns
            connection.send(messages.completed_order(connection.version, order, listing, number, now_ns))
    connection.send(encode(102))


def _executions(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    fields.skip(1)
    gateway = connection.gateway
    request_id, client_id = fields.integer(), fields.integer()
    fields.skip(2)  # account, time
    symbol = fields.text()
    fields.skip(2)  # security type, exchange
    side = {"BUY": "BUY", "BOT": "BUY", "SELL": "SELL", "SLD": "SELL"}.get(fields.text().upper())
    for execution in gateway.exchange.executions:
        listing = gateway.listings[execution.con_id]
        if client_id not in (0, execution.client_id) or symbol not in ("", listing.symbol):
            continue
        if side not in (None, execution.action):
            continue
        number = gateway.account.number
        connection.send(
            messages.execution_details(connection.version, request_id, execution, listing, number),
            messages.commission_report(execution, gateway.account.currency),
        )
    connection.send(encode(55, 1, request_id))


def _positions(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    connection.follows_positions = True
    for con_id, holding in connection.gateway.account.holdings.items():
        if holding.quantity:
            connection.gateway.send_position(connection, con_id)
    connection.send(encode(62, 1))


def _cancel_positions(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    connection.follows_positions = False


def _account_updates(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    fields.skip(1)
    connection.follows_account = fields.flag()
    if connection.follows_account:
        connection.gateway.send_account(connection)


def _account_multi(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    fields.skip(1)
    request_id = fields.integer()
    gateway = connection.gateway
    for key, value, currency in gateway.account.values(gateway.exchange.prices()):
        connection.send(encode(73, 1, request_id, gateway.account.number, "", key, value, currency))
    connection.send(encode(74, 1, request_id))


def _summary(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    fields.skip(1)
    request_id = fields.integer()
    fields.skip(1)  # group
    connection.summaries[request_id] = frozenset(tag for tag in fields.text().split(",") if tag)
    connection.gateway.send_summary(connection, request_id)
    connection.send(encode(64, 1, request_id))


def _cancel_summary(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    fields.skip(1)
    connection.summaries.pop(fields.integer(), None)


def _pnl(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    request_id = fields.integer()
    connection.pnl[request_id] = 0
    connection.gateway.send_pnl(connection, request_id)


def _pnl_single(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    request_id = fields.integer()
    fields.skip(2)  # account, model
    con_id = fields.integer()
    if con_id not in connection.gateway.listings:
        connection.error(request_id, 200, f"No security definition has been found for conId {con_id}")
        return
    connection.pnl[request_id] = con_id
    connection.gateway.send_pnl(connection, request_id)


def _cancel_pnl(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    connection.pnl.pop(fields.integer(), None)


def _ignore(connection: Connection, fields: FieldReader, received_ns: int) -> None:
    """Accept the end of a request that sends nothing by itself."""


HANDLERS: dict[int, Handler] = {
    3: _place,
    4: _cancel,
    58: _global_cancel,
    5: _open_orders,
    16: _all_open_orders,
    99: _completed_orders,
    7: _executions,
    61: _positions,
    64: _cancel_positions,
    6: _account_updates,
    76: _account_multi,
    77: _ignore,
    62: _summary,
    63: _cancel_summary,
    92: _pnl,
    93: _cancel_pnl,
    94: _pnl_single,
    95: _cancel_pnl,
}
