"""One client's market-data subscriptions: what was sent, what changed, what may be sent now."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway_simulator import history
from gateway_simulator.history import HistoryRequest
from gateway_simulator.messages import (
    DELAYED,
    TICK_ASK,
    TICK_BID,
    TICK_CLOSE,
    TICK_HALTED,
    TICK_HIGH,
    TICK_LAST,
    TICK_LAST_TIME,
    TICK_LOW,
    TICK_OPEN,
    TICK_RT_VOLUME,
    TICK_VOLUME,
    historical_update,
    number,
)
from gateway_simulator.replay import Line
from gateway_simulator.session import NS_PER_S, Session, Step
from gateway_simulator.wire import Field, encode

SNAPSHOT_INTERVAL_NS = 250_000_000
"""IB shows stocks' quotes as snapshots every 250 ms of wall time; what comes between is conflated."""

MAX_DEPTH_ROWS = 10


@dataclass(slots=True)
class QuoteLine:
    """A reqMktData line: sends the ticks that differ from what was sent."""

    request_id: int
    line: Line
    delayed: bool
    rt_volume: bool
    revision: int = -1
    sent_at_ns: int = 0
    sent: dict[int, tuple[float, float]] = field(default_factory=dict)

    def messages(self) -> list[bytes]:
        """Return the ticks that changed since the last call."""
        line, step = self.line, self.line.step
        self.revision = line.revision
        out: list[bytes] = []
        for tick, price, size in (
            (TICK_BID, step.bid, step.bid_size),
            (TICK_ASK, step.ask, step.ask_size),
            (TICK_LAST, line.last, line.last_size),
            (TICK_HIGH, line.day_high, 0.0),
            (TICK_LOW, line.day_low, 0.0),
            (TICK_CLOSE, line.previous_close, 0.0),
            (TICK_OPEN, line.day_open, 0.0),
        ):
            if price > 0 and self._is_new(tick, price, size):
                out.append(encode(1, 6, self.request_id, self._tick(tick), number(price), number(size), 1))
        if line.day_volume > 0 and self._is_new(TICK_VOLUME, line.day_volume, 0.0):
            out.append(encode(2, 6, self.request_id, self._tick(TICK_VOLUME), number(line.day_volume)))
            seconds = step.at_ns // NS_PER_S
            out.append(encode(46, 6, self.request_id, self._tick(TICK_LAST_TIME), seconds))
            if self.rt_volume and not self.delayed:
                values = (line.last, line.last_size, step.at_ns // 1_000_000, line.day_volume, line.last)
                text = ";".join(number(value) for value in values) + ";true"
                out.append(encode(46, 6, self.request_id, TICK_RT_VOLUME, text))
        if self._is_new(TICK_HALTED, float(line.halted), 0.0):
            out.append(encode(45, 6, self.request_id, TICK_HALTED, float(line.halted)))
        return out

    def _tick(self, tick: int) -> int:
        return DELAYED[tick] if self.delayed else tick

    def _is_new(self, tick: int, price: float, size: float) -> bool:
        if self.sent.get(tick) == (price, size):
            return False
        self.sent[tick] = (price, size)
        return True


@dataclass(slots=True)
class DepthLine:
    """A reqMktDepth line.

    Rows are inserted in order once, then updated in place or deleted from the end: client libraries
    disagree on what other sequences mean.
    """

    request_id: int
    line: Line
    rows: int
    smart: bool
    revision: int = -1
    sent_at_ns: int = 0
    sent: tuple[list[tuple[float, float]], list[tuple[float, float]]] = field(
        default_factory=lambda: ([], [])
    )

    def messages(self) -> list[bytes]:
        """Return the row operations since the last call."""
        self.revision = self.line.revision
        out: list[bytes] = []
        bids, asks = self.line.book()
        # On the wire side 1 is bid and 0 is ask; operations 0 insert, 1 update, 2 delete.
        for side, levels, sent in ((1, bids, self.sent[1]), (0, asks, self.sent[0])):
            wanted = levels[: self.rows]
            for row, level in enumerate(wanted):
                if row == len(sent):
                    sent.append(level)
                    out.append(self._row(row, 0, side, level))
                elif sent[row] != level:
                    sent[row] = level
                    out.append(self._row(row, 1, side, level))
            while len(sent) > len(wanted):
                out.append(self._row(len(sent) - 1, 2, side, sent.pop()))
        return out

    def _row(self, row: int, operation: int, side: int, level: tuple[float, float]) -> bytes:
        price, size = number(level[0]), number(level[1])
        if self.smart:
            return encode(13, 1, self.request_id, row, "ISLAND", operation, side, price, size, 1)
        return encode(12, 1, self.request_id, row, operation, side, price, size)


@dataclass(slots=True)
class BarLine:
    """A historical-data request that stays up to date."""

    request_id: int
    line: Line
    request: HistoryRequest
    session: Session
    next_index: int
    revision: int = -1
    sent_at_ns: int = 0

    def messages(self) -> list[bytes]:
        """Return the forming bar as it stands."""
        self.revision = self.line.revision
        if self.line.bar.count == 0:
            return []
        return [
            historical_update(self.request_id, history.forming_row(self.request, self.session, self.line.bar))
        ]

    def closing(self) -> list[bytes]:
        """Return the final state of every bar that closed since, then the first of the new bar."""
        out = []
        while self.next_index < self.line.bar.index:
            row = history.bar_row(self.request, self.session, self.line, self.next_index)
            out.append(historical_update(self.request_id, row))
            self.next_index += 1
        if out:
            self.revision = self.line.revision
            row = history.forming_row(self.request, self.session, self.line.bar)
            out.append(historical_update(self.request_id, row))
        return out


@dataclass(slots=True)
class RealTimeBarLine:
    """A reqRealTimeBars line: a five-second bar per step, sent when its five seconds are over."""

    request_id: int
    line: Line
    over: list[bytes] = field(default_factory=list)

    def messages(self, step: Step) -> list[bytes]:
        """Return the bar of the step before, and keep this one's; flat without a print."""
        price, size = number(self.line.last), number(step.trade_size)
        start_s, count = step.at_ns // NS_PER_S, int(step.trade_size > 0)
        bar = encode(50, 3, self.request_id, start_s, price, price, price, price, size, price, count)
        over, self.over = self.over, [bar]
        return over

    def closing(self) -> list[bytes]:
        """Return the last five-second bar of a bar that closed."""
        over, self.over = self.over, []
        return over


@dataclass(slots=True)
class TickLine:
    """A reqTickByTickData line; `kind` is 1 Last, 2 AllLast, 3 BidAsk or 4 MidPoint."""

    request_id: int
    line: Line
    kind: int

    def messages(self, step: Step) -> list[bytes]:
        """Return what a step says to this line."""
        fields: list[Field] = [99, self.request_id, self.kind, step.at_ns // NS_PER_S]
        if self.kind == 4:
            return [encode(*fields, number((step.bid + step.ask) / 2))]
        if self.kind == 3:
            sizes = (step.bid, step.ask, step.bid_size, step.ask_size)
            return [encode(*fields, *(number(value) for value in sizes), 0)]
        if step.trade_size <= 0:
            return []
        return [encode(*fields, number(step.trade_price), number(step.trade_size), 0, "ISLAND", "")]


class Subscriptions:
    """Everything one client listens to."""

    def __init__(self) -> None:
        self.quotes: dict[int, QuoteLine] = {}
        self.depth: dict[int, DepthLine] = {}
        self.bars: dict[int, BarLine] = {}
        self.real_time_bars: dict[int, RealTimeBarLine] = {}
        self.ticks: dict[int, TickLine] = {}

    def clear(self) -> None:
        """Forget everything, as after a loss of data."""
        self.quotes.clear()
        self.depth.clear()
        self.bars.clear()
        self.real_time_bars.clear()
        self.ticks.clear()

    def bar_con_ids(self) -> set[int]:
        """Return the instruments whose bars the client follows."""
        lines = [one.line for one in self._following()]
        return {line.instrument.con_id for line in lines}

    def on_step(self, line: Line) -> list[bytes]:
        """Return what is sent for every step, without conflation."""
        out: list[bytes] = []
        live_lines: list[RealTimeBarLine | TickLine] = [*self.real_time_bars.values(), *self.ticks.values()]
        for live in live_lines:
            if live.line is line:
                out += live.messages(line.step)
        return out

    def due(self, now_ns: int) -> list[bytes]:
        """Return what changed and may be sent: each line at most every 250 ms of wall time."""
        out: list[bytes] = []
        conflated: list[QuoteLine | DepthLine | BarLine] = [
            *self.quotes.values(),
            *self.depth.values(),
            *self.bars.values(),
        ]
        for one in conflated:
            if one.revision != one.line.revision and now_ns - one.sent_at_ns >= SNAPSHOT_INTERVAL_NS:
                one.sent_at_ns = now_ns
                out += one.messages()
        return out

    def closing(self, line: Line) -> list[bytes]:
        """Return the messages of a bar's close."""
        out: list[bytes] = []
        for one in self._following():
            if one.line is line:
                out += one.closing()
        return out

    def _following(self) -> list[BarLine | RealTimeBarLine]:
        return [*self.bars.values(), *self.real_time_bars.values()]
