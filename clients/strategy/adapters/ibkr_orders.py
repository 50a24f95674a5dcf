"""Turn intents into orders of the gateway's, and what it says about orders and money into our values.

Pure functions; they raise ValueError, naming the field, for what they can't understand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from strategy.adapters.ibkr_codes import CodeKind, meaning_of
from strategy.core.values import (
    Account,
    Commission,
    Fill,
    OrderIntent,
    Position,
    Purpose,
    Side,
    WorkingOrder,
)

UNCONFIRMED = "Unconfirmed"
"""Our status of an order whose state nobody has confirmed; it may be live."""
REJECTED = "Inactive"
"""The gateway's status of an order that was refused for good; it does not always send it itself."""
DONE_STATUSES = frozenset({"Filled", "Cancelled", "ApiCancelled", REJECTED})
OCA_REDUCE_REST = 2
"""A partial fill of one child reduces the other; cancelling it would leave the rest unprotected."""

_UNSET = 1.7976931348623157e308
_SIDES = {"BOT": Side.BUY, "BUY": Side.BUY, "SLD": Side.SELL, "SELL": Side.SELL, "SSHORT": Side.SELL}


@dataclass(frozen=True, slots=True)
class OrderSpec:
    """One order message.

    Attributes:
        order_ref: Our key; the gateway carries it through openOrder and executions.
        action: "BUY" or "SELL".
        order_type: "MKT", "LMT" or "STP".
        quantity: Plain decimal text.
        limit_price: Plain decimal text; "" for none.
        stop_price: Plain decimal text; "" for none.
        tif: "DAY" or "GTC"; an order without one may be changed by the gateway's presets (code 10349).
        oca_group: A fill of one child of a bracket reduces the other; "" for none.
        child: Belongs to the first order of the list.
        transmit: Only the last message sets the whole list to work.
    """

    order_ref: str
    action: str
    order_type: str
    quantity: str
    limit_price: str
    stop_price: str
    tif: str
    oca_group: str
    child: bool
    transmit: bool


def order_specs(intent: OrderIntent) -> tuple[OrderSpec, ...]:
    """Return the order messages of an intent: entry, take-profit and stop, or one single order.

    The protective orders outlive the day ("GTC"), because the position may.
    """
    _check(intent)
    quantity = _plain(intent.quantity)
    action = intent.side.value
    limit = "" if intent.limit_price is None else _plain(intent.limit_price)
    kind = "LMT" if limit else "MKT"
    if intent.purpose is not Purpose.ENTRY:
        return (OrderSpec(intent.entry_ref, action, kind, quantity, limit, "", "DAY", "", False, True),)
    assert intent.stop_price is not None
    opposite = Side.SELL.value if intent.side is Side.BUY else Side.BUY.value
    group = intent.entry_ref.rsplit("/", 1)[0] if intent.take_profit_price is not None else ""
    specs = [OrderSpec(intent.entry_ref, action, kind, quantity, limit, "", "DAY", "", False, False)]
    if intent.take_profit_price is not None:
        target = _plain(intent.take_profit_price)
        specs.append(
            OrderSpec(
                intent.take_profit_ref, opposite, "LMT", quantity, target, "", "GTC", group, True, False
            )
        )
    stop = _plain(intent.stop_price)
    specs.append(OrderSpec(intent.stop_ref, opposite, "STP", quantity, "", stop, "GTC", group, True, True))
    return tuple(specs)


def _check(intent: OrderIntent) -> None:
    who = f"intent {intent.intent_id} ({intent.symbol})"
    if intent.side is Side.HOLD:
        raise ValueError(f"{who}: side is HOLD, which is no order")
    if not intent.quantity.is_finite() or intent.quantity <= 0 or intent.quantity % 1:
        raise ValueError(f"{who}: quantity is {intent.quantity}, a whole number > 0 is needed")
    if intent.purpose is Purpose.ENTRY and intent.stop_price is None:
        raise ValueError(f"{who}: an ENTRY needs a stop_price")
    for name in ("limit_price", "stop_price", "take_profit_price"):
        price = getattr(intent, name)
        if price is not None and (not price.is_finite() or price <= 0):
            raise ValueError(f"{who}: {name} is {price}, a price > 0 is needed")


def _plain(number: Decimal) -> str:
    return format(number.normalize(), "f")


def fill_order(order: Any, spec: OrderSpec, order_id: int, parent_id: int, account: str) -> Any:
    """Set the fields of the library's order from a spec and return it."""
    order.orderId = order_id
    order.orderRef = spec.order_ref
    order.action = spec.action
    order.orderType = spec.order_type
    order.totalQuantity = spec.quantity
    order.lmtPrice = spec.limit_price
    order.auxPrice = spec.stop_price
    order.tif = spec.tif
    order.account = account
    order.transmit = spec.transmit
    if spec.child:
        order.parentId = parent_id
    if spec.oca_group:
        order.ocaGroup = spec.oca_group
        order.ocaType = OCA_REDUCE_REST
    return order


