"""`tradeserve chart`: draw bars from a file, as a person or as a model sees them."""

from __future__ import annotations

import argparse
from pathlib import Path

from market.chart import BarShape, ChartOptions, ChartStyle, Mark, MarkKind, Theme
from tradeserve_cli import output
from tradeserve_cli.arguments import Subparsers, UsageError, whole
from tradeserve_cli.bar_chart import add_bars, draw_bars, write_png

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
    add_bars(parser, bars=120)
    parser.add_argument(
        "--out", type=Path, default=Path("chart.png"), metavar="FILE", help="(default: %(default)s)"
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
    bars, chart = draw_bars(arguments, options, arguments.mark)
    size = write_png(arguments.out, chart.pixels)
    output.line(f"{arguments.out}: {len(bars)} bars, {size} bytes")
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
