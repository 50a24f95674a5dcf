"""How a strategy leaves the market: at its end, and when it has lost too much."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from market.events import Bar
from strategy.core.risk import halts
from strategy.core.risk_limits import RiskLimits
from strategy.core.values import Purpose
from strategy.orders import OrderDesk
from strategy.portfolio import Portfolio
from strategy.situation import Situation
from strategy.trading_state import TradingGate, TradingState

_LAST_ORDERS_S = 5.0


@dataclass(slots=True)
class Departure:
    """Closes what is open.

    Attributes:
        situation: What is measured against the limits.
        limits: Of losses.
        gate: Whether orders may go out.
        desk: Sends and cancels them.
        portfolio: What is held.
        trouble: Told (kind, con_id, detail) of what a person should know.
    """

    situation: Situation
    limits: RiskLimits
    gate: TradingGate
    desk: OrderDesk
    portfolio: Portfolio
    trouble: Callable[[str, int, str], None]
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    def moved(self) -> None:
        """Note that a position changed."""
        self._moved.set()

    async def halt_on_losses(self, bar: Bar) -> None:
        """Halt when a loss is beyond its limit: entries are cancelled, positions kept or flattened."""
        breached = halts(self.situation.risk_state(bar, 0.0), self.limits)
        if not breached or self.gate.state is TradingState.HALTED:
            return
        self.gate.halt(
            "; ".join(f"{check.name} {check.value:.2f}, limit {check.limit:g}" for check in breached)
        )
        self.desk.cancel_entries()
        if self.limits.flatten_on_halt:
            await self.flatten()

    async def flatten(self) -> None:
        """Send an order for every open position that closes it."""
        for held in self.portfolio.open_positions():
            await self.desk.close(held.con_id, held.symbol, Purpose.FLATTEN, "")

    async def leave(self, *, flatten: bool) -> None:
        """Cancel entries and perhaps flatten; wait a bounded time for the last fills."""
        if not self.gate.may_exit or self.gate.killed:
            return
        self.desk.cancel_entries()
        if not await self.desk.entries_settled(_LAST_ORDERS_S):
            self.trouble("cancel not confirmed", 0, "an entry may still fill; look at the broker's orders")
        if flatten:
            await self.flatten()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._until_flat(), _LAST_ORDERS_S)
        for held in self.portfolio.open_positions():
            stop = self.desk.stop_price(held.con_id)
            kept = f"its stop at {stop:g} stays" if stop else "WITHOUT a stop"
            self.trouble(
                "position left", held.con_id, f"{held.symbol} {held.quantity:+} is left open, {kept}"
            )

    async def _until_flat(self) -> None:
        while self.portfolio.open_positions():
            self._moved.clear()
            await self._moved.wait()