# --- what the gateway says -----------------------------------------------------------------------


def decimal_of(value: float | str | Decimal) -> Decimal:
    """Return a number of the wire as Decimal, 0 for unset; 100.0 becomes 100."""
    if isinstance(value, float) and (not math.isfinite(value) or abs(value) >= _UNSET):
        return Decimal(0)
    number = Decimal(str(value))
    return number.quantize(Decimal(1)) if number == number.to_integral_value() else number.normalize()


def _price_of(value: Any) -> float:
    number = float(value or 0)
    return number if math.isfinite(number) and abs(number) < _UNSET else 0.0


def parse_side(text: str) -> Side:
    """Return the side of "BOT", "SLD", "BUY" or "SELL"."""
    try:
        return _SIDES[text]
    except KeyError:
        raise ValueError(f"side {text!r} is none of {', '.join(_SIDES)}") from None


def parse_fill(contract: Any, execution: Any) -> Fill:
    """Return an execution; its time is UTC whatever zone it came in."""
    at = execution.time
    if not isinstance(at, datetime) or at.tzinfo is None:
        raise ValueError(f"execution {execution.execId}: time is {at!r}, a time with its zone is needed")
    return Fill(
        exec_id=execution.execId,
        order_ref=execution.orderRef,
        perm_id=int(execution.permId),
        con_id=int(contract.conId),
        symbol=_symbol(contract),
        side=parse_side(execution.side),
        quantity=decimal_of(execution.shares),
        price=decimal_of(execution.price),
        event_ns=round(at.timestamp() * 1_000) * 1_000_000,
    )


def execution_family(exec_id: str) -> str:
    """Return what an execution and its corrections have in common: the id without its last part."""
    return exec_id.rsplit(".", 1)[0] if exec_id.count(".") >= 3 else exec_id


def parse_commission(report: Any) -> Commission:
    """Return what an execution cost; the unset marker becomes None."""
    realized = float(report.realizedPNL)
    known = math.isfinite(realized) and abs(realized) < _UNSET
    return Commission(
        exec_id=report.execId,
        commission=decimal_of(float(report.commission)),
        currency=report.currency,
        realized_pnl=decimal_of(realized) if known else None,
    )


def parse_position(contract: Any, quantity: float, average_cost: float) -> Position:
    """Return a position; the gateway's average cost of a future includes its multiplier."""
    multiplier = float(contract.multiplier or 1)
    return Position(int(contract.conId), _symbol(contract), decimal_of(quantity), average_cost / multiplier)


def parse_working_order(contract: Any, order: Any, status: str, filled: Decimal = Decimal(0)) -> WorkingOrder:
    """Return an order that the gateway reports as open."""
    return WorkingOrder(
        order_ref=order.orderRef,
        perm_id=int(order.permId),
        order_id=int(order.orderId),
        con_id=int(contract.conId),
        side=parse_side(order.action),
        order_type=order.orderType,
        quantity=decimal_of(float(order.totalQuantity)),
        filled=filled,
        limit_price=_price_of(order.lmtPrice),
        stop_price=_price_of(order.auxPrice),
        status=status,
    )


def parse_account(values: Mapping[tuple[str, str], str]) -> Account:
    """Return the account's figures from its values by (tag, currency).

    The account's own currency is the one its NetLiquidation is in.
    """
    currency = next((c for (tag, c) in values if tag == "NetLiquidation" and c not in ("", "BASE")), "")
    if not currency:
        raise ValueError("account values: NetLiquidation has not arrived")

    def figure(tag: str) -> float:
        text = values.get((tag, currency), "0")
        try:
            return float(text)
        except ValueError as e:
            raise ValueError(f"account values: {tag} is {text!r}, a number is needed") from e

    return Account(figure("NetLiquidation"), figure("TotalCashValue"), figure("BuyingPower"), currency)


def status_after_error(code: int, last_status: str, acknowledged: bool) -> str:
    """Return an order's status after an error about it.

    Only orderStatus says that an order is cancelled: a cancel confirmed by a bare 202, and every code
    that is not known to be harmless, leaves it unconfirmed until then.

    Args:
        code: The gateway's.
        last_status: What the gateway said last; "" for nothing.
        acknowledged: Whether it ever reported the order as open.
    """
    if last_status in DONE_STATUSES:
        return last_status
    kind = meaning_of(code).kind
    if kind is CodeKind.ORDER_REJECTED:
        return REJECTED
    if kind in (CodeKind.ORDER_REFUSED, CodeKind.DATA_REFUSED):
        return UNCONFIRMED if acknowledged else REJECTED
    if kind is CodeKind.ORDER_NOTE or 2100 <= code < 2200:
        return last_status or "PendingSubmit"
    return UNCONFIRMED


def _symbol(contract: Any) -> str:
    return f"{contract.symbol}.{contract.currency}" if contract.secType == "CASH" else str(contract.symbol)
