"""`tradeserve detect`: draw bars from a file and have the chart patterns on them found."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from market.chart import ChartOptions, FoundPattern, found_patterns
from market.events import Bar
from tradeserve_cli import output
from tradeserve_cli.arguments import Subparsers, UsageError, add_command, number
from tradeserve_cli.bar_chart import add_bars, draw_bars, write_png
from tradeserve_cli.connections import clients, timeout_s
from tradeserve_cli.infer import contract_of, described, headline
from tradeserve_client.answers import Answer, NoAnswer
from tradeserve_client.errors import ContractError
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
        "without an answer: answered false, service, reason, detail",
    )
    add_bars(parser, bars=80)
    parser.add_argument(
        "--min-score",
        type=number(0.0, 1.0),
        default=0.4,
        metavar="S",
        help="leave out what is less sure (default: %(default)g)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the chart with the boxes, PNG")
    parser.set_defaults(run=_run)


async def _run(arguments: argparse.Namespace) -> int:
    try:
        options = ChartOptions(_SIDE_PX, _SIDE_PX, averages=_AVERAGES, time_zone=arguments.time_zone)
    except ValueError as error:
        raise UsageError(str(error)) from error
    bars, chart = draw_bars(arguments, options)
    async with clients(arguments, "triton") as connected:
        contract = await contract_of(connected.triton, _MODEL, 0, timeout_s(arguments))
        if "classes" not in contract.parameters:
            raise ContractError([f"{_MODEL}: its config has no parameter 'classes', the names of its labels"])
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
        contract.parameters["classes"].split(","),
        chart.geometry,
        least_score=arguments.min_score,
    )
    if arguments.out is not None:
        write_png(arguments.out, _outlined(chart.pixels, found))
    statement = contract.parameters.get("statement", "")
    if arguments.json:
        output.document(_as_json(outcome, bars, found, statement))
    else:
        _print(outcome, bars, found, statement)
    return 0


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


def _as_json(
    answer: Answer[Inference], bars: Sequence[Bar], found: Sequence[FoundPattern], statement: str
) -> Mapping[str, Any]:
    return {
        **described(answer),
        "bars": len(bars),
        "patterns": [
            {
                "name": one.name,
                "score": round(one.score, 4),
                "first_bar": one.first_bar,
                "last_bar": one.last_bar,
                "first_time": output.moment(bars[one.first_bar].start_ns),
                "last_time": output.moment(bars[one.last_bar].start_ns),
                "low": one.low,
                "high": one.high,
                "box": [round(side, 1) for side in (one.left, one.top, one.right, one.bottom)],
            }
            for one in found
        ],
        "statement": statement,
    }


def _print(
    answer: Answer[Inference], bars: Sequence[Bar], found: Sequence[FoundPattern], statement: str
) -> None:
    output.line(
        f"{headline(answer)}: {len(found) or 'no'} pattern{'s' * (len(found) != 1)} on {len(bars)} bars"
    )
    for one in found:
        first, last = (output.moment(bars[bar].start_ns) for bar in (one.first_bar, one.last_bar))
        output.line(
            f"{one.name:27} {one.score:.2f}  {first} to {last}  bars {one.first_bar} to {one.last_bar}  "
            f"{one.low:.6g} to {one.high:.6g}"
        )
    if statement:
        output.line(statement)
