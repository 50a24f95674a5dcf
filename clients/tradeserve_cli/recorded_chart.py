"""`tradeserve read-chart --decision`: the picture and the words again, from the journal."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tradeserve_cli import output
from tradeserve_cli.arguments import UsageError
from tradeserve_cli.recorded import recorded

if TYPE_CHECKING:
    from journal.readings import ReadChart


async def show(arguments: argparse.Namespace) -> int:
    """Write the picture and print what was read on it; return the exit status."""
    async with recorded(arguments.database_url, "--decision") as journal:
        found = await journal.read_chart(arguments.decision)
    written = _written(found, arguments.out)
    if arguments.json:
        output.document(_as_json(found, written))
    else:
        _print(found, written)
    return 0


def _written(found: ReadChart, path: Path | None) -> str:
    if not found.png:
        return ""
    target = path or Path(f"chart-{found.reading.decision_id}.png")
    try:
        target.write_bytes(found.png)
    except OSError as error:
        raise UsageError(f"--out {target}: can't be written: {error.strerror or error}") from error
    return str(target)


def _print(found: ReadChart, written: str) -> None:
    from journal.evidence import effect_words, reading_lines

    as_of = output.moment(found.reading.as_of_ns)
    output.line(f"{found.symbol} as of {as_of}: {written or 'no chart was drawn'}")
    for line in reading_lines(found.reading):
        output.line(f"  {line}")
    for effect in found.effects:
        output.line(f"  decision {effect.decision_id}: {effect_words(effect)}")
    if found.reading.prompt:
        output.line(f"prompt {found.reading.prompt_name}:")
        output.line(found.reading.prompt)
        output.line(f"answered: {found.reading.raw_output}")


def _as_json(found: ReadChart, written: str) -> Mapping[str, Any]:
    reading = found.reading
    return {
        "answered": reading.signal is not None,
        "decision_id": reading.decision_id,
        "symbol": found.symbol,
        "as_of_time": output.moment(reading.as_of_ns),
        "outcome": reading.outcome,
        "detail": reading.detail,
        "chart": written,
        "chart_sha256": reading.chart_sha256,
        "request_id": reading.request_id,
        "question": reading.question,
        "signal": reading.signal.lower() if reading.signal else None,
        "stated_confidence": reading.stated_confidence,
        "trust": reading.trust,
        "reasoning": reading.reasoning,
        "patterns": list(reading.patterns),
        "key_levels": list(reading.key_levels),
        "risks": list(reading.risks),
        "contradictions": [dict(one) for one in reading.contradictions],
        "expire_time": output.moment(reading.expire_ns or 0),
        "model": {
            "name": reading.model_name,
            "version": reading.model_version,
            "artifact_sha256": reading.artifact_sha256,
        },
        "record": {
            "prompt_name": reading.prompt_name,
            "prompt_template_sha256": reading.prompt_template_sha256,
            "prompt": reading.prompt,
            "raw_output": reading.raw_output,
            "sampling_json": reading.sampling_json,
            "prompt_tokens": reading.prompt_tokens,
            "output_tokens": reading.output_tokens,
            "first_token_ms": output.milliseconds(reading.first_token_ns),
        },
        "round_trip_ms": output.milliseconds(
            reading.received_after_ns - reading.sent_after_ns if reading.received_after_ns >= 0 else -1
        ),
        "compute_ms": output.milliseconds(reading.compute_ns),
        "effects": [
            {
                "decision_id": effect.decision_id,
                "effect": effect.effect,
                "wanted_side": effect.wanted_side.lower(),
                "wanted_strength": effect.wanted_strength,
                "strength": effect.strength,
                "confidence": effect.confidence,
                "calibrated": effect.calibrated,
            }
            for effect in found.effects
        ],
    }
