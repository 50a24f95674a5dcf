"""The last bars of one instrument as the array that models read."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from market.bars import check_bar
from market.events import Bar

COLUMNS = ("open", "high", "low", "close", "volume")


@dataclass(frozen=True, slots=True)
class Gap:
    """Time without bars inside a window: a quiet market, lost data, or the night.

    Attributes:
        after_ns: End of the bar before the gap.
        before_ns: Start of the bar after it.
    """

    after_ns: int
    before_ns: int

    @property
    def duration_ns(self) -> int:
        """Length of the gap."""
        return self.before_ns - self.after_ns


class BarWindow:
    """Ring buffer of the last `window_bars` closed bars of one instrument.

    A bar that comes twice, late, or invalid is rejected and changes nothing.

    Args:
        window_bars: Bars that make a full window, > 0.
    """

    def __init__(self, window_bars: int) -> None:
        if window_bars <= 0:
            raise ValueError(f"window_bars is {window_bars}; a number > 0 is needed")
        self.window_bars = window_bars
        # Every bar is written twice, so that the window is one contiguous slice at any time.
        self._rows = np.zeros((2 * window_bars, len(COLUMNS)), dtype=np.float32)
        self._bars: deque[Bar] = deque(maxlen=window_bars)
        self._next = 0

    def __len__(self) -> int:
        return len(self._bars)

    @property
    def ready(self) -> bool:
        """Whether the window is full."""
        return len(self._bars) == self.window_bars

    @property
    def last_bar(self) -> Bar | None:
        """The newest bar."""
        return self._bars[-1] if self._bars else None

    @property
    def bars(self) -> tuple[Bar, ...]:
        """The bars in the window, oldest first."""
        return tuple(self._bars)

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """Where neighbouring bars of the window do not touch, oldest first."""
        return tuple(
            Gap(earlier.end_ns, later.start_ns)
            for earlier, later in pairwise(self._bars)
            if later.start_ns > earlier.end_ns
        )

    def append(self, bar: Bar) -> str | None:
        """Add a closed bar; return why it was rejected, or None when it was added."""
        problem = check_bar(bar)
        if problem is not None:
            return f"invalid: {problem}"
        last = self.last_bar
        if last is not None:
            if bar.con_id != last.con_id:
                return f"other instrument: con_id {bar.con_id}, the window holds {last.con_id}"
            if (bar.start_ns, bar.end_ns) == (last.start_ns, last.end_ns):
                return f"duplicate: the bar from {bar.start_ns} to {bar.end_ns} is already there"
            if bar.start_ns < last.end_ns:
                return f"out of order: starts at {bar.start_ns}, the last bar ended at {last.end_ns}"
        row = (bar.open, bar.high, bar.low, bar.close, bar.volume)
        self._rows[self._next] = row
        self._rows[self._next + self.window_bars] = row
        self._next = (self._next + 1) % self.window_bars
        self._bars.append(bar)
        return None

    def as_array(self) -> NDArray[np.float32]:
        """Return a copy: (window_bars, 5) float32, C-contiguous, oldest first; columns as COLUMNS.

        Raises:
            ValueError: The window is not full yet.
        """
        if not self.ready:
            raise ValueError(f"the window holds {len(self)} of {self.window_bars} bars; check `ready` first")
        return self._rows[self._next : self._next + self.window_bars].copy()

    def clear(self) -> None:
        """Forget all bars."""
        self._bars.clear()
        self._next = 0
