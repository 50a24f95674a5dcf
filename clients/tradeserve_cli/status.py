"""`tradeserve status`: which servers answer, and what the running strategy does."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tradeserve_cli import output
from tradeserve_cli.arguments import Subparsers, UsageError, add_command
from tradeserve_cli.connections import all_places, clients_of, timeout_s
from tradeserve_cli.search import DEFAULT_INDEX
from tradeserve_cli.servers import SERVERS, Place, how_to_name, variable
from tradeserve_client.errors import CallError
from tradeserve_client.similarity_replicas import SimilarityReplicas
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
        json_fields="ready, servers [{server, target, source, ready, problem, detail}] (one per replica), "
        "strategy (null, or {run_id, trading_mode, trading_state, state_reason, equity, run_pnl, drawdown_bps, "
        "decision_count, order_count, start_time, services [{name, target, in_time_count, missing_count, "
        "last_missing_reason}], positions [{con_id, symbol, quantity, average_price, stop_price}]})",
    )
    parser.add_argument(
        "--index",
        default=DEFAULT_INDEX,
        metavar="NAME",
        help="of the similarity server (default: %(default)s)",
    )
    parser.set_defaults(run=_run)


async def _run(arguments: argparse.Namespace) -> int:
    named = [replica for place in all_places(arguments).values() for replica in place.replicas]
    if not named:
        raise UsageError(f"no stack runs here, and no server is named: {how_to_name('triton')}")
    found = await asyncio.gather(*(_look(arguments, place) for place in named))
    ready = not any(one.problem for one in found)
    if arguments.json:
        output.document(_as_json(found, ready=ready))
    else:
        _print(found)
    return 0 if ready else 1


async def _look(arguments: argparse.Namespace, place: Place) -> Found:
    limit_s = timeout_s(arguments)
    async with clients_of(arguments, place) as connected:
        try:
            match place.server:
                case "triton":
                    return await _triton(connected.triton, place, limit_s)
                case "similarity":
                    return await _similarity(connected.similarity, place, limit_s, arguments.index)
                case "strategy":
                    return await _strategy(connected.strategy, place, limit_s)
                case _:
                    ready = await connected.charts.ready(limit_s)
                    return Found(place, "" if ready else _no_connection(limit_s))
        except CallError as error:
            return Found(place, output.explained(error.detail))


async def _triton(client: TritonClient, place: Place, limit_s: float) -> Found:
    if not await client.ready(limit_s):
        return Found(place, _no_connection(limit_s))
    ready = await client.is_server_ready(timeout_s=limit_s)
    return Found(place, "" if ready else "it is there, but says that it is not ready")


async def _similarity(client: SimilarityReplicas, place: Place, limit_s: float, index: str) -> Found:
    if not await client.ready(limit_s):
        return Found(place, _no_connection(limit_s))
    info = await client.get_index(index, timeout_s=limit_s)
    what = f"{info.index.name} version {info.index.version}, {info.state_count} states"
    return Found(place, detail=f"{what} up to {output.moment(info.as_of_ns)}")


async def _strategy(client: StrategyClient, place: Place, limit_s: float) -> Found:
    if not await client.ready(limit_s):
        return Found(place, _no_connection(limit_s))
    status = await client.status(timeout_s=limit_s)
    positions = await client.positions(timeout_s=limit_s)
    reason = f" ({status.state_reason})" if status.state_reason else ""
    return Found(place, detail=f"{status.trading_state}{reason}", status=status, positions=positions)


def _no_connection(limit_s: float) -> str:
    return f"no connection within {limit_s * 1e3:g} ms"


def _as_json(found: Sequence[Found], *, ready: bool) -> Mapping[str, Any]:
    servers = [
        {
            "server": one.place.server,
            "target": one.place.target,
            "source": one.place.source,
            "ready": not one.problem,
            "problem": one.problem,
            "detail": one.detail,
        }
        for one in found
    ]
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
    named = {one.place.server for one in found}
    for server in SERVERS:
        if server not in named:
            output.line(f"{server:11} off        nobody names it (--{server}, {variable(server)})")
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
