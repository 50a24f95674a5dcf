"""`tradeserve watch`: the decisions of a running strategy as they are made."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from tradeserve_cli import output
from tradeserve_cli.arguments import Subparsers, add_command, whole
from tradeserve_cli.connections import clients, timeout_s
from tradeserve_client.answers import Reason
from tradeserve_client.strategy_service import MAX_RECENT, StrategyDecision

_MAX_COUNT = 1_000_000_000


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "watch",
        summary="Follow the decisions of a running strategy, until Ctrl-C.",
        example="tradeserve watch\ntradeserve watch --recent 100 --count 100 --json",
        servers=("strategy",),
        json_fields="one line per decision: decision_id, con_id, symbol, event_time, side, probabilities {down, "
        "flat, up} (null without a quorum), reason, missing_answers, latency_ms",
    )
    parser.add_argument(
        "--recent",
        type=whole(0, MAX_RECENT),
        default=5,
        metavar="N",
        help="begin with the last N (default: %(default)s)",
    )
    parser.add_argument(
        "--count", type=whole(1, _MAX_COUNT), default=None, metavar="N", help="stop after N decisions"
    )
    parser.add_argument(
        "--reconnect", action="store_true", help="wait for a strategy that went away, instead of ending"
    )
    parser.set_defaults(run=_run)


async def _run(arguments: argparse.Namespace) -> int:
    left = arguments.count
    async with clients(arguments, "strategy") as connected:
        client = connected.strategy
        if not await client.ready(timeout_s(arguments)):
            detail = f"no connection to {client.target} within {arguments.timeout_ms:g} ms"
            return output.no_answer("strategy", Reason.DOWN, detail, as_json=arguments.json)
        async with aclosing(client.follow(arguments.recent, reconnect=arguments.reconnect)) as decisions:
            async for decision in decisions:
                if arguments.json:
                    output.document(_as_json(decision))
                else:
                    _print(decision)
                if left is not None and (left := left - 1) == 0:
                    break
    return 0


def _as_json(decision: StrategyDecision) -> Mapping[str, Any]:
    down, flat, up = decision.probabilities
    return {
        "decision_id": decision.decision_id,
        "con_id": decision.con_id,
        "symbol": decision.symbol,
        "event_time": output.moment(decision.event_ns),
        "side": decision.side.value,
        "probabilities": {"down": down, "flat": flat, "up": up} if any(decision.probabilities) else None,
        "reason": decision.reason,
        "missing_answers": list(decision.missing_answers),
        "latency_ms": decision.latency_ms,
    }


def _print(decision: StrategyDecision) -> None:
    down, flat, up = decision.probabilities
    odds = f"down {down:.2f} flat {flat:.2f} up {up:.2f}" if any(decision.probabilities) else "no quorum"
    missing = f" | missing {', '.join(decision.missing_answers)}" if decision.missing_answers else ""
    output.line(
        f"{output.moment(decision.event_ns)} {decision.symbol:6} {decision.side.value.upper():4} {odds:32} "
        f"{decision.latency_ms:5.1f} ms | {decision.reason}{missing}"
    )
