"""Turns readings of charts into journal rows, within bounds; pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from journal import rows
from strategy.core.decision import Decision
from strategy.core.plain import to_json
from strategy.core.values import Purpose, Side
from strategy.core.vision import Reading, VisionEffect
from strategy.ports import ForecastRequest
from strategy.recording import IN_TIME
from tradeserve_client.answers import NoAnswer, Outcome
from tradeserve_client.chart_reading import ChartQuery, ChartReading

MAX_PROMPT_CHARACTERS = 32_768
MAX_OUTPUT_CHARACTERS = 8_192
MAX_SAMPLING_CHARACTERS = 2_048
MAX_DETAIL_CHARACTERS = 512

VETO, SHRINK, AGREES = "veto", "shrink", "agrees"


def chart_row(chart_png: bytes) -> rows.VisionChartRow:
    """Return the row of a chart; the same picture is stored once."""
    return rows.VisionChartRow(hashlib.sha256(chart_png).hexdigest(), chart_png)


def reading_of(decision_id: str, as_of_ns: int, reading: ChartReading) -> Reading:
    """Return what the core needs of an answer about the chart of a decision."""
    return Reading(
        decision_id=decision_id,
        signal=Side(reading.signal.value.upper()),
        stated_confidence=reading.stated_confidence,
        trust=reading.trust,
        as_of_ns=as_of_ns,
        expire_ns=reading.expire_ns,
        model_sha256=reading.model.artifact_sha256,
        prompt_sha256=reading.record.prompt_template_sha256 if reading.record else "",
    )


def reading_of_row(row: rows.VisionReadingRow) -> Reading:
    """Return what the core needs of a recorded answer.

    Raises:
        ValueError: It is none.
    """
    if row.signal is None or row.stated_confidence is None or row.trust is None or row.expire_ns is None:
        raise ValueError(f"the reading of decision {row.decision_id} has no answer: {row.outcome}")
    return Reading(
        decision_id=row.decision_id,
        signal=Side(row.signal),
        stated_confidence=row.stated_confidence,
        trust=row.trust,
        as_of_ns=row.as_of_ns,
        expire_ns=row.expire_ns,
        model_sha256=row.artifact_sha256,
        prompt_sha256=row.prompt_template_sha256,
    )


def reading_row(
    request: ForecastRequest,
    query: ChartQuery | None,
    chart_sha256: str,
    outcome: Outcome[ChartReading],
    held: Decimal,
) -> rows.VisionReadingRow:
    """Return the row of a reading, or of why there is none.

    Args:
        request: Of the decision whose chart it was.
        query: What was asked; None when nothing was drawn.
        chart_sha256: Of its chart.
        outcome: What came back.
        held: What was held of the instrument then, signed.
    """
    call, missing = outcome.call, outcome if isinstance(outcome, NoAnswer) else None
    return rows.VisionReadingRow(
        decision_id=request.decision_id,
        con_id=request.con_id,
        as_of_ns=request.event_ns,
        request_id=query.request_id if query else "",
        outcome=IN_TIME if missing is None else missing.reason.value,
        detail="" if missing is None else _cut(missing.detail, MAX_DETAIL_CHARACTERS),
        sent_after_ns=call.sent_ns - request.start_ns if call.sent_ns else -1,
        deadline_after_ns=call.deadline_ns - request.start_ns if call.deadline_ns else -1,
        received_after_ns=call.received_ns - request.start_ns if call.received_ns else -1,
        queue_ns=call.queue_ns,
        compute_ns=call.compute_ns,
        network_ns=call.network_ns,
        chart_sha256=chart_sha256,
        question=_question(query) if query else {},
        held_quantity=held,
        **(_answer(outcome.value) if not isinstance(outcome, NoAnswer) else {}),
    )


def effect_row(decision_id: str, effect: VisionEffect, decision: Decision) -> rows.VisionEffectRow | None:
    """Return the row of what a reading did to a decision; None unless the policy wanted to enter."""
    wanted = decision.restrained or decision.signal
    if wanted.purpose is not Purpose.ENTRY:
        return None
    changed = VETO if decision.signal.purpose is None else SHRINK
    return rows.VisionEffectRow(
        decision_id=decision_id,
        reading_decision_id=effect.decision_id,
        effect=AGREES if decision.restrained is None else changed,
        wanted_side=wanted.side.value,
        wanted_strength=wanted.strength,
        strength=decision.signal.strength,
        confidence=effect.confidence,
        calibrated=effect.calibrated,
        trust=effect.trust,
    )


def _question(query: ChartQuery) -> Mapping[str, Any]:
    """Return what was told beside the chart."""
    extent, context = query.extent, query.context
    return {
        "symbol": query.symbol,
        "prompt_name": query.prompt_name,
        "extent": to_json(extent),
        "indicators": to_json(dict(context.indicators)) if context else {},
        "volume_ratio_forecast": context.volume_ratio_forecast if context else None,
        "past_outcomes": [
            [past.similarity, past.forward_return_bps] for past in (context.past_outcomes if context else ())
        ],
    }


def _answer(reading: ChartReading) -> dict[str, Any]:
    """Return the fields that only an answer has."""
    made_by, record = reading.model, reading.record
    fields: dict[str, Any] = {
        "model_name": made_by.name,
        "model_version": made_by.version,
        "artifact_sha256": made_by.artifact_sha256,
        "export_commit": made_by.export_commit,
        "signal": reading.signal.value.upper(),
        "stated_confidence": reading.stated_confidence,
        "trust": reading.trust,
        "reasoning": reading.reasoning,
        "patterns": list(reading.patterns),
        "key_levels": list(reading.key_levels),
        "risks": list(reading.risks),
        "contradictions": [
            {"field": one.field, "detail": _cut(one.detail, MAX_DETAIL_CHARACTERS)}
            for one in reading.contradictions
        ],
        "expire_ns": reading.expire_ns,
    }
    if record is not None:
        fields |= {
            "prompt_name": record.prompt_name,
            "prompt_template_sha256": record.prompt_template_sha256,
            "prompt": _cut(record.prompt, MAX_PROMPT_CHARACTERS),
            "raw_output": _cut(record.raw_output, MAX_OUTPUT_CHARACTERS),
            "sampling_json": _cut(record.sampling_json, MAX_SAMPLING_CHARACTERS),
            "prompt_tokens": record.prompt_tokens,
            "output_tokens": record.output_tokens,
            "first_token_ns": record.first_token_ns,
        }
    return fields


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
