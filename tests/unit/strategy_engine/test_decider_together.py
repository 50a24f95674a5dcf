"""Decisions of bars that close at once: orders first, recording afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fakes.fake_shadow import SECOND as TRIED
from fakes.fake_shadow import FakeShadow
from fakes.fake_world import BAR_S, START_NS, FakeBroker, FakeClock, FakeForecaster, MemoryJournal
from journal.rows import DecisionRow, ShadowAnswerRow
from market.events import Bar, Instrument
from strategy import config
from strategy.core.values import OrderIntent
from strategy.decider import Decided, Decider
from strategy.ledger import RunLedger
from strategy.market_view import MarketView
from strategy.orders import OrderDesk
from strategy.portfolio import Portfolio
from strategy.ports import ForecastReply, ForecastRequest
from strategy.shadow import ShadowTap
from strategy.situation import RunSettings, Situation
from strategy.trading_state import TradingGate

FIRST, SECOND = Instrument(1, "FRST"), Instrument(2, "SCND")
BUDGET_MS = 50.0


@dataclass
class Watcher:
    """Hears of orders and trouble, and leaves it at that."""

    def on_intent_sent(self, intent: OrderIntent) -> None: ...

    def on_trouble(self, kind: str, con_id: int, detail: str) -> None: ...


@dataclass
class SlowForSecond(FakeForecaster):
    """Answers for the second instrument only once `released` is set."""

    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def forecast(self, request: ForecastRequest) -> ForecastReply:
        if request.con_id == SECOND.con_id:
            await self.released.wait()
        return await super().forecast(request)


def a_bar(instrument: Instrument, index: int, clock: FakeClock) -> Bar:
    start_ns = START_NS + index * BAR_S * 10**9
    close = 100.0 + 0.1 * (index % 3)
    return Bar(
        instrument.con_id, start_ns, start_ns + BAR_S * 10**9, 100.0, 100.5, 99.5, close, 1000, clock.now_ns
    )


@pytest.fixture
def journal() -> MemoryJournal:
    return MemoryJournal()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def forecaster(clock: FakeClock) -> SlowForSecond:
    return SlowForSecond(clock)


@pytest.fixture
def decider(tmp_path: Path, journal: MemoryJournal, clock: FakeClock, forecaster: SlowForSecond) -> Decider:
    rules = config.load(None, {"strategy.bar_size_s": BAR_S}).rules
    market, portfolio = MarketView(BAR_S, 60), Portfolio()
    market.add([FIRST, SECOND])
    market.seed({one.con_id: [a_bar(one, index, clock) for index in range(60)] for one in (FIRST, SECOND)})
    gate = TradingGate(tmp_path / "killed.json", lambda *_: None)
    desk = OrderDesk(FakeBroker(journal), journal, gate, clock, portfolio.quantity, Watcher())
    settings = RunSettings("run", ["FRST", "SCND"], "paper", False, BUDGET_MS, None)
    situation = Situation(settings, market, portfolio, desk, gate, clock)
    return Decider(rules, BUDGET_MS, market, forecaster, desk, journal, clock, situation)


@pytest.fixture
def decide(decider: Decider, clock: FakeClock) -> Callable[[Instrument], Awaitable[Decided]]:
    return lambda instrument: decider.decide(a_bar(instrument, 59, clock))


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_nothing_is_recorded_while_another_instruments_order_is_not_out(
    decide: Callable[[Instrument], Awaitable[object]], journal: MemoryJournal, forecaster: SlowForSecond
) -> None:
    second, first = (asyncio.ensure_future(decide(one)) for one in (SECOND, FIRST))
    await turns()
    assert not journal.of(DecisionRow)
    forecaster.released.set()
    await asyncio.gather(first, second)
    assert len(journal.of(DecisionRow)) == 2


async def test_a_decision_alone_is_recorded_at_once(
    decide: Callable[[Instrument], Awaitable[object]], journal: MemoryJournal
) -> None:
    await decide(FIRST)
    assert len(journal.of(DecisionRow)) == 1


async def test_a_decision_waits_for_others_no_longer_than_its_budget(
    decide: Callable[[Instrument], Awaitable[object]], journal: MemoryJournal, forecaster: SlowForSecond
) -> None:
    second = asyncio.ensure_future(decide(SECOND))
    async with asyncio.timeout(100 * BUDGET_MS / 1e3):
        await decide(FIRST)
    assert not second.done()
    assert len(journal.of(DecisionRow)) == 1
    forecaster.released.set()
    await second


async def test_a_decision_that_is_cancelled_while_it_waits_is_recorded_all_the_same(
    decide: Callable[[Instrument], Awaitable[object]], journal: MemoryJournal
) -> None:
    second, first = (asyncio.ensure_future(decide(one)) for one in (SECOND, FIRST))
    await turns()
    assert not journal.of(DecisionRow)
    first.cancel()
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    assert len(journal.of(DecisionRow)) == 1


async def test_no_version_is_tried_while_another_instruments_decision_is_being_made(
    decide: Callable[[Instrument], Awaitable[Decided]],
    decider: Decider,
    journal: MemoryJournal,
    forecaster: SlowForSecond,
) -> None:
    shadow, ledger = FakeShadow(), RunLedger()
    tap = ShadowTap(shadow, decider, decider.rules, journal, ledger, 16)
    second = asyncio.ensure_future(decide(SECOND))
    await turns()
    first = await decide(FIRST)
    assert not second.done()
    tap.decided(first)
    assert (tap.in_flight, ledger.shadows[TRIED].dropped) == (0, 1)
    (row,) = journal.of(ShadowAnswerRow)
    assert isinstance(row, ShadowAnswerRow)
    assert (row.outcome, row.detail) == ("busy", "dropped: 1 decisions are being made")
    forecaster.released.set()
    tap.decided(await second)
    await tap.close(5.0)
    assert len(shadow.asked) == ledger.shadows[TRIED].answered == 1
