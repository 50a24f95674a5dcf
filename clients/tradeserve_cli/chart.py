"""`tradeserve chart`: draw bars from a file, as a person or as a model sees them."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

from market.chart import BarShape, ChartOptions, ChartStyle, Mark, MarkKind, Theme, draw, encode_png
from tradeserve_cli import output
from tradeserve_cli.arguments import Subparsers, UsageError, whole
from tradeserve_cli.bar_file import read_bars

_SUMMARY = "Draw a file of bars as a chart (PNG)."
_EXAMPLE = "tradeserve chart bars.csv --symbol AAPL --out chart.png --averages 20,50 --mark stop=182.50"


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "chart",
        help=_SUMMARY,
        description=_SUMMARY,
        epilog=f"example:\n  {_EXAMPLE}\n\nexit status: 0 done, 2 wrong usage",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="CSV of bars: docs/session_format.md")
    parser.add_argument("--symbol", default="", metavar="NAME", help="which (default: the only one)")
    parser.add_argument(
        "--out", type=Path, default=Path("chart.png"), metavar="FILE", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--bars",
        type=whole(2, 4096),
        default=120,
        metavar="N",
        help="the last ones are drawn (default: %(default)s)",
    )
    parser.add_argument(
        "--width", type=whole(64, 4096), default=960, metavar="PX", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--height", type=whole(64, 4096), default=640, metavar="PX", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--style", choices=list(ChartStyle), default=ChartStyle.READABLE, help="bare: as models see it"
    )
    parser.add_argument("--shape", choices=list(BarShape), default=BarShape.CANDLES, help="of the bars")
    parser.add_argument(
        "--theme", choices=list(Theme), default=Theme.LIGHT, help="colours of readable charts"
    )
    parser.add_argument(
        "--averages",
        type=_periods,
        default=(20, 50),
        metavar="N,N",
        help='moving averages in bars, "" for none (default: 20,50)',
    )
    parser.add_argument("--no-volume", action="store_true", help="leave the volumes out")
    parser.add_argument(
        "--time-zone",
        default="America/New_York",
        metavar="ZONE",
        help="of the labels, and of the file's times that have none (default: %(default)s)",
    )
    parser.add_argument(
        "--mark",
        type=_mark,
        action="append",
        default=[],
        metavar="KIND=PRICE",
        help="a line at a price: buy, sell, stop or limit; may be given again",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    try:
        options = ChartOptions(
            arguments.width,
            arguments.height,
            style=ChartStyle(arguments.style),
            shape=BarShape(arguments.shape),
            averages=arguments.averages,
            volume=not arguments.no_volume,
            theme=Theme(arguments.theme),
            time_zone=arguments.time_zone,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    symbol, bars = read_bars(arguments.file, arguments.symbol, ZoneInfo(options.time_zone))
    # Earlier bars give the averages of the first bars that are drawn.
    warm_up_bars = min(max(len(bars) - arguments.bars, 0), max(options.averages, default=1) - 1)
    drawn = bars[-(arguments.bars + warm_up_bars) :]
    try:
        chart = draw(drawn, replace(options, symbol=symbol), marks=arguments.mark, warm_up_bars=warm_up_bars)
    except ValueError as error:
        raise UsageError(f"{arguments.file}: {error}") from error
    content = encode_png(chart.pixels)
    try:
        arguments.out.write_bytes(content)
    except OSError as error:
        raise UsageError(f"{arguments.out}: can't be written: {error.strerror or error}") from error
    output.line(f"{arguments.out}: {len(drawn) - warm_up_bars} bars, {len(content)} bytes")
    return 0


def _periods(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not numbers of bars such as 20,50") from error


def _mark(text: str) -> Mark:
    kind, _, price = text.partition("=")
    try:
        return Mark(MarkKind(kind), float(price))
    except ValueError as error:
        kinds = ", ".join(MarkKind)
        raise argparse.ArgumentTypeError(f"{text!r} is not KIND=PRICE; kinds are {kinds}") from error
