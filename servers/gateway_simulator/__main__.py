"""Run the simulated gateway: `python -m gateway_simulator --help`."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import orjson
import structlog

from gateway_simulator import GatewayError, SessionError
from gateway_simulator.clock import MAX_SPEED, MIN_SPEED
from gateway_simulator.faults import read_faults
from gateway_simulator.generated import DEFAULT_SYMBOLS, generate
from gateway_simulator.server import Gateway, Options
from gateway_simulator.session import BAR_SIZES_S, NS_PER_S, Session
from gateway_simulator.session_choice import TIME_NAMES, Choice
from gateway_simulator.session_file import SAMPLE_WARMUP_BARS, read_sample, read_session
from server_runtime import logs

MAX_SPREAD_BPS = 500.0

log = structlog.get_logger(__name__)


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    one = argparse.ArgumentParser(
        prog="python -m gateway_simulator",
        description="A simulated IB Gateway: speaks the TWS socket protocol and replays a market session.",
    )
    one.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    one.add_argument("--port", type=int, default=4002, help="port, 0 to pick one (default %(default)s)")
    one.add_argument("--ready-file", type=Path, help="JSON file written once clients can connect")
    one.add_argument("--log-format", choices=("text", "json"), default="text")
    what = one.add_argument_group("what is replayed")
    what.add_argument(
        "--session",
        default="generated",
        help='"generated" (default), "sample", or a parquet or CSV file of bars',
    )
    what.add_argument(
        "--symbols", help="comma-separated; default: three made up ones, or the most traded four of a file"
    )
    what.add_argument(
        "--bar-size-s", type=int, choices=BAR_SIZES_S, help="default 300 if generated, else found out"
    )
    what.add_argument(
        "--from", dest="first_day", type=date.fromisoformat, metavar="DATE", help="first day of a file"
    )
    what.add_argument(
        "--to", dest="last_day", type=date.fromisoformat, metavar="DATE", help="last day of a file"
    )
    what.add_argument(
        "--days", type=int, help="days up to the last one (default: 1; of daily bars up to 250 bars)"
    )
    what.add_argument(
        "--warmup-bars", type=int, help="history that must lie before the session (default 60; sample: 120)"
    )
    what.add_argument("--time-column", metavar="NAME", help=f"default: the first of {', '.join(TIME_NAMES)}")
    what.add_argument(
        "--time-zone", default="", metavar="ZONE", help="of times without one, and of the exchange"
    )
    what.add_argument("--time-is", choices=("start", "end"), help="of the bar (default start; end for …_end)")
    what.add_argument(
        "--hours", choices=("regular", "all"), help="keep 09:30 to 16:00 only (default in New York)"
    )
    what.add_argument(
        "--spread-bps", type=float, default=2.0, help="of quotes made from bars (default %(default)s)"
    )
    what.add_argument(
        "--security-type", choices=("STK", "CASH"), default="STK", help="CASH: symbols like EURUSD"
    )
    what.add_argument("--seed", type=int, default=7, help="of the generated market (default %(default)s)")
    how = one.add_argument_group("how it is replayed")
    how.add_argument(
        "--speed",
        type=float,
        help="replayed seconds per wall second, 0.1 to 100000 (default: a bar a second)",
    )
    how.add_argument(
        "--cash", type=float, default=1_000_000.0, help="of the paper account (default %(default)s)"
    )
    how.add_argument(
        "--depth-lines", type=int, default=10, help="market depth lines per client (default %(default)s)"
    )
    how.add_argument("--no-pacing", action="store_true", help="accept more than 50 messages a second")
    how.add_argument("--state-file", type=Path, help="where account, orders and position survive a restart")
    how.add_argument(
        "--wire-log", type=Path, help="JSON lines with the time of every bar sent and order received"
    )
    how.add_argument("--faults", type=Path, help="JSON list of faults to inject")
    return one


def choose_session(args: argparse.Namespace) -> Session:
    """Return the session that the arguments name.

    Raises:
        SessionError: It is unusable.
    """
    symbols = tuple(one.strip() for one in args.symbols.split(",") if one.strip()) if args.symbols else ()
    if args.session == "generated":
        return generate(
            symbols or DEFAULT_SYMBOLS, bar_size_s=args.bar_size_s or 300, seed=args.seed, days=args.days or 1
        )
    if not 0 <= args.spread_bps <= MAX_SPREAD_BPS:
        raise SessionError(f"--spread-bps {args.spread_bps}: must be 0 to {MAX_SPREAD_BPS}")
    is_sample = args.session == "sample"
    warmup = args.warmup_bars if args.warmup_bars is not None else SAMPLE_WARMUP_BARS if is_sample else 60
    if warmup < 1 or (args.days is not None and args.days < 1):
        raise SessionError("--warmup-bars and --days must be 1 or more")
    choice = Choice(
        symbols=symbols,
        first_day=args.first_day,
        last_day=args.last_day,
        days=args.days,
        warmup_bars=warmup,
        bar_size_s=args.bar_size_s,
        time_column=args.time_column,
        time_zone=args.time_zone,
        time_is_end=None if args.time_is is None else args.time_is == "end",
        regular_hours=None if args.hours is None else args.hours == "regular",
        spread_bps=args.spread_bps,
        security_type=args.security_type,
    )
    return read_sample(choice) if is_sample else read_session(Path(args.session), choice)


def ready(gateway: Gateway, address: str) -> dict[str, object]:
    """Return what the ready file says."""
    session = gateway.session
    return {
        "pid": os.getpid(),
        "address": address,
        "account": gateway.account.number,
        "session": {
            "source": session.source,
            "bar_size_s": session.bar_size_s,
            "start_ns": session.start_ns,
            "end_ns": session.end_ns,
            "symbols": [series.instrument.symbol for series in session.series],
            "speed": gateway.options.speed,
            "seed": session.seed,
            "bars": len(session.slots),
            "warmup_bars": session.warmup_bars,
        },
    }


async def serve(session: Session, options: Options, args: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, stopped.set)
    gateway = Gateway(session, options)
    try:
        address = await gateway.start(args.host, args.port)
    except OSError as error:
        print(
            f"error: cannot listen on {args.host}:{args.port}: {os.strerror(error.errno or 0)}; "
            "stop what uses it, or choose another --port (0 picks a free one)",
            file=sys.stderr,
        )
        return 1
    log.info("listening", address=address, session=session.source, bars=len(session.slots))
    if args.ready_file is not None:
        write_ready(args.ready_file, ready(gateway, address))
    waits = [asyncio.ensure_future(gateway.wait()), asyncio.ensure_future(stopped.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    await gateway.stop()
    waits[1].cancel()
    await waits[0]
    log.info("stopped")
    return 0


def write_ready(path: Path, content: dict[str, object]) -> None:
    """Write the ready file in one step.

    Raises:
        GatewayError: It can't be written.
    """
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.write_bytes(orjson.dumps(content))
        temporary.replace(path)
    except OSError as error:
        raise GatewayError(f"--ready-file {path}: cannot be written: {error.strerror}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, read the session, serve; return the exit code."""
    args = parser().parse_args(argv)
    logs.configure("gateway_simulator", json=args.log_format == "json", stream=sys.stderr)
    try:
        if not 0 <= args.port <= 65_535:
            raise GatewayError(f"--port {args.port}: must be 0 to 65535")
        session = choose_session(args)
        speed = args.speed if args.speed is not None else session.slot_length_ns / NS_PER_S
        if not MIN_SPEED <= speed <= MAX_SPEED:
            raise GatewayError(f"--speed {speed}: must be {MIN_SPEED} to {MAX_SPEED:.0f}")
        symbols = [series.instrument.symbol for series in session.series]
        options = Options(
            speed=speed,
            cash=args.cash,
            pacing=not args.no_pacing,
            depth_lines=args.depth_lines,
            state_file=args.state_file,
            wire_log=args.wire_log,
            faults=read_faults(args.faults, symbols) if args.faults else (),
        )
        return asyncio.run(serve(session, options, args))
    except GatewayError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
