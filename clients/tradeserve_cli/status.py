"""`tradeserve status`: which servers answer, and what the running strategy does."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tradeserve_cli import output
from tradeserve_cli.arguments import Subparsers, UsageError, add_command
from tradeserve_cli.connections import all_places, timeout_s, tls
from tradeserve_cli.search import DEFAULT_INDEX
from tradeserve_cli.servers import SERVERS, Place, how_to_name
from tradeserve_client.channel import Link, TlsFiles
from tradeserve_client.errors import CallError
from tradeserve_client.similarity import SimilarityClient
from tradeserve_client.strategy_service import OpenPosition, StrategyClient, StrategyStatus
from tradeserve_client.triton import TritonClient


@dataclass(frozen=True, slots=True)
class Found:
    """What became of one server.

    Attributes:
        place: Where it is.
        problem: Why it is not ready; "" when it is.
        detail: What it said about itself, for people.
        status: Of the strategy.
        positions: Of the strategy.
    """

    place: Place
    problem: str = ""
    detail: str = ""
    status: StrategyStatus | None = None
    positions: Sequence[OpenPosition] = ()


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "status",
        summary="Show which servers are ready and what the running strategy does.",
        example="tradeserve status\ntradeserve status --triton localhost:8001 --json",
        servers=tuple(SERVERS),
        json_fields="ready, servers {NAME: {target, source, ready, problem, detail}}, strategy (null, or {run_id, "
        "trading_mode, trading_state, state_reason, equity, run_pnl, drawdown_bps, decision_count, order_count, "
        "start_time, services [{name, target, in_time_count, missing_count, last_missing_reason}], positions "
        "[{con_id, symbol, quantity, average_price, stop_price}]})",
    )
    parser.add_argument(
        "--index",
        default=DEFAULT_INDEX,
        metavar="NAME",
        help="of the similarity server (default: %(default)s)",
    )
    parser.set_defaults(run=_run)


async def _run(arguments: argparse.Namespace) -> int:
    named = [place for place in all_places(arguments).values() if place.target]
    if not named:
        raise UsageError(f"no stack runs here, and no server is named: {how_to_name('triton')}")
    limit_s, files = timeout_s(arguments), tls(arguments)
    looks = {
        "triton": lambda place: _triton(place, files, limit_s),
        "similarity": lambda place: _similarity(place, files, limit_s, arguments.index),
        "strategy": lambda place: _strategy(place, files, limit_s),
        "vision": lambda place: _vision(place, files, limit_s),
    }
    found = await asyncio.gather(*(looks[place.server](place) for place in named))
    ready = not any(one.problem for one in found)
    if arguments.json:
        output.document(_as_json(found, ready=ready))
    else:
        _print(found)
    return 0 if ready else 1


async def _triton(place: Place, files: TlsFiles | None, limit_s: float) -> Found:
    client = TritonClient(place.target, tls=files)
    try:
        if not await client.ready(limit_s):
            return Found(place, _no_connection(client.link, limit_s))
        ready = await client.is_server_ready(timeout_s=limit_s)
        return Found(place, "" if ready else "it is there, but says that it is not ready")
    finally:
        await client.close()


async def _similarity(place: Place, files: TlsFiles | None, limit_s: float, index: str) -> Found:
    client = SimilarityClient(place.target, tls=files)
    try:
        if not await client.link.ready(limit_s):
            return Found(place, _no_connection(client.link, limit_s))
        info = await client.get_index(index, timeout_s=limit_s)
        what = f"{info.index.name} version {info.index.version}, {info.state_count} states"
        return Found(place, detail=f"{what} up to {output.moment(info.as_of_ns)}")
    except CallError as error:
        return Found(place, error.detail)
    finally:
        await client.close()


async def _strategy(place: Place, files: TlsFiles | None, limit_s: float) -> Found:
    client = StrategyClient(place.target, tls=files)
    try:
        if not await client.ready(limit_s):
            return Found(place, _no_connection(client.link, limit_s))
        status = await client.status(timeout_s=limit_s)
        positions = await client.positions(timeout_s=limit_s)
        reason = f" ({status.state_reason})" if status.state_reason else ""
        return Found(place, detail=f"{status.trading_state}{reason}", status=status, positions=positions)
    except CallError as error:
        return Found(place, error.detail)
    finally:
        await client.close()


async def _vision(place: Place, files: TlsFiles | None, limit_s: float) -> Found:
    link = Link(place.target, tls=files)
    try:
        ready = await link.ready(limit_s)
        return Found(place, "" if ready else _no_connection(link, limit_s))
    finally:
        await link.close()


def _no_connection(link: Link, limit_s: float) -> str:
    return f"no connection within {limit_s * 1e3:g} ms ({link.state})"


def _as_json(found: Sequence[Found], *, ready: bool) -> Mapping[str, Any]:
    servers = {
        one.place.server: {
            "target": one.place.target,
            "source": one.place.source,
            "ready": not one.problem,
            "problem": one.problem,
            "detail": one.detail,
        }
        for one in found
    }
    strategy = next((one for one in found if one.status is not None), None)
    return {"ready": ready, "servers": servers, "strategy": strategy and _strategy_json(strategy)}


def _strategy_json(found: Found) -> Mapping[str, Any]:
    status = found.status
    assert status is not None
    return {
        "run_id": status.run_id,
        "trading_mode": status.trading_mode,
        "trading_state": status.trading_state.value,
        "state_reason": status.state_reason,
        "equity": status.equity,
        "run_pnl": status.run_pnl,
        "drawdown_bps": status.drawdown_bps,
        "decision_count": status.decision_count,
        "order_count": status.order_count,
        "start_time": output.moment(status.start_ns),
        "services": [
            {
                "name": service.name,
                "target": service.target,
                "in_time_count": service.in_time_count,
                "missing_count": service.missing_count,
                "last_missing_reason": service.last_missing_reason,
            }
            for service in status.services
        ],
        "positions": [
            {
                "con_id": position.con_id,
                "symbol": position.symbol,
                "quantity": position.quantity,
                "average_price": position.average_price,
                "stop_price": position.stop_price,
            }
            for position in found.positions
        ],
    }


def _print(found: Sequence[Found]) -> None:
    for one in found:
        state = "NOT READY" if one.problem else "ready"
        words = one.problem or one.detail
        output.line(
            f"{one.place.server:11} {state:9}  {one.place.target} (from {one.place.source})"
            f"{f': {words}' if words else ''}"
        )
    for one in found:
        if one.status is not None:
            _print_strategy(one.status, one.positions)


def _print_strategy(status: StrategyStatus, positions: Sequence[OpenPosition]) -> None:
    output.line(f"run {status.run_id}: {status.trading_mode}, since {output.moment(status.start_ns)}")
    output.line(
        f"  {status.decision_count} decisions, {status.order_count} orders, equity {status.equity:,.2f}, "
        f"PnL {status.run_pnl:+,.2f}, drawdown {status.drawdown_bps / 100:.2f} %"
    )
    for service in status.services:
        last = f" (last: {service.last_missing_reason})" if service.last_missing_reason else ""
        output.line(
            f"  {service.name:12} {service.in_time_count} answers in time, {service.missing_count} missing{last}"
        )
    for position in positions:
        stop = f"stop {position.stop_price:g}" if position.stop_price else "no stop"
        output.line(
            f"  holds {position.quantity:g} {position.symbol} at {position.average_price:.2f}, {stop}"
        )
