"""Turns the strategy's values into journal rows; pure."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from journal import rows
from market.events import Bar, BookSnapshot, Instrument, Quote, Trade
from strategy.core.decision import Decision, checks_to_json
from strategy.core.shadow import side_of
from strategy.core.values import Commission, Fill, Neighbor, OrderEvent, OrderIntent, Position, intent_id_of
from strategy.ports import Forecast, ForecastReply, ForecastRequest, LateAnswer, ShadowVersion
from tradeserve_client.answers import Answer, Attempt, CallRecord, NoAnswer, Outcome, Reason

IN_TIME = "in time"
OVERTAKEN = "overtaken"
"""Of an attempt whose answer was not waited for, because another server's was there."""
NEIGHBORS = "similarity"


def bar_row(bar: Bar) -> rows.BarRow:
    """Return the row of a closed bar."""
    return rows.BarRow(
        bar.con_id, bar.start_ns, bar.end_ns, bar.open, bar.high, bar.low, bar.close, bar.volume
    )


def quote_row(quote: Quote) -> rows.QuoteRow:
    """Return the row of a quote."""
    return rows.QuoteRow(
        quote.con_id, quote.event_ns, quote.bid_price, quote.bid_size, quote.ask_price, quote.ask_size
    )


def trade_row(trade: Trade) -> rows.TradeRow:
    """Return the row of a print."""
    return rows.TradeRow(trade.con_id, trade.event_ns, trade.price, trade.size)


def book_row(book: BookSnapshot) -> rows.BookRow:
    """Return the row of a book."""
    return rows.BookRow(
        book.con_id,
        book.event_ns,
        [level.price for level in book.bids],
        [level.size for level in book.bids],
        [level.price for level in book.asks],
        [level.size for level in book.asks],
    )


def instrument_row(instrument: Instrument) -> rows.InstrumentRow:
    """Return the row of an instrument."""
    return rows.InstrumentRow(
        instrument.con_id,
        instrument.symbol,
        instrument.currency,
        instrument.min_tick,
        instrument.security_type,
    )


def intent_row(intent: OrderIntent) -> rows.OrderIntentRow:
    """Return the row of an intent."""
    return rows.OrderIntentRow(
        intent.intent_id,
        intent.decision_id,
        intent.con_id,
        intent.symbol,
        intent.side.value,
        intent.purpose.value,
        intent.quantity,
        intent.limit_price,
        intent.stop_price,
        intent.take_profit_price,
        intent.created_ns,
    )


def order_event_row(event: OrderEvent) -> rows.OrderEventRow:
    """Return the row of a change of an order."""
    return rows.OrderEventRow(
        event.order_ref,
        intent_id_of(event.order_ref) or "",
        event.perm_id,
        event.con_id,
        event.status,
        event.filled,
        event.remaining,
        event.average_price,
        event.event_ns,
        event.error_code,
        event.message,
    )


def fill_row(fill: Fill) -> rows.FillRow:
    """Return the row of an execution."""
    return rows.FillRow(
        fill.exec_id,
        fill.order_ref,
        intent_id_of(fill.order_ref) or "",
        fill.perm_id,
        fill.con_id,
        fill.symbol,
        fill.side.value,
        fill.quantity,
        fill.price,
        fill.event_ns,
    )


def commission_row(commission: Commission) -> rows.CommissionRow:
    """Return the row of a commission."""
    return rows.CommissionRow(
        commission.exec_id, commission.commission, commission.currency, commission.realized_pnl
    )


def position_row(position: Position, event_ns: int) -> rows.PositionRow:
    """Return the row of a position."""
    return rows.PositionRow(
        position.con_id, position.symbol, position.quantity, position.average_price, event_ns
    )


def call_rows(request: ForecastRequest, reply: ForecastReply) -> Iterator[rows.ModelCallRow]:
    """Yield a row for every service, whether it answered in time or not."""
    for name, outcome in reply.forecasts.items():
        output = _forecast_output(outcome.value) if isinstance(outcome, Answer) else {}
        yield _call_row(request, name, outcome, output, reply.attempts.get(name))
    if not isinstance(reply.neighbors, NoAnswer) or reply.neighbors.reason is not Reason.OFF:
        yield _call_row(request, NEIGHBORS, reply.neighbors, {}, reply.attempts.get(NEIGHBORS))


def late_row(late: LateAnswer) -> rows.ModelCallRow:
    """Return the row of an answer that came after its deadline."""
    return rows.ModelCallRow(
        late.decision_id,
        late.service,
        late.request_id,
        Reason.LATE.value,
        f"{_lateness(late.late_ns)}; not used {late.detail}".strip(),
        False,
        -1,
        0,
        late.late_ns,
        -1,
        -1,
        -1,
        "",
        0,
        "",
        {},
    )


