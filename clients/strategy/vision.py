"""Has the charts of decisions read, once they are made and their orders are out; hears the readings later.

No decision waits for a reading. What one may do to later entries is `strategy.core.vision`'s. Of each
instrument one question is open at a time, and at most one waits: the newest.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import structlog
import uuid_utils
from numpy.typing import NDArray

from market.bars import NS_PER_S
from market.chart import encode_png
from market.events import Bar
from strategy import vision_recording
from strategy.chart_question import chart_query, picture_of
from strategy.core.calibration import Calibration
from strategy.core.values import Neighbor, Side
from strategy.core.vision import Reading, VisionEffect, VisionLimits, effect_of
from strategy.decider import Decided, Decider
from strategy.ledger import RunLedger
from strategy.market_view import MarketView
from strategy.portfolio import Portfolio
from strategy.ports import ChartReader, Clock, Journal
from strategy.screen import Screen
from tradeserve_client.answers import Answer, CallRecord, NoAnswer, Outcome, Reason
from tradeserve_client.chart_reading import ChartQuery, ChartReading

_log = structlog.get_logger(__name__)

SERVICE = "vision"


@dataclass(frozen=True, slots=True)
class VisionPlan:
    """Who reads charts in a run, and how far that is heard.

    Attributes:
        reader: Asks.
        limits: How far readings are heard.
        calibration: What stated confidences were worth; None: they are not calibrated.
        max_in_flight: Questions open at once, of all instruments together.
    """

    reader: ChartReader
    limits: VisionLimits
    calibration: Calibration | None = None
    max_in_flight: int = 4


@dataclass(slots=True)
class Readings:
    """The newest reading of each instrument."""

    plan: VisionPlan | None
    clock: Clock
    bar_size_s: int
    _newest: dict[int, Reading] = field(default_factory=dict)

    def effect(self, bar: Bar) -> VisionEffect | None:
        """Return what the newest reading of an instrument does to the decision of a bar."""
        if self.plan is None:
            return None
        return effect_of(
            self._newest.get(bar.con_id),
            self.plan.calibration,
            self.plan.limits,
            now_ns=self.clock.wall_ns(),
            event_ns=bar.end_ns,
            bar_ns=self.bar_size_s * NS_PER_S,
        )

    def add(self, bar: Bar, reading: Reading) -> VisionEffect | None:
        """Hear a reading of the chart that ends with a bar; return what it does to the next one's decision."""
        self._newest[bar.con_id] = reading  # they come in order: one question per instrument is open
        return self.effect(replace(bar, start_ns=bar.end_ns, end_ns=2 * bar.end_ns - bar.start_ns))


@dataclass(slots=True)
class _Question:
    decided: Decided
    symbol: str
    bars: Sequence[Bar]
    query: ChartQuery | None = None
    chart_sha256: str = ""

    @property
    def neighbors(self) -> Sequence[Neighbor]:
        found = self.decided.reply.neighbors
        return found.value if isinstance(found, Answer) else ()

    @property
    def not_sent(self) -> CallRecord:
        return CallRecord(SERVICE, self.query.request_id if self.query else "", 0, 0, 0)


