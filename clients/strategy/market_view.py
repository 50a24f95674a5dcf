"""What the strategy knows of the market: windows, quotes, halts, sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from market.events import Bar, Instrument, Quote
from market.windows import BarWindow

_NS_PER_S = 1_000_000_000
_DAY_S = 86_400


@dataclass(slots=True)
class MarketView:
    """The latest of everything, per instrument.

    Attributes:
        bar_size_s: Length of a bar.
        window_bars: Bars of a full window.
        until_ns: Exchange time at which the run ends; None for open end.
    """

    bar_size_s: int
    window_bars: int
    until_ns: int | None = None
    instruments: dict[int, Instrument] = field(default_factory=dict)
    windows: dict[int, BarWindow] = field(default_factory=dict)
    quotes: dict[int, Quote] = field(default_factory=dict)
    sessions: dict[int, Sequence[tuple[int, int]]] = field(default_factory=dict)
    _delayed: set[int] = field(default_factory=set)
    _halted: set[int] = field(default_factory=set)

    def add(self, instruments: Sequence[Instrument]) -> None:
        """Follow instruments."""
        for instrument in instruments:
            self.instruments[instrument.con_id] = instrument
            self.windows[instrument.con_id] = BarWindow(self.window_bars)

    def seed(self, history: Mapping[int, Sequence[Bar]]) -> None:
        """Fill the windows with bars of the past; a bar that does not fit is left out."""
        for con_id, bars in history.items():
            for bar in bars:
                self.windows[con_id].append(bar)

    @property
    def now_ns(self) -> int:
        """Return the end of the newest bar of all: the exchange's time, as far as bars tell it."""
        return max((window.last_bar.end_ns for window in self.windows.values() if window.last_bar), default=0)

    def is_complete(self, end_ns: int) -> bool:
        """Whether every instrument has its bar that ends then, or a later one."""
        return all(
            window.last_bar is not None and window.last_bar.end_ns >= end_ns
            for window in self.windows.values()
        )

    def symbol(self, con_id: int) -> str:
        """Return the symbol, or the id where it is unknown."""
        instrument = self.instruments.get(con_id)
        return instrument.symbol if instrument else str(con_id)

    def set_live(self, con_id: int, live: bool) -> None:
        """Note whether data are live (not delayed or frozen)."""
        (self._delayed.discard if live else self._delayed.add)(con_id)

    def set_halted(self, con_id: int, halted: bool) -> None:
        """Note whether trading is halted."""
        (self._halted.add if halted else self._halted.discard)(con_id)

    def is_live(self, con_id: int) -> bool:
        """Whether data are live."""
        return con_id not in self._delayed

    def is_halted(self, con_id: int) -> bool:
        """Whether trading is halted."""
        return con_id in self._halted

    def in_session(self, bar: Bar) -> bool:
        """Whether the instrument's session was open in the bar; true where its hours are unknown.

        Bars of a day or more span sessions; for them the exchange's hours say nothing.
        """
        sessions = self.sessions.get(bar.con_id, ())
        if not sessions or self.bar_size_s >= _DAY_S:
            return True
        return any(start_ns < bar.end_ns <= end_ns for start_ns, end_ns in sessions)

    def bars_to_session_end(self, bar: Bar) -> int | None:
        """Return the whole bars left after this one until the session or the run ends; None if unknown."""
        ends = [] if self.until_ns is None else [self.until_ns]
        if self.bar_size_s < _DAY_S:
            sessions = self.sessions.get(bar.con_id, ())
            ends += [end_ns for start_ns, end_ns in sessions if start_ns < bar.end_ns <= end_ns]
        if not ends:
            return None
        return max(0, min(ends) - bar.end_ns) // (self.bar_size_s * _NS_PER_S)
