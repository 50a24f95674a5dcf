"""The market as it stands at the replay's time: nothing in here knows what comes later.

The replay advances in equal, numbered moves. A move applies one step of every instrument's path, or
closes the bars of a slot. The number of moves made is the whole position, so that a restart gets
back to it by making the same moves again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from gateway_simulator.paths import book_of
from gateway_simulator.session import (
    BAR_SIZES_S,
    DAY_S,
    NS_PER_S,
    TAIL_BARS,
    Levels,
    Series,
    Session,
    Step,
)
from market.events import Instrument

_FRIDAY = 4


@dataclass(slots=True)
class FormingBar:
    """A bar that is not closed yet; flat at the last close until it trades."""

    index: int
    start_ns: int
    open: float
    high: float
    low: float
    close: float
    volume: float = 0.0
    count: int = 0

    def add(self, price: float, size: float) -> None:
        """Take a print into the bar."""
        if self.count == 0:
            self.open = self.high = self.low = price
        self.high = max(self.high, price)
        self.low = min(self.low, price)
        self.close = price
        self.volume += size
        self.count += 1


class Line:
    """One instrument's market now."""

    def __init__(self, series: Series) -> None:
        self.series = series
        before = series.paths.steps(series.first - 1)[-1] if series.first else series.paths.steps(0)[0]
        self.step: Step = before
        self.last = float(series.close[series.first - 1]) if series.first else before.bid
        self.last_size = 0.0
        self.previous_close = self.last
        self.day_open = self.day_high = self.day_low = 0.0
        self.day_volume = 0.0
        self.halted = False
        self.revision = 0
        self.bar = self._placeholder(series.first)

    @property
    def instrument(self) -> Instrument:
        """Whose market it is."""
        return self.series.instrument

    def book(self) -> tuple[Levels, Levels]:
        """Return (bids, asks), up to ten levels each."""
        return book_of(self.step, self.instrument.min_tick)

    def new_day(self) -> None:
        """Start the day's figures afresh."""
        self.previous_close = self.last
        self.day_open = self.day_high = self.day_low = 0.0
        self.day_volume = 0.0

    def apply(self, step: Step) -> None:
        """Take one step."""
        self.step = step
        self.revision += 1
        if step.trade_size > 0:
            price = step.trade_price
            self.last, self.last_size = price, step.trade_size
            if self.day_volume == 0:
                self.day_open = self.day_high = self.day_low = price
            self.day_high = max(self.day_high, price)
            self.day_low = min(self.day_low, price)
            self.day_volume += step.trade_size
            self.bar.add(price, step.trade_size)

    def refresh(self, at_ns: int) -> None:
        """Show the same touch again at a later time, without a print."""
        self.step = self.step._replace(at_ns=at_ns, trade_size=0.0)
        self.revision += 1

    def close_bar(self) -> int:
        """Close the forming bar, begin the next and return the closed bar's index."""
        index = self.bar.index
        self.last = float(self.series.close[index])
        self.bar = self._placeholder(index + 1)
        return index

    def _placeholder(self, index: int) -> FormingBar:
        series = self.series
        start = int(series.start_ns[index]) if index < len(series.start_ns) else self._after_last()
        return FormingBar(index, start, self.last, self.last, self.last, self.last)

    def _after_last(self) -> int:
        """Return the begin of the bar after the recording: of a daily one on the next weekday."""
        start, end = int(self.series.start_ns[-1]), int(self.series.end_ns[-1])
        if end - start <= max(size for size in BAR_SIZES_S if size < DAY_S) * NS_PER_S:
            return end
        weekday = datetime.fromtimestamp(start / NS_PER_S, UTC).weekday()
        return start + (3 if weekday == _FRIDAY else 1) * DAY_S * NS_PER_S


