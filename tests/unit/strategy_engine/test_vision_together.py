"""Charts of several instruments: one open question each, a bound over all of them, and a turn for everyone."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fakes.fake_reader import FakeReader, plan
from fakes.fake_world import BAR_S, START_NS, FakeBroker, FakeClock, FakeForecaster, MemoryJournal
from fakes.waiting import until
from journal.rows import VisionReadingRow
from market.events import Bar, Instrument
from strategy import config
from strategy.chart_question import picture_of
from strategy.core.values import OrderIntent
from strategy.decider import Decided, Decider
from strategy.ledger import RunLedger
from strategy.market_view import MarketView
from strategy.orders import OrderDesk
from strategy.portfolio import Portfolio
from strategy.screen import Screen
from strategy.situation import RunSettings, Situation
from strategy.trading_state import TradingGate
from strategy.vision import Readings, VisionTap

THREE = [Instrument(con_id, symbol) for con_id, symbol in ((1, "FRST"), (2, "SCND"), (3, "THRD"))]


class Watcher:
    """Hears of orders and trouble, and leaves it at that."""

    def on_intent_sent(self, intent: OrderIntent) -> None: ...

    def on_trouble(self, kind: str, con_id: int, detail: str) -> None: ...


def a_bar(con_id: int, index: int) -> Bar:
    start_ns = START_NS + index * BAR_S * 10**9
    close = 100.0 + 0.1 * (index % 3)
    return Bar(con_id, start_ns, start_ns + BAR_S * 10**9, 100.0, 100.5, 99.5, close, 1000, 1)


class Several:
    """A decider, a tap and a reader for three instruments."""

    def __init__(self, folder: Path, max_in_flight: int) -> None:
        self.journal, self.clock, self.ledger, portfolio = (
            MemoryJournal(), FakeClock(), RunLedger(), Portfolio(),
        )  # fmt: skip
        self.forecaster = FakeForecaster(self.clock)
        self.market = MarketView(BAR_S, 60)
        self.market.add(THREE)
        self.market.seed({one.con_id: [a_bar(one.con_id, index) for index in range(60)] for one in THREE})
        gate = TradingGate(folder / "killed.json", lambda *_: None)
        desk = OrderDesk(
            FakeBroker(self.journal), self.journal, gate, self.clock, portfolio.quantity, Watcher()
        )
        settings = RunSettings("run", [one.symbol for one in THREE], "paper", False, 50.0, None)
        situation = Situation(settings, self.market, portfolio, desk, gate, self.clock)
        rules = config.load(None, {"strategy.bar_size_s": BAR_S}).rules
        self.reader = FakeReader(gate=asyncio.Event())
        readings = Readings(plan(self.reader, max_in_flight=max_in_flight), self.clock, BAR_S)
        self.decider = Decider(
            rules, 50.0, self.market, self.forecaster, desk, self.journal, self.clock, situation
        )
        self.tap = VisionTap(
            readings, self.decider, self.market, portfolio, self.journal, self.ledger,
            Screen("never", io.StringIO()),
        )  # fmt: skip

    async def decide(self, con_id: int) -> Decided:
        window = self.market.windows[con_id]
        assert window.last_bar is not None
        bar = a_bar(con_id, (window.last_bar.end_ns - START_NS) // (BAR_S * 10**9))
        window.append(bar)
        return await self.decider.decide(bar)

    def asked(self) -> list[int]:
        return [query.con_id for query in self.reader.asked]


@pytest.fixture
def several(tmp_path: Path) -> Callable[[int], Several]:
    return lambda max_in_flight: Several(tmp_path, max_in_flight)


async def test_every_instrument_gets_its_turn_although_newer_charts_keep_coming(
    several: Callable[[int], Several],
) -> None:
    world = several(1)
    gates: list[asyncio.Event] = []

    def own_gate() -> None:
        gates.append(asyncio.Event())
        world.reader.gate = gates[-1]

    world.reader.on_ask = own_gate
    for count in range(1, 7):
        for one in THREE:
            world.tap.decided(await world.decide(one.con_id))
        await until(lambda count=count: len(gates) == count)  # type: ignore[misc]
        assert world.tap.in_flight == 1
        gates[-1].set()
        await until(lambda count=count: world.ledger.vision.answered == count)  # type: ignore[misc]
    assert world.asked()[:6] == [1, 2, 3, 1, 2, 3]
    await world.tap.close(0.01)
    assert len(world.journal.of(VisionReadingRow)) == 6 * 3, "what became of every chart is recorded"


async def test_charts_of_bars_that_close_together_are_asked_at_once_up_to_the_bound(
    several: Callable[[int], Several],
) -> None:
    world = several(2)
    for decided in await asyncio.gather(*(world.decide(one.con_id) for one in THREE)):
        world.tap.decided(decided)
    await until(lambda: world.asked() == [1, 2])
    assert world.tap.in_flight == 2
    assert world.reader.gate is not None
    world.reader.gate.set()
    await until(lambda: world.ledger.vision.answered == 3)
    assert world.ledger.vision.dropped == 0
    await world.tap.close(5.0)


async def test_no_chart_is_drawn_while_another_instruments_decision_is_being_made(
    several: Callable[[int], Several],
) -> None:
    drawn: list[str] = []

    def spied(symbol: str, bars: Sequence[Bar]) -> NDArray[np.uint8]:
        drawn.append(symbol)
        return picture_of(symbol, bars)

    world = several(4)
    world.tap.draw = spied
    first = await world.decide(1)
    world.forecaster.gate = asyncio.Event()
    second = asyncio.ensure_future(world.decide(2))
    await until(lambda: len(world.forecaster.requests) == 2)
    world.tap.decided(first)
    for _ in range(20):
        await asyncio.sleep(0)
    early = world.tap.in_flight, list(drawn)
    world.forecaster.gate.set()
    await second
    assert early == (1, [])
    await until(lambda: world.asked() == [1])
    await world.tap.close(0.01)
