"""What a person sees while a session runs: one line per event, in the order things happened."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TextIO

from strategy.core.values import Commission, Consensus, Fill, OrderEvent, OrderIntent, Side
from strategy.ledger import StageClock
from strategy.ports import ForecastReply, VoterInfo
from strategy.recording import NEIGHBORS
from tradeserve_client.answers import Answer, Outcome, Reason

_DIM = "2"
_COLOURS = {Side.BUY: "32", Side.SELL: "31", Side.HOLD: "2"}


@dataclass(frozen=True, slots=True)
class BarSummary:
    """The account after a bar.

    Attributes:
        event_ns: End of the bar.
        positions: Symbol -> signed quantity, without the flat ones.
        pnl: Since the start of the run, after commission.
        drawdown_pct: From the highest equity of the run.
        rows_recorded: In Postgres; `rows_waiting` are queued or spooled.
    """

    event_ns: int
    positions: Mapping[str, Decimal]
    pnl: float
    drawdown_pct: float
    rows_recorded: int
    rows_waiting: int


class Screen:
    """Writes to a terminal or a pipe.

    Args:
        colour: "always", "never" or "auto" (a terminal, and NO_COLOR unset).
        stream: Standard output by default.
    """

    def __init__(self, colour: str = "auto", stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._state = ""
        self._colour = colour == "always" or (
            colour == "auto" and self._stream.isatty() and "NO_COLOR" not in os.environ
        )

    def line(self, text: str, colour: str = "") -> None:
        """Write one line; a closed pipe or a full disk ends the writing, not the trading."""
        try:
            shown = f"\x1b[{colour}m{text}\x1b[0m" if colour and self._colour else text
            print(f"{shown}\n", end="", file=self._stream, flush=True)  # one write: the stack says things too
        except BrokenPipeError:
            self._stream = open(os.devnull, "w")  # noqa: SIM115, PTH123 - lives as long as the process
        except OSError:
            return  # the disk may have room again for the next line

    def voters(self, voters: Sequence[VoterInfo]) -> None:
        """Show who votes, and in plain words what each has not demonstrated."""
        for voter in voters:
            served = f"v{voter.version} {voter.artifact_sha256[:12]}" if voter.version else "not seen yet"
            self.line(
                f"voter {voter.name}: {voter.target} {served}{'  ! ' + voter.problem if voter.problem else ''}"
            )
            if not voter.demonstrated_skill and voter.statement:
                self.line(f"      no demonstrated skill: {voter.statement}", "33")

    def decision(
        self,
        symbol: str,
        event_ns: int,
        side: Side,
        consensus: Consensus,
        reply: ForecastReply,
        clock: StageClock,
        budget_ms: float,
        reason: str,
    ) -> None:
        """Show a decision: probabilities, who answered, the time against the budget, and why."""
        p = consensus.probabilities
        shown = f"down {p.down:.2f} flat {p.flat:.2f} up {p.up:.2f}" if p else "no quorum".ljust(27)
        answers = "  ".join(_answer(name, outcome) for name, outcome in reply.forecasts.items())
        answers += "  " + _answer(NEIGHBORS, reply.neighbors)
        spans = " ".join(f"{stage} {span / 1e6:.1f}" for stage, span in clock.spans.items())
        self.line(f"{_time(event_ns)} {symbol:<6} {side:<4} {shown} | {answers}", _COLOURS[side])
        why = reason if p else "below quorum"
        self.line(f"      {clock.total_ns / 1e6:.1f} of {budget_ms:g} ms ({spans}) | {why}", _DIM)

    def reading(self, symbol: str, event_ns: int, words: str, took_ns: int) -> None:
        """Show what was read on the chart that ends with a bar, and what that does."""
        took = f" after {took_ns / 1e6:.0f} ms" if took_ns >= 0 else ""
        self.line(f"      vision {symbol} {_time(event_ns)}{took}: {words}", _DIM)

    def intent(self, intent: OrderIntent) -> None:
        """Show an order that was sent."""
        parts = [f"{intent.side} {intent.quantity} {intent.symbol}"]
        parts.append(f"limit {intent.limit_price}" if intent.limit_price is not None else "at market")
        if intent.stop_price is not None:
            parts.append(f"stop {intent.stop_price}")
        if intent.take_profit_price is not None:
            parts.append(f"target {intent.take_profit_price}")
        self.line(f"      order {intent.purpose}: {', '.join(parts)}", "1")

    def order(self, symbol: str, event: OrderEvent) -> None:
        """Show what became of an order, when it is not simply working."""
        leg = event.order_ref.rsplit("/", 1)[-1]
        name = {"E": "order", "S": "stop", "T": "target"}.get(leg, leg)
        left = f", {event.remaining} not filled" if event.status == "Cancelled" else ""
        code = f" (code {event.error_code})" if event.error_code else ""
        self.line(f"      {name} {symbol}: {event.status}{left} {event.message}{code}".rstrip())

    def fill(self, fill: Fill, average_position: Decimal) -> None:
        """Show an execution and the position after it."""
        self.line(
            f"      fill {fill.side} {fill.quantity} {fill.symbol} at {fill.price}; position {average_position}",
            "1",
        )

    def commission(self, symbol: str, commission: Commission) -> None:
        """Show what an execution cost, and what it realised."""
        realized = "" if commission.realized_pnl is None else f", realised {commission.realized_pnl:+.2f}"
        self.line(f"      commission {symbol} {commission.commission:.2f} {commission.currency}{realized}")

    def summary(self, summary: BarSummary) -> None:
        """Show the account after a bar."""
        held = ", ".join(f"{symbol} {quantity:+}" for symbol, quantity in summary.positions.items()) or "flat"
        waiting = f" (+{summary.rows_waiting} waiting)" if summary.rows_waiting else ""
        self.line(
            f"{_time(summary.event_ns)} account: {held} | PnL {summary.pnl:+.2f} | "
            f"drawdown {summary.drawdown_pct:.2f}% | {summary.rows_recorded} rows recorded{waiting}",
            "36",
        )

    def state(self, state: str, reason: str, *, alarming: bool) -> None:
        """Show whether it trades; one alarm per change, and no line per attempt to connect."""
        changed, self._state = state != self._state, state
        text = f"state: {state}{': ' + reason if reason else ''}"
        if changed and alarming:
            self.attention(text)
        elif changed or not reason.startswith("connecting to"):
            self.line(text)

    def attention(self, text: str) -> None:
        """Show something a person should know."""
        self.line(f"    ! {text}", "33;1")


def _time(event_ns: int) -> str:
    moment = datetime.fromtimestamp(event_ns / 1e9, UTC)
    return moment.strftime("%Y-%m-%d" if not moment.hour and not moment.minute else "%m-%d %H:%M")


def _answer(name: str, outcome: Outcome[object]) -> str:
    if isinstance(outcome, Answer):
        return f"{name} {outcome.call.round_trip_ns / 1e6:.1f} ms"
    if outcome.reason is Reason.OFF:
        return f"{name} off"
    return f"{name} MISSING ({outcome.reason})"