@dataclass(frozen=True, slots=True)
class Move:
    """What one move of the replay did.

    Attributes:
        changed: Instruments with a new touch or print.
        closed: (line, index of its closed bar) of every bar that closed.
        slot: Number of the slot; the number of slots and beyond in the tail.
    """

    changed: Sequence[Line]
    closed: Sequence[tuple[Line, int]]
    slot: int


class Replay:
    """Moves all instruments of a session through time."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.lines = {series.instrument.con_id: Line(series) for series in session.series}
        self.now_ns = session.start_ns
        self.moves = 0
        self.slot = 0
        self._step = 0
        self._zone = ZoneInfo(session.zone)
        self._bar_at = {
            con_id: {int(start): index for index, start in enumerate(line.series.start_ns)}
            for con_id, line in self.lines.items()
        }
        self._paths: dict[int, Sequence[Step]] = {}
        self._step_ns = session.step_s * NS_PER_S
        self._tail_ns = session.slot_length_ns * TAIL_BARS
        self._load_slot()

    @property
    def ended(self) -> bool:
        """Whether the last bar of the session has closed."""
        return self.slot >= len(self.session.slots)

    def due_ns(self) -> int | None:
        """Return the replayed time, without dead time, of the next move; None when time stands still."""
        slots = self.session.slots
        if not self.ended:
            slot = slots[self.slot]
            return slot.elapsed_ns + min(self._step * self._step_ns, slot.end_ns - slot.start_ns)
        last = slots[-1]
        into_tail = (self._step + 1) * self._step_ns
        if into_tail > self._tail_ns:
            return None
        return last.elapsed_ns + (last.end_ns - last.start_ns) + into_tail

    def elapsed_ns(self) -> int:
        """Return the replayed time, without dead time, of the last move made."""
        slots = self.session.slots
        if self.ended:
            last = slots[-1]
            return last.elapsed_ns + last.end_ns - last.start_ns + self._step * self._step_ns
        slot = slots[self.slot]
        return slot.elapsed_ns + max(0, self.now_ns - slot.start_ns)

    def advance(self) -> Move:
        """Make the next move."""
        self.moves += 1
        if self.ended:
            self._step += 1
            self.now_ns = self.session.end_ns + self._step * self._step_ns
            for line in self.lines.values():
                line.refresh(self.now_ns)
            return Move(list(self.lines.values()), [], self.slot)
        slot = self.session.slots[self.slot]
        if self._step * self._step_ns >= slot.end_ns - slot.start_ns:
            return self._close_slot()
        if self._step == 0 and self._is_new_day():
            for line in self.lines.values():
                line.new_day()
        changed = []
        for con_id, steps in self._paths.items():
            if self._step < len(steps):
                line = self.lines[con_id]
                line.apply(steps[self._step])
                changed.append(line)
        self.now_ns = slot.start_ns + self._step * self._step_ns
        self._step += 1
        return Move(changed, [], self.slot)

    def seek(self, moves: int) -> None:
        """Make moves until `moves` have been made in all."""
        while self.moves < moves and self.due_ns() is not None:
            self.advance()

    def _close_slot(self) -> Move:
        number = self.slot
        self.now_ns = self.session.slots[number].end_ns
        closed = [(self.lines[con_id], self.lines[con_id].close_bar()) for con_id in self._paths]
        self.slot += 1
        self._step = 0
        if not self.ended:
            self._load_slot()
        return Move([], closed, number)

    def _load_slot(self) -> None:
        start = self.session.slots[self.slot].start_ns
        self._paths = {}
        for con_id, line in self.lines.items():
            index = self._bar_at[con_id].get(start)
            if index is not None:
                self._paths[con_id] = line.series.paths.steps(index)

    def _is_new_day(self) -> bool:
        slots = self.session.slots
        if self.slot == 0:
            return True
        return self._date(slots[self.slot].start_ns) != self._date(slots[self.slot - 1].start_ns)

    def _date(self, time_ns: int) -> object:
        return datetime.fromtimestamp(time_ns / NS_PER_S, UTC).astimezone(self._zone).date()
