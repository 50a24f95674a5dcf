"""What the client library calls back: each message of the gateway goes to whom it concerns.

This stands in place of the library's own wrapper. Messages are passed on in the order they came off the
socket; `receive_ns` is when the packet that carried them arrived.
"""

# The library calls these methods by the names of IBKR's EWrapper, with its parameters.
# ruff: noqa: N802, N815

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC
from types import SimpleNamespace
from typing import Any

from strategy.adapters.ibkr_codes import CodeKind, describe, meaning_of
from strategy.adapters.ibkr_messages import (
    OrderHandler,
    OrderStatus,
    SessionError,
    SessionState,
    StreamHandler,
    deliver,
)
from strategy.adapters.ibkr_orders import decimal_of, parse_commission, parse_fill, parse_position

_GONE = StreamHandler()


class IbkrWrapper:
    """Routes messages to requests, subscriptions and the order handler.

    Args:
        client_id: Messages about other clients' orders are dropped.
        orders: Receives messages about orders.
        on_code: Called with (kind, code and text) for messages about the connection itself.
        monotonic_ns: Clock of `receive_ns`.
    """

    client: Any

    def __init__(
        self,
        client_id: int,
        orders: OrderHandler,
        on_code: Callable[[CodeKind, str], None],
        monotonic_ns: Callable[[], int],
    ) -> None:
        self.client_id = client_id
        self.account = ""
        self.receive_ns = 0
        self.state = SessionState()
        self.streams: dict[int, StreamHandler] = {}
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._orders = orders
        self._on_code = on_code
        self._monotonic_ns = monotonic_ns
        self._requests: dict[int | str, asyncio.Future[list[Any]]] = {}
        self._results: dict[int | str, list[Any]] = {}
        self._last_problem = ""
        self._last_code = 0
        self._changed_streams: dict[int, StreamHandler] = {}
        self._account_changed = False
        # What the decoders read of a wrapper besides its methods.
        self.ib = SimpleNamespace(TimezoneTWS="UTC")
        self.defaultTimezone = UTC

    def _finish(self, reason: str) -> None:
        if not self.closed.done():
            self.closed.set_result(reason)
        for request in self._requests.values():
            if not request.done():
                request.set_exception(SessionError(f"the connection to the gateway ended: {reason}"))
        self._requests.clear()
        self._results.clear()
        self.streams.clear()

    def _answer(self, key: int | str) -> None:
        request = self._requests.get(key)
        if request is not None and not request.done():
            request.set_result(self._results.get(key, []))

    # --- life -----------------------------------------------------------

    def connectAck(self) -> None:
        """Handle the end of the version handshake: nothing to do."""

    def setEventsDone(self) -> None:
        """Handle the end of the socket, whoever ended it."""
        self._finish(self._last_problem or "the gateway closed the connection")

    def connectionClosed(self) -> None:
        """Handle the end of a session that was ready."""
        self._finish(self._last_problem or "the gateway closed the connection")

    def tcpDataArrived(self) -> None:
        """Note when a packet came; all messages in it carry this time."""
        self.receive_ns = self._monotonic_ns()

    def tcpDataProcessed(self) -> None:
        """Deliver what the packet changed."""
        if self._changed_streams:
            changed, self._changed_streams = self._changed_streams, {}
            for handler in changed.values():
                deliver(handler.flush)
        if self._account_changed:
            self._account_changed = False
            deliver(self._orders.on_account_values)

    # --- answers --------------------------------------------------------

    def contractDetails(self, request_id: int, details: Any) -> None:
        """Collect one contract."""
        self._results.get(request_id, []).append(details)

    bondContractDetails = contractDetails

    def contractDetailsEnd(self, request_id: int) -> None:
        """Answer a request for contracts."""
        self._answer(request_id)

    def currentTime(self, seconds: int) -> None:
        """Answer a request for the gateway's time."""
        self._results.get("currentTime", []).append(seconds)
        self._answer("currentTime")

    def error(self, request_id: int, code: int, text: str, advanced_reject: str = "") -> None:
        """Route a message of the gateway to the request, the subscription or the order it is about."""
        kind = meaning_of(code).kind
        text = f"{text} {advanced_reject}".strip() if advanced_reject else text
        line = describe(code, text)
        if kind is CodeKind.CLIENT_ID_TAKEN:
            self._last_code, self._last_problem = (
                code,
                f"client id {self.client_id} is in use at the gateway; {line}",
            )
        if request_id < 0 or kind in (CodeKind.LINK_LOST, CodeKind.LINK_BACK, CodeKind.LINK_BACK_DATA_LOST):
            if kind is CodeKind.LINK_LOST:
                self.state.link_lost = line
            elif kind in (CodeKind.LINK_BACK, CodeKind.LINK_BACK_DATA_LOST):
                self.state.link_lost = ""
            deliver(self._on_code, kind, line)
        elif request_id in self._requests:
            request = self._requests[request_id]
            if not request.done() and not 2100 <= code < 2200:
                request.set_exception(SessionError(line, code))
        elif request_id in self.streams:
            deliver(self.streams[request_id].on_error, code, text)
        else:
            deliver(self._orders.on_order_error, request_id, code, text)

    # --- account and orders ---------------------------------------------

    def position(self, account: str, contract: Any, quantity: float, average_cost: float) -> None:
        """Take a position of our account."""
        if account != self.account:
            return
        deliver(self._take_position, contract, quantity, average_cost)

    def _take_position(self, contract: Any, quantity: float, average_cost: float) -> None:
        position = parse_position(contract, quantity, average_cost)
        self.state.positions[position.con_id] = position
        self._orders.on_position(position)

    def positionEnd(self) -> None:
        """Answer the request for positions."""
        self._answer("positions")

    def openOrder(self, order_id: int, contract: Any, order: Any, order_state: Any) -> None:
        """Take an open order; later order ids must be above every id ever seen."""
        self.client.updateReqId(order_id + 1)
        if order.clientId == self.client_id and not order.whatIf:
            self.state.open_orders[order_id] = (contract, order, order_state.status)
            deliver(self._orders.on_open_order, contract, order, order_state.status)

    def openOrderEnd(self) -> None:
        """Answer the request for open orders."""
        self._answer("open orders")

    def orderStatus(
        self,
        order_id: int,
        status: str,
        filled: float,
        remaining: float,
        average_price: float,
        perm_id: int,
        parent_id: int,
        last_price: float,
        client_id: int,
        why_held: str,
        cap_price: float = 0.0,
    ) -> None:
        """Take the state of an order."""
        if client_id == self.client_id:
            message = OrderStatus(
                order_id, status, decimal_of(filled), decimal_of(remaining), average_price, perm_id, client_id
            )
            deliver(self._orders.on_order_status, message)

    def execDetails(self, request_id: int, contract: Any, execution: Any) -> None:
        """Take an execution, live or of earlier today."""
        if execution.clientId == self.client_id and execution.acctNumber == self.account:
            deliver(self._take_execution, contract, execution)

    def _take_execution(self, contract: Any, execution: Any) -> None:
        fill = parse_fill(contract, execution)
        self.state.executions[fill.exec_id] = fill
        self._orders.on_execution(fill)

    def execDetailsEnd(self, request_id: int) -> None:
        """Answer the request for executions."""
        self._answer(request_id)

    def commissionReport(self, report: Any) -> None:
        """Take the cost of an execution."""
        deliver(self._take_commission, report)

    def _take_commission(self, report: Any) -> None:
        commission = parse_commission(report)
        self.state.commissions[commission.exec_id] = commission
        self._orders.on_commission(commission)

    def updateAccountValue(self, tag: str, value: str, currency: str, account: str) -> None:
        """Take a figure of our account."""
        if account == self.account:
            self.state.account_values[tag, currency] = value
            self._account_changed = True

    def accountDownloadEnd(self, account: str) -> None:
        """Answer the request for the account."""
        self._answer("account")

    def updatePortfolio(self, *args: Any) -> None:
        """Ignore: positions come by their own message."""

    # --- market data ----------------------------------------------------

    def _stream(self, request_id: int) -> StreamHandler:
        handler = self.streams.get(request_id)
        if handler is None:
            return _GONE
        self._changed_streams[request_id] = handler
        return handler

    def historicalData(self, request_id: int, bar: Any) -> None:
        """Pass on a bar of the past."""
        deliver(self._stream(request_id).on_history, bar)

    def historicalDataEnd(self, request_id: int, start: str, end: str) -> None:
        """Pass on the end of the past."""
        deliver(self._stream(request_id).on_history_end)

    def historicalDataUpdate(self, request_id: int, bar: Any) -> None:
        """Pass on the forming bar."""
        deliver(self._stream(request_id).on_bar_update, bar)

    def realtimeBar(
        self,
        request_id: int,
        start_s: int,
        open_: float,
        high: float,
        low: float,
        close: float,
        volume: float,
        average: float,
        count: int,
    ) -> None:
        """Pass on a 5-second bar."""
        deliver(self._stream(request_id).on_realtime_bar, start_s, (open_, high, low, close), volume)

    def priceSizeTick(self, request_id: int, tick_type: int, price: float, size: float) -> None:
        """Pass on a price."""
        self._stream(request_id).on_price(tick_type, price, size)

    def tickSize(self, request_id: int, tick_type: int, size: float) -> None:
        """Pass on a size."""
        self._stream(request_id).on_size(tick_type, size)

    def tickGeneric(self, request_id: int, tick_type: int, value: float) -> None:
        """Pass on a number."""
        deliver(self._stream(request_id).on_generic, tick_type, value)

    def tickString(self, request_id: int, tick_type: int, value: str) -> None:
        """Pass on a text."""
        deliver(self._stream(request_id).on_string, tick_type, value)

    def marketDataType(self, request_id: int, data_type: int) -> None:
        """Pass on whether data are live."""
        deliver(self._stream(request_id).on_data_type, data_type)

    def updateMktDepth(
        self, request_id: int, position: int, operation: int, side: int, price: float, size: float
    ) -> None:
        """Pass on a row of the book."""
        deliver(self._stream(request_id).on_depth, position, operation, side, price, size)

    def updateMktDepthL2(
        self,
        request_id: int,
        position: int,
        market_maker: str,
        operation: int,
        side: int,
        price: float,
        size: float,
        smart_depth: bool = False,
    ) -> None:
        """Pass on a row of the consolidated book."""
        deliver(self._stream(request_id).on_depth, position, operation, side, price, size)
