"""Each decision as a trace: its stages and its calls, from the times its ledger took anyway.

The decision's UUID is the trace's id, so `make show DECISION=` and the collector name the same thing.
"""

from __future__ import annotations

from collections.abc import Iterator

from server_runtime.tracing import Span, SpanSender
from strategy.decider import Decided
from strategy.ledger import STAGES
from strategy.recording import NEIGHBORS
from tradeserve_client.answers import CallRecord, NoAnswer, Outcome

_64_BITS = 2**64 - 1
_MAX_TEXT = 200


class DecisionTracer:
    """Sends the spans of every decision."""

    def __init__(self, sender: SpanSender) -> None:
        self._sender = sender

    def __call__(self, decided: Decided, symbol: str) -> None:
        """Queue the spans of one decision; returns at once."""
        for span in spans(decided, symbol):
            self._sender.send(span)


def spans(decided: Decided, symbol: str) -> Iterator[Span]:
    """Yield the decision, then its stages one after the other, then its calls."""
    trace_id = int(decided.decision_id, 16)
    root_id = trace_id & _64_BITS
    clock = decided.clock
    yield Span(
        "decision",
        clock.start_ns,
        clock.start_ns + clock.total_ns,
        trace_id,
        root_id,
        attributes={
            "symbol": symbol,
            "bar.end_ns": decided.bar.end_ns,
            "side": decided.side.value,
            "reason": decided.reason[:_MAX_TEXT],
        },
    )
    start_ns = clock.start_ns
    for stage in STAGES:
        if stage in clock.spans:
            end_ns = start_ns + clock.spans[stage]
            yield Span(stage, start_ns, end_ns, trace_id, parent_id=root_id)
            start_ns = end_ns
    outcomes: dict[str, Outcome[object]] = {**decided.reply.forecasts, NEIGHBORS: decided.reply.neighbors}
    for outcome in outcomes.values():
        if outcome.call.sent_ns:
            problem = f"{outcome.reason}: {outcome.detail}" if isinstance(outcome, NoAnswer) else ""
            yield _call(outcome.call, problem[:_MAX_TEXT], trace_id, root_id)


def _call(call: CallRecord, problem: str, trace_id: int, root_id: int) -> Span:
    """Return the span of one call; one that nobody answered ends at its deadline."""
    return Span(
        call.service,
        call.sent_ns,
        call.received_ns or call.deadline_ns,
        trace_id,
        parent_id=root_id,
        attributes={
            "request_id": call.request_id,
            "model.name": call.model_name,
            "model.version": call.model_version,
        },
        problem=problem,
        kind="client",
    )
