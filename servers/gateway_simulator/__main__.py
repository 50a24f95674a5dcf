"""Run the simulated gateway: `python -m gateway_simulator --help`."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import orjson
import structlog

from gateway_simulator import GatewayError
from gateway_simulator.clock import MAX_SPEED, MIN_SPEED
from gateway_simulator.faults import read_faults
from gateway_simulator.generated import DEFAULT_SYMBOLS, generate
from gateway_simulator.server import Gateway, Options
from gateway_simulator.session import BAR_SIZES_S, NS_PER_S, Session
from server_runtime import logs

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
    what.add_argument("--symbols", help="comma-separated; default: all of sample, three of generated")
    what.add_argument(
        "--bar-size-s", type=int, choices=BAR_SIZES_S, help="default 300 if generated, else found out"
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


def read_session(args: argparse.Namespace) -> Session:
    """Return the session that the arguments name.

    Raises:
        SessionError: It is unusable.
    """
    symbols = tuple(one.strip() for one in args.symbols.split(",") if one.strip()) if args.symbols else ()
    return generate(symbols or DEFAULT_SYMBOLS, bar_size_s=args.bar_size_s or 300, seed=args.seed)


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
        temporary = args.ready_file.with_name(args.ready_file.name + ".new")
        temporary.write_bytes(orjson.dumps(ready(gateway, address)))
        temporary.replace(args.ready_file)
    waits = [asyncio.ensure_future(gateway.wait()), asyncio.ensure_future(stopped.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    await gateway.stop()
    waits[1].cancel()
    await waits[0]
    log.info("stopped")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, read the session, serve; return the exit code."""
    args = parser().parse_args(argv)
    logs.configure("gateway_simulator", json=args.log_format == "json", stream=sys.stderr)
    try:
        session = read_session(args)
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
