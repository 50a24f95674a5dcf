"""An engine whose outside world is in memory."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fakes.fake_world import (
    ACME,
    BAR_NS,
    BAR_S,
    START_NS,
    FakeBroker,
    FakeClock,
    FakeFeed,
    FakeForecaster,
    MemoryJournal,
)
from strategy import config
from strategy.decider import Decided
from strategy.engine import Engine
from strategy.market_view import MarketView
from strategy.ports import ShadowForecaster
from strategy.screen import Screen
from strategy.situation import RunSettings
from strategy.trading_state import TradingGate, TradingState
from strategy.vision import VisionPlan


@dataclass
class World:
    """An engine in memory; `start` runs it, `bar` drives it."""

    folder: Path
    overrides: dict[str, object] = field(default_factory=dict)
    until_bars: int | None = None
    clock: FakeClock = field(default_factory=FakeClock)
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    text: io.StringIO = field(default_factory=io.StringIO)
    trace: Callable[[Decided, str], None] | None = None
    task: asyncio.Task[None] | None = None
    shadow: ShadowForecaster | None = None
    shadow_in_flight: int = 16
    last_answers_s: float = 0.01
    vision: VisionPlan | None = None

    def __post_init__(self) -> None:
        self.feed = FakeFeed(self.clock)
        self.broker = FakeBroker(self.journal)
        self.forecaster = FakeForecaster(self.clock)
        self.states: list[tuple[TradingState, str]] = []
        self.gate = TradingGate(self.folder / "killed.json", lambda *state: self.states.append(state))

    async def start(self) -> Engine:
        settings = config.load(
            None, {"strategy.symbols": "ACME", "strategy.bar_size_s": BAR_S, **self.overrides}
        )
        self.rules = settings.rules
        until_ns = None if self.until_bars is None else self.feed_end_ns(self.until_bars)
        self.engine = Engine(
            RunSettings(
                "run",
                ["ACME"],
                "paper",
                False,
                50.0,
                self.folder / "KILL",
                self.shadow_in_flight,
                self.last_answers_s,
            ),
            settings.rules,
            MarketView(BAR_S, 60, until_ns),
            clock=self.clock,
            feed=self.feed,
            broker=self.broker,
            forecaster=self.forecaster,
            journal=self.journal,
            gate=self.gate,
            screen=Screen("never", self.text),
            voters=await self.forecaster.start(),
            rows=lambda: (len(self.journal.rows), 0),
            trace=self.trace,
            shadow=self.shadow,
            vision=self.vision,
        )
        self.task = asyncio.create_task(self.engine.run())
        await self.until(lambda: self.gate.state is not TradingState.STARTING)
        return self.engine

    def feed_end_ns(self, bars: int) -> int:
        return START_NS + (self.feed.history_bars + bars) * BAR_NS

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - the condition has no event of its own
                await asyncio.sleep(0)

    async def bar(self) -> None:
        """Close one bar with a fresh quote and wait until it is dealt with."""
        self.feed.quote()
        self.feed.bar()
        await self.settled()

    async def settled(self) -> None:
        await self.until(lambda: not self.engine.deciding)

    async def stop(self) -> None:
        if self.task is not None:
            self.engine.stop()
            await self.task

    @property
    def held(self) -> int:
        return int(self.engine.portfolio.quantity(ACME.con_id))