def shadow_row(
    request: ForecastRequest,
    live: Decision,
    shadow: ShadowVersion,
    outcome: Outcome[Forecast],
    other: Decision | None,
    agrees: bool | None,
    probability_difference: float | None,
) -> rows.ShadowAnswerRow:
    """Return the row of what a version that is tried answered, or why it did not.

    Args:
        request: Of the real decision.
        live: The real decision.
        shadow: Who was asked.
        outcome: Its answer.
        other: The decision that would have been made with it; None without an answer.
        agrees: Whether that is the real one; None without an answer.
        probability_difference: From the voter's own answer; None where one is missing.
    """
    call, start_ns = outcome.call, request.start_ns
    missing = outcome if isinstance(outcome, NoAnswer) else None
    row = rows.ShadowAnswerRow(
        decision_id=request.decision_id,
        service=shadow.voter,
        model_version=shadow.version,
        artifact_sha256=call.artifact_sha256 or shadow.artifact_sha256,
        request_id=call.request_id,
        outcome=IN_TIME if missing is None else missing.reason.value,
        detail="" if missing is None else missing.detail,
        sent_after_ns=call.sent_ns - start_ns if call.sent_ns else -1,
        deadline_after_ns=call.deadline_ns - start_ns if call.deadline_ns else -1,
        received_after_ns=call.received_ns - start_ns if call.received_ns else -1,
        output=_forecast_output(outcome.value) if isinstance(outcome, Answer) else {},
        live_side=side_of(live).value,
    )
    if other is None:
        return row
    probabilities, signal = other.consensus.probabilities, other.signal
    plan = other.exit or (other.verdict.plan if other.verdict else None)
    refusal = other.verdict.refusal if other.verdict else ""
    return replace(
        row,
        side=side_of(other).value,
        purpose=signal.purpose.value if signal.purpose else None,
        strength=signal.strength,
        quantity=plan.quantity if plan else None,
        reason=f"{signal.reason}; risk: {refusal}" if refusal else signal.reason,
        down_probability=probabilities.down if probabilities else None,
        flat_probability=probabilities.flat if probabilities else None,
        up_probability=probabilities.up if probabilities else None,
        risk_checks=checks_to_json(other.verdict),
        agrees=agrees,
        probability_difference=probability_difference,
    )


def neighbor_rows(decision_id: str, neighbors: Sequence[Neighbor]) -> Iterator[rows.NeighborRow]:
    """Yield the neighbours, nearest first, with their outcomes."""
    for rank, neighbor in enumerate(neighbors):
        yield rows.NeighborRow(
            decision_id,
            rank,
            neighbor.state_id,
            neighbor.con_id,
            neighbor.symbol,
            neighbor.event_ns,
            neighbor.bar_size_s,
            neighbor.similarity,
            neighbor.forward_return_bps,
        )


def _forecast_output(forecast: Forecast) -> Mapping[str, Any]:
    probabilities = forecast.probabilities
    output: dict[str, Any] = {"probabilities": [probabilities.down, probabilities.flat, probabilities.up]}
    if forecast.embedding is not None:
        output["embedding_f32"] = base64.b64encode(forecast.embedding.astype("<f4").tobytes()).decode()
    return output


def _lateness(late_ns: int) -> str:
    if late_ns > 0:
        return f"arrived {late_ns / 1e6:.2f} ms after its deadline"
    return "arrived when nobody waited any more: another server had answered, or the time was all but over"


def _attempt(attempt: Attempt, start_ns: int) -> Mapping[str, Any]:
    told: dict[str, Any] = {"target": attempt.target, "cause": attempt.cause.value}
    if attempt.outcome is None:
        return told | {"outcome": OVERTAKEN}
    call = attempt.outcome.call
    if isinstance(attempt.outcome, NoAnswer):
        told |= {"outcome": attempt.outcome.reason.value, "detail": attempt.outcome.detail}
    else:
        told["outcome"] = IN_TIME
    return told | {
        "sent_after_ns": call.sent_ns - start_ns if call.sent_ns else -1,
        "received_after_ns": call.received_ns - start_ns if call.received_ns else -1,
    }


def _call_row(
    request: ForecastRequest,
    service: str,
    outcome: Outcome[Any],
    output: Mapping[str, Any],
    attempts: Sequence[Attempt] | None,
) -> rows.ModelCallRow:
    call: CallRecord = outcome.call
    missing = outcome if isinstance(outcome, NoAnswer) else None
    return rows.ModelCallRow(
        request.decision_id,
        service,
        call.request_id,
        IN_TIME if missing is None else missing.reason.value,
        "" if missing is None else missing.detail,
        missing is None,
        call.sent_ns - request.start_ns if call.sent_ns else -1,
        call.deadline_ns - request.start_ns,
        call.received_ns - request.start_ns if call.received_ns else -1,
        call.queue_ns,
        call.compute_ns,
        call.network_ns,
        call.model_name,
        call.model_version,
        call.artifact_sha256,
        output,
        [_attempt(attempt, request.start_ns) for attempt in attempts] if attempts else None,
    )
