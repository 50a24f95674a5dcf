"""`tradeserve read-chart`: have the vision server read one chart."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tradeserve_cli import output, recorded_chart
from tradeserve_cli.arguments import MAX_CON_ID, Subparsers, UsageError, add_command, instant, whole
from tradeserve_cli.connections import all_places, clients, timeout_s
from tradeserve_cli.servers import how_to_name
from tradeserve_client.answers import Answer, NoAnswer, Reason
from tradeserve_client.chart_reading import (
    MAX_PNG_BYTES,
    ChartQuery,
    ChartReading,
    ReadingRecord,
)
from tradeserve_client.errors import WrongRequestError

_SERVICE = "vision"


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "read-chart",
        summary="Have the vision server read a chart (slow; never on the order path).",
        example="tradeserve read-chart chart.png --symbol AAPL --as-of 2025-03-12T14:30:00Z\n"
        "tradeserve read-chart --decision ID --out chart.png    (what was read after a decision, again)",
        servers=(_SERVICE,),
        timeout_ms=30_000.0,
        json_fields="signal, stated_confidence, reasoning, patterns, key_levels, risks, trust, "
        "contradictions [{field, detail}], expire_time, model {name, version, artifact_sha256}, "
        "record {prompt_name, prompt_template_sha256, prompt, raw_output, chart_sha256, sampling_json, "
        "prompt_tokens, output_tokens, first_token_ms}, request_id, round_trip_ms, compute_ms; "
        "without an answer: answered false, service, reason, detail; of --decision also: decision_id, symbol, "
        "as_of_time, outcome, chart, chart_sha256, question, effects [{decision_id, effect, wanted_side, "
        "wanted_strength, strength, confidence, calibrated}]",
    )
    parser.add_argument("chart", type=Path, nargs="?", metavar="FILE", help="the chart, PNG")
    parser.add_argument("--symbol", default="", metavar="NAME", help="what it shows; needed with FILE")
    parser.add_argument(
        "--con-id",
        type=whole(0, MAX_CON_ID),
        default=0,
        metavar="N",
        help="contract id at Interactive Brokers (default: 0, unknown)",
    )
    parser.add_argument(
        "--as-of",
        type=instant,
        default=None,
        metavar="TIME",
        help="latest event drawn, ISO-8601 (default: now)",
    )
    parser.add_argument(
        "--prompt", default="", metavar="NAME", help="prompt template on the server (default: its own)"
    )
    parser.add_argument(
        "--decision",
        default="",
        metavar="ID",
        help="show what was read after this decision, from the journal",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="where --decision writes the picture (chart-ID.png)"
    )
    parser.add_argument(
        "--database-url",
        default=os.environ.get("DATABASE_URL", ""),
        metavar="URL",
        help="of the journal, for --decision (DATABASE_URL)",
    )
    parser.set_defaults(run=_run)


async def _run(arguments: argparse.Namespace) -> int:
    if arguments.decision:
        if arguments.chart is not None:
            raise UsageError("give a FILE to have it read, or --decision to see what was read; not both")
        return await recorded_chart.show(arguments)
    if arguments.chart is None or not arguments.symbol:
        raise UsageError("give a FILE and its --symbol, or --decision")
    place = all_places(arguments)[_SERVICE]
    if not place.target:
        detail = f"vision is off: no server is named; {how_to_name(_SERVICE)}"
        return output.no_answer(_SERVICE, Reason.OFF, detail, as_json=arguments.json)
    query = ChartQuery(
        con_id=arguments.con_id,
        symbol=arguments.symbol,
        chart_png=_png(arguments.chart),
        as_of_ns=time.time_ns() if arguments.as_of is None else arguments.as_of,
        prompt_name=arguments.prompt,
    )
    async with clients(arguments, _SERVICE) as connected:
        try:
            outcome = await connected.charts.read_chart(query, budget=timeout_s(arguments))
        except WrongRequestError as error:
            raise UsageError(f"{arguments.chart}: {error.detail}") from error
    if isinstance(outcome, NoAnswer):
        detail = outcome.detail
        if outcome.reason is Reason.DOWN:
            detail = f"the server at {place.target} (from {place.source}) is unreachable: {detail}"
        return output.no_answer(_SERVICE, outcome.reason, detail, as_json=arguments.json)
    if arguments.json:
        output.document(_as_json(outcome))
    else:
        _print(outcome)
    return 0


def _png(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_PNG_BYTES:
            raise UsageError(f"{path}: is larger than {MAX_PNG_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror or error}") from error


def _as_json(answer: Answer[ChartReading]) -> Mapping[str, Any]:
    reading, call = answer.value, answer.call
    return {
        "answered": True,
        "signal": reading.signal.value,
        "stated_confidence": reading.stated_confidence,
        "reasoning": reading.reasoning,
        "patterns": list(reading.patterns),
        "key_levels": list(reading.key_levels),
        "risks": list(reading.risks),
        "trust": round(reading.trust, 4),
        "contradictions": [{"field": each.field, "detail": each.detail} for each in reading.contradictions],
        "expire_time": output.moment(reading.expire_ns),
        "model": {
            "name": reading.model.name,
            "version": reading.model.version,
            "artifact_sha256": reading.model.artifact_sha256,
        },
        "record": _record_as_json(reading.record),
        "request_id": call.request_id,
        "round_trip_ms": output.milliseconds(call.round_trip_ns),
        "compute_ms": output.milliseconds(call.compute_ns),
    }


def _record_as_json(record: ReadingRecord | None) -> Mapping[str, Any] | None:
    if record is None:
        return None
    return {
        "prompt_name": record.prompt_name,
        "prompt_template_sha256": record.prompt_template_sha256,
        "prompt": record.prompt,
        "raw_output": record.raw_output,
        "chart_sha256": record.chart_sha256,
        "sampling_json": record.sampling_json,
        "prompt_tokens": record.prompt_tokens,
        "output_tokens": record.output_tokens,
        "first_token_ms": output.milliseconds(record.first_token_ns),
    }


def _print(answer: Answer[ChartReading]) -> None:
    reading = answer.value
    output.line(
        f"{reading.signal.value.upper()}, stated confidence {reading.stated_confidence:.2f} (not calibrated), "
        f"until {output.moment(reading.expire_ns)}"
    )
    output.line(reading.reasoning)
    for name, said in (
        ("patterns", ", ".join(reading.patterns)),
        ("levels", ", ".join(f"{level:g}" for level in reading.key_levels)),
        ("risks", "; ".join(reading.risks)),
    ):
        if said:
            output.line(f"{name}: {said}")
    for each in reading.contradictions:
        output.line(f"contradicted: {each.field}: {each.detail} (trust {reading.trust:.2f})")
    output.line(
        f"{reading.model.name} version {reading.model.version} in {answer.call.round_trip_ns / 1e6:.0f} ms"
    )