@dataclass(slots=True)
class VisionTap:
    """Taps the decisions of a run.

    Attributes:
        readings: Where they are heard; without a plan nothing is tapped.
        decider: Whose decisions come first.
        market: Of which the charts are drawn.
        portfolio: What a reading may speak against.
        journal: Records.
        ledger: Counts.
        screen: Shows.
        draw: Draws a chart, given a symbol and its bars.
    """

    readings: Readings
    decider: Decider
    market: MarketView
    portfolio: Portfolio
    journal: Journal
    ledger: RunLedger
    screen: Screen
    draw: Callable[[str, Sequence[Bar]], NDArray[np.uint8]] = picture_of
    _open: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    _waiting: dict[int, _Question] = field(default_factory=dict)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def in_flight(self) -> int:
        """Questions that are open now."""
        return len(self._open)

    def decided(self, decided: Decided) -> None:
        """Have the chart of a decision read; returns at once, and draws nothing yet.

        Call it when the decision's orders are out and its positions are protected.
        """
        plan = self.readings.plan
        if plan is None:
            return
        con_id = decided.bar.con_id
        bars = [bar for bar in self.market.windows[con_id].bars if bar.end_ns <= decided.bar.end_ns]
        replaced = self._waiting.get(con_id)
        if replaced is not None:
            self._drop(replaced, "a newer chart of it came before this one's turn")
        # In the place of the one before, so that every instrument gets its turn.
        self._waiting[con_id] = _Question(decided, self.market.symbol(con_id), bars)
        self._start(plan)

    async def close(self, timeout_s: float) -> None:
        """Wait for the readings that are still open, and give up those that do not come."""
        for question in self._waiting.values():
            self._drop(question, "the run ended first")
        self._waiting.clear()
        tasks = list(self._open.values())
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, plan: VisionPlan) -> None:
        for con_id in [one for one in self._waiting if one not in self._open]:
            if len(self._open) >= plan.max_in_flight:
                return
            task = asyncio.create_task(self._ask(plan, self._waiting.pop(con_id)))
            self._open[con_id] = task
            task.add_done_callback(partial(self._done, plan, con_id))

    async def _ask(self, plan: VisionPlan, question: _Question) -> None:
        try:
            outcome = await plan.reader.read(await self._draw(question))
        except asyncio.CancelledError:
            self._record(question, NoAnswer(Reason.LATE, "the run ended first", question.not_sent))
            raise
        async with self._turn:
            await self.decider.calm()  # a bar may have closed meanwhile: its decision goes first
            if isinstance(outcome, Answer):
                self._hear(question, outcome)
            self._record(question, outcome)
            await asyncio.sleep(0)

    async def _draw(self, question: _Question) -> ChartQuery:
        async with self._turn:
            await self.decider.calm()  # of bars that closed together all orders are out first
            pixels = self.draw(question.symbol, question.bars)
            # Compressing takes as long as drawing again, and needs no interpreter: not on this loop.
            chart_png = await asyncio.to_thread(encode_png, pixels)
            request_id = str(uuid_utils.uuid7())
            query = chart_query(request_id, question.symbol, question.bars, question.neighbors, chart_png)
            chart = vision_recording.chart_row(query.chart_png)
            question.query, question.chart_sha256 = query, chart.chart_sha256
            self.journal.record(chart)
            self.ledger.vision.asked += 1
        return query

    def _hear(self, question: _Question, answer: Answer[ChartReading]) -> None:
        bar = question.decided.bar
        reading = vision_recording.reading_of(question.decided.decision_id, bar.end_ns, answer.value)
        effect = self.readings.add(bar, reading)
        tally = self.ledger.vision
        tally.answered += 1
        tally.contradicted += bool(answer.value.contradictions)
        tally.round_trip.add(max(answer.call.round_trip_ns, 0))
        words = _words(reading, effect, float(self.portfolio.quantity(bar.con_id)))
        self.screen.reading(question.symbol, bar.end_ns, words, answer.call.round_trip_ns)

    def _drop(self, question: _Question, why: str) -> None:
        self.ledger.vision.dropped += 1
        self._record(question, NoAnswer(Reason.BUSY, why, question.not_sent))

    def _record(self, question: _Question, outcome: Outcome[ChartReading]) -> None:
        if isinstance(outcome, NoAnswer) and question.query is not None:
            self.ledger.vision.missing[outcome.reason.value] += 1
        request = question.decided.request
        held = self.portfolio.quantity(request.con_id)
        self.journal.record(
            vision_recording.reading_row(request, question.query, question.chart_sha256, outcome, held)
        )

    def _done(self, plan: VisionPlan, con_id: int, task: asyncio.Task[None]) -> None:
        self._open.pop(con_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Nobody waits for this task: it is told here, and the trading goes on.
            place = traceback.extract_tb(error.__traceback__)[-1]
            _log.error(
                "vision failed",
                con_id=con_id,
                error=f"{type(error).__name__}: {error}",
                place=f"{place.filename}:{place.lineno}",
            )
            self.ledger.vision.missing[Reason.FAILED.value] += 1
        self._start(plan)


def _words(reading: Reading, effect: VisionEffect | None, held: float) -> str:
    """Say what was read and what it does, for the screen."""
    said = f"{reading.signal.value} {reading.stated_confidence:.2f} x trust {reading.trust:.2f}"
    others = {Side.BUY: "SELL entries", Side.SELL: "BUY entries", Side.HOLD: "entries"}[reading.signal]
    if effect is None:
        does = "no effect"
    elif effect.veto:
        does = f"vetoes {others}"
    else:
        does = f"shrinks {others} to {effect.share:.2f}"
    against = held > 0 if reading.signal is Side.SELL else held < 0 and reading.signal is Side.BUY
    return f"{said}: {does}{f'; against the open {held:+g}, which stays as it is' if against else ''}"
