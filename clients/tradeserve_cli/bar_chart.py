"""A file of bars drawn as a chart: what `chart` and `detect` share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from market.chart import Chart, ChartOptions, Mark, draw, encode_png
from market.events import Bar
from tradeserve_cli.arguments import Parser, UsageError, whole
from tradeserve_cli.bar_file import read_bars


def add_bars(parser: Parser, *, bars: int) -> None:
    """Add the file, and which of its bars are drawn.

    Args:
        parser: Of the command.
        bars: How many are drawn by default.
    """
    parser.add_argument("file", type=Path, metavar="FILE", help="CSV of bars: docs/session_format.md")
    parser.add_argument("--symbol", default="", metavar="NAME", help="which (default: the only one)")
    parser.add_argument(
        "--bars",
        type=whole(2, 4096),
        default=bars,
        metavar="N",
        help="the last ones are drawn (default: %(default)s)",
    )
    parser.add_argument(
        "--time-zone",
        default="America/New_York",
        metavar="ZONE",
        help="of the labels, and of the file's times that have none (default: %(default)s)",
    )


def draw_bars(
    arguments: argparse.Namespace, options: ChartOptions, marks: Sequence[Mark] = ()
) -> tuple[Sequence[Bar], Chart]:
    """Return the bars that are drawn and their chart.

    Raises:
        UsageError: The file, its symbol or a mark can't be drawn.
    """
    symbol, bars = read_bars(arguments.file, arguments.symbol, ZoneInfo(options.time_zone))
    # Earlier bars give the averages of the first bars that are drawn.
    warm_up_bars = min(max(len(bars) - arguments.bars, 0), max(options.averages, default=1) - 1)
    shown = bars[-(arguments.bars + warm_up_bars) :]
    try:
        chart = draw(shown, replace(options, symbol=symbol), marks=marks, warm_up_bars=warm_up_bars)
    except ValueError as error:
        raise UsageError(f"{arguments.file}: {error}") from error
    return shown[warm_up_bars:], chart


def write_png(path: Path, pixels: NDArray[np.uint8]) -> int:
    """Write a picture; return its size in bytes.

    Raises:
        UsageError: It can't be written.
    """
    try:
        return path.write_bytes(encode_png(pixels))
    except OSError as error:
        raise UsageError(f"{path}: can't be written: {error.strerror or error}") from error
