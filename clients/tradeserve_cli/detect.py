"""`tradeserve detect`: draw bars from a file and have the chart patterns on them found."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from market.chart import Chart, ChartOptions, FoundPattern, draw, encode_png, found_patterns
from market.events import Bar
from tradeserve_cli import output
from tradeserve_cli.arguments import Subparsers, UsageError, add_command, number, whole
from tradeserve_cli.bar_file import read_bars
from tradeserve_cli.connections import clients, timeout_s
from tradeserve_cli.infer import contract_of
from tradeserve_client.answers import Answer, NoAnswer
from tradeserve_client.inference import Inference

_MODEL = "pattern_detector"
_SIDE_PX = 480
_AVERAGES = (20, 50)
_BORDER_PX = 2
_BOX_COLOUR = (232, 62, 200)


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "detect",
        summary="Find chart patterns in a file of bars.",
        example="tradeserve detect bars.csv --symbol AAPL --bars 80 --out found.png",
        servers=("triton",),
        json_fields="model, version, artifact_sha256, request_id, round_trip_ms, bars, patterns [{name, score, "
        "first_bar, last_bar, first_time, last_time, low, high, box [left, top, right, bottom]}], statement; "
        "without an answer: answered false, reason, detail",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="CSV of bars: docs/session_format.md")
    parser.add_argument("--symbol", default="", metavar="NAME", help="which (default: the only one)")
    parser.add_argument(
        "--bars", type=whole(2, 4096), default=80, metavar="N", help="the last ones (default: %(default)s)"
    )
    parser.add_argument(
        "--min-score",
        type=number(0.0, 1.0),
        default=0.4,
        metavar="S",
        help="leave out what is less sure (default: %(default)g)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the chart with the boxes, PNG")
    parser.add_argument(
        "--time-zone",
        default="America/New_York",
        metavar="ZONE",
        help="of the file's times that have none (default: %(default)s)",
    )
    parser.set_defaults(run=_run)


async def _run(arguments: argparse.Namespace) -> int:
    drawn, chart = _drawn(arguments)
    async with clients(arguments, "triton") as connected:
        contract = await contract_of(connected.triton, _MODEL, 0, timeout_s(arguments))
        outcome = await connected.triton.infer(
            _MODEL, {"image": chart.pixels[np.newaxis]}, budget=timeout_s(arguments)
        )
    if isinstance(outcome, NoAnswer):
        return output.no_answer(_MODEL, outcome.reason, outcome.detail, as_json=arguments.json)
    outputs = outcome.value.outputs
    found = found_patterns(
        outputs["boxes"][0],
        outputs["scores"][0],
        outputs["labels"][0],
        contract.parameters.get("classes", "").split(","),
        chart.geometry,
        least_score=arguments.min_score,
    )
    if arguments.out is not None:
        _write(arguments.out, _outlined(chart.pixels, found))
    statement = contract.parameters.get("statement", "")
    if arguments.json:
        output.document(_as_json(outcome, drawn, found, statement))
    else:
        _print(outcome, drawn, found, statement)
    return 0


def _drawn(arguments: argparse.Namespace) -> tuple[Sequence[Bar], Chart]:
    try:
        options = ChartOptions(_SIDE_PX, _SIDE_PX, averages=_AVERAGES, time_zone=arguments.time_zone)
    except ValueError as error:
        raise UsageError(str(error)) from error
    _, bars = read_bars(arguments.file, arguments.symbol, ZoneInfo(options.time_zone))
    warm_up_bars = min(max(len(bars) - arguments.bars, 0), max(_AVERAGES) - 1)
    try:
        chart = draw(bars[-(arguments.bars + warm_up_bars) :], options, warm_up_bars=warm_up_bars)
    except ValueError as error:
        raise UsageError(f"{arguments.file}: {error}") from error
    return bars[-arguments.bars :], chart


def _outlined(pixels: NDArray[np.uint8], found: Sequence[FoundPattern]) -> NDArray[np.uint8]:
    picture = pixels.copy()
    height, width = picture.shape[:2]
    for one in reversed(found):  # the surest on top
        left, right = (min(max(round(side), 0), width) for side in (one.left, one.right))
        top, bottom = (min(max(round(side), 0), height) for side in (one.top, one.bottom))
        inside = picture[
            top + _BORDER_PX : bottom - _BORDER_PX, left + _BORDER_PX : right - _BORDER_PX
        ].copy()
        picture[top:bottom, left:right] = _BOX_COLOUR
        picture[top + _BORDER_PX : bottom - _BORDER_PX, left + _BORDER_PX : right - _BORDER_PX] = inside
    return picture


def _write(path: Path, pixels: NDArray[np.uint8]) -> None:
    try:
        path.write_bytes(encode_png(pixels))
    except OSError as error:
        raise UsageError(f"{path}: can't be written: {error.strerror or error}") from error


def _as_json(
    answer: Answer[Inference], drawn: Sequence[Bar], found: Sequence[FoundPattern], statement: str
) -> Mapping[str, Any]:
    return {
        "answered": True,
        "model": answer.value.model_name,
        "version": answer.value.model_version,
        "artifact_sha256": answer.call.artifact_sha256,
        "request_id": answer.call.request_id,
        "round_trip_ms": output.milliseconds(answer.call.round_trip_ns),
        "bars": len(drawn),
        "patterns": [
            {
                "name": one.name,
                "score": round(one.score, 4),
                "first_bar": one.first_bar,
                "last_bar": one.last_bar,
                "first_time": output.moment(drawn[one.first_bar].start_ns),
                "last_time": output.moment(drawn[one.last_bar].start_ns),
                "low": one.low,
                "high": one.high,
                "box": [round(side, 1) for side in (one.left, one.top, one.right, one.bottom)],
            }
            for one in found
        ],
        "statement": statement,
    }


def _print(
    answer: Answer[Inference], drawn: Sequence[Bar], found: Sequence[FoundPattern], statement: str
) -> None:
    call = answer.call
    output.line(
        f"{answer.value.model_name} version {answer.value.model_version} ({output.digest(call.artifact_sha256)}) "
        f"in {call.round_trip_ns / 1e6:.1f} ms: {len(found) or 'no'} pattern{'s' * (len(found) != 1)} "
        f"on {len(drawn)} bars"
    )
    for one in found:
        first, last = (output.moment(drawn[bar].start_ns) for bar in (one.first_bar, one.last_bar))
        output.line(
            f"{one.name:27} {one.score:.2f}  {first} to {last}  bars {one.first_bar} to {one.last_bar}  "
            f"{one.low:.6g} to {one.high:.6g}"
        )
    if statement:
        output.line(statement)
