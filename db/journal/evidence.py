"""A decision's whole evidence as text for people."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from journal import codec, rows
from journal.queries import DecisionEvidence, RunSummary


def evidence_text(evidence: DecisionEvidence) -> str:
    """Return everything about a decision, readable."""
    return "\n".join(_lines(evidence))


def evidence_json(evidence: DecisionEvidence) -> str:
    """Return everything about a decision as JSON."""
    return codec.dump_json(codec.plain(dataclasses.asdict(evidence))).decode()


def runs_text(summaries: list[RunSummary]) -> str:
    """Return a table of runs."""
    if not summaries:
        return "no runs are recorded here"
    lines = []
    for summary in summaries:
        run = summary.run
        ended = "ended" if summary.ended_time else "not ended cleanly"
        counts = ", ".join(f"{name} {count}" for name, count in summary.row_counts.items() if count)
        lines.append(
            f"{run.run_id}  {_time(run.started_ns)}  {run.strategy_name} {run.trading_mode}, {run.data_source}, {ended}"
        )
        lines.append(f"    {counts or 'no rows'}")
    return "\n".join(lines)


def _lines(evidence: DecisionEvidence) -> Iterator[str]:
    decision = evidence.decision
    symbol = evidence.instrument.symbol if evidence.instrument else f"con_id {decision.con_id}"
    yield f"decision {decision.decision_id}  (run {evidence.run_id})"
    yield f"  {_time(decision.event_ns)}  {symbol}: {decision.side} {decision.purpose or ''} - {decision.reason}"
    yield (
        f"  probabilities: down {_number(decision.down_probability)}, flat {_number(decision.flat_probability)}, "
        f"up {_number(decision.up_probability)}; strength {decision.strength:.3f}"
    )
    yield f"  weights: {_pairs(decision.weights) or 'none (below the quorum)'}"
    yield f"  missing: {_pairs(decision.missing) or 'nothing'}"
    spent = ", ".join(f"{stage} {ns / 1e6:.3f} ms" for stage, ns in decision.ledger.items())
    yield f"  ledger: {spent} (budget {decision.budget_ns / 1e6:.1f} ms)"
    yield f"  state: {_pairs(decision.state)}"
    yield f"  window: {_window(decision.window)}"
    yield from _section("calls", (_call(call) for call in evidence.calls))
    if evidence.shadows:
        yield from _section("shadows (never used)", (_shadow(answer) for answer in evidence.shadows))
    if evidence.vision_effect is not None:
        yield from _section("reading of an earlier chart", iter([_vision_effect(evidence.vision_effect)]))
    if evidence.reading is not None:
        yield from _section("its chart, read afterwards", iter(reading_lines(evidence.reading)))
    yield from _section("neighbours", (_neighbor(neighbor) for neighbor in evidence.neighbors))
    yield from _section("risk checks", (_pairs(check) for check in decision.risk_checks))
    yield from _section("orders", (_intent(intent) for intent in evidence.intents))
    yield from _section("order events", (_event(event) for event in evidence.order_events))
    costs = {cost.exec_id: cost for cost in evidence.commissions}
    yield from _section("fills", (_fill(fill, costs.get(fill.exec_id)) for fill in evidence.fills))


def _section(title: str, lines: Iterator[str]) -> Iterator[str]:
    content = list(lines)
    yield f"  {title}: {'none' if not content else ''}".rstrip()
    for line in content:
        yield f"    {line}"


def _call(call: rows.ModelCallRow) -> str:
    sent = "not sent" if call.sent_after_ns < 0 else f"sent at {call.sent_after_ns / 1e6:.3f} ms"
    back = "nothing came" if call.received_after_ns < 0 else f"back at {call.received_after_ns / 1e6:.3f} ms"
    return (
        f"{call.service}: {call.outcome}{', used' if call.used else ', not used'}; {sent}, {back} "
        f"(deadline {call.deadline_after_ns / 1e6:.3f}); queue {_told(call.queue_ns)}, "
        f"compute {_told(call.compute_ns)}, network {_told(call.network_ns)}; "
        f"{call.model_name} v{call.model_version} {call.artifact_sha256[:12]}; request {call.request_id}"
        f"{'; ' + call.detail if call.detail else ''}{_attempts(call.attempts)}; output {_short(call.output)}"
    )


def _attempts(attempts: Sequence[Mapping[str, Any]] | None) -> str:
    """Return where a call was sent, unless there was only one server to ask."""
    if not attempts:
        return ""
    told = (f"{each['cause']} at {each['target']}: {each['outcome']}" for each in attempts)
    return f"; sent {', '.join(told)}"


def _shadow(answer: rows.ShadowAnswerRow) -> str:
    who = f"{answer.service} v{answer.model_version} {answer.artifact_sha256[:12]}"
    if answer.agrees is None:
        why = f"{answer.outcome}{': ' + answer.detail if answer.detail else ''}"
        return f"{who}: no answer, {why}; request {answer.request_id or 'not sent'}"
    took = _told(answer.received_after_ns - answer.sent_after_ns)
    away = answer.probability_difference
    apart = "the voter itself did not answer" if away is None else f"{away:.6g} from the voter's"
    order = f" of {answer.quantity}" if answer.quantity is not None else ""
    return (
        f"{who}: answered in {took}, {apart}; would have decided {answer.side}{order} "
        f"({'as' if answer.agrees else 'UNLIKE'} the real {answer.live_side}) - {answer.reason}; "
        f"down {_number(answer.down_probability)}, flat {_number(answer.flat_probability)}, "
        f"up {_number(answer.up_probability)}; request {answer.request_id}; output {_short(answer.output)}"
    )


def reading_lines(reading: rows.VisionReadingRow) -> Iterator[str]:
    """Yield what was read on a chart, or why nothing was."""
    asked = f"request {reading.request_id}" if reading.request_id else "not asked"
    chart = f"chart {reading.chart_sha256[:12]}" if reading.chart_sha256 else "no chart drawn"
    if reading.signal is None:
        yield f"no answer, {reading.outcome}{': ' + reading.detail if reading.detail else ''}; {asked}; {chart}"
        return
    took = _told(reading.received_after_ns - reading.sent_after_ns)
    yield (
        f"{reading.signal}, stated confidence {_number(reading.stated_confidence)} x trust {_number(reading.trust)}, "
        f"in {took} (queue {_told(reading.queue_ns)}, compute {_told(reading.compute_ns)}, first token "
        f"{_told(reading.first_token_ns)}); held then: {reading.held_quantity:+f}"
    )
    yield f"words: {reading.reasoning}"
    levels = ", ".join(f"{level:g}" for level in reading.key_levels)
    yield f"patterns: {', '.join(reading.patterns) or 'none'}; levels: {levels or 'none'}"
    yield from (f"risk: {risk}" for risk in reading.risks)
    yield from (f"contradicted: {one['field']}: {one['detail']}" for one in reading.contradictions)
    expires = "unknown" if reading.expire_ns is None else _time(reading.expire_ns)
    yield (
        f"{reading.model_name} v{reading.model_version} {reading.artifact_sha256[:12]}, prompt {reading.prompt_name} "
        f"{reading.prompt_template_sha256[:12]}, {reading.prompt_tokens} + {reading.output_tokens} tokens, "
        f"expires {expires}; {asked}; {chart}"
    )


def effect_words(effect: rows.VisionEffectRow) -> str:
    """Return what a reading did to an entry."""
    wanted = f"{effect.wanted_side} entry of strength {effect.wanted_strength:.3f}"
    confidence = f"{'probability' if effect.calibrated else 'stated confidence'} {effect.confidence:.3f}"
    done = {"veto": "vetoed", "shrink": f"shrunk to {effect.strength:.3f}", "agrees": "left as it was"}
    return f"{wanted} {done.get(effect.effect, effect.effect)} ({confidence} x trust {effect.trust:.3f})"


def _vision_effect(effect: rows.VisionEffectRow) -> str:
    return f"{effect_words(effect)}; read on the chart of decision {effect.reading_decision_id}"


def _told(duration_ns: int) -> str:
    return "unknown" if duration_ns < 0 else f"{duration_ns / 1e6:.3f} ms"


def _neighbor(neighbor: rows.NeighborRow) -> str:
    return (
        f"{neighbor.rank}: {neighbor.symbol} {_time(neighbor.event_ns)} bars of {neighbor.bar_size_s} s, "
        f"similarity {neighbor.similarity:.4f}, afterwards {neighbor.forward_return_bps:+.1f} bps"
    )


def _intent(intent: rows.OrderIntentRow) -> str:
    prices = {
        "limit": intent.limit_price,
        "stop": intent.stop_price,
        "take profit": intent.take_profit_price,
    }
    stated = ", ".join(f"{name} {price}" for name, price in prices.items() if price is not None)
    what = f"{intent.side} {intent.quantity} {intent.symbol} ({intent.purpose})"
    return f"{what} {stated or 'market'}; {intent.intent_id}"


def _event(event: rows.OrderEventRow) -> str:
    error = f" [{event.error_code}] {event.message}" if event.error_code or event.message else ""
    return f"{_time(event.event_ns)} {event.order_ref}: {event.status}, filled {event.filled}{error}"


def _fill(fill: rows.FillRow, cost: rows.CommissionRow | None) -> str:
    paid = f", commission {cost.commission} {cost.currency}, realised {cost.realized_pnl}" if cost else ""
    return f"{_time(fill.event_ns)} {fill.side} {fill.quantity} at {fill.price}{paid}; {fill.exec_id}"


def _window(window: bytes) -> str:
    if len(window) % 20:
        return f"{len(window)} bytes"
    bars = np.frombuffer(window, "<f4").reshape(-1, 5)
    return f"{len(bars)} bars; last close {bars[-1, 3]:.6g}" if len(bars) else "empty"


def _pairs(values: Any) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in values.items())


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}…"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _time(ns: int) -> str:
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=ns // 1000)
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
