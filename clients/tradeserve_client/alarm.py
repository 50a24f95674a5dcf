"""One timer of the event loop for the deadlines of many calls."""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

_EARLY_S = 1e-6
"""The loop may run a timer this much before its time (its clock's resolution)."""


class Cancellable(Protocol):
    """What is stopped when its time is over."""

    def cancel(self) -> None:
        """Stop."""


class Alarm:
    """Cancels what is still under way at its time.

    Nearly every call ends long before, so that a timer of its own would be set and cancelled in vain. Here
    the timer of the earliest time is left to fire, and is then set for the next one, if there is any.
    """

    __slots__ = ("_at_s", "_due", "_loop", "_timer")

    def __init__(self) -> None:
        self._due: dict[Cancellable, float] = {}
        self._at_s = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def set(self, call: Cancellable, delay_s: float) -> None:
        """Cancel a call after that time, unless it is cleared before. Needs a running loop."""
        loop = asyncio.get_running_loop()
        at_s = loop.time() + delay_s
        self._due[call] = at_s
        if at_s < self._at_s or loop is not self._loop:  # an earlier loop may be closed, and its timer lost
            self._arm(loop, at_s)

    def clear(self, call: Cancellable) -> None:
        """Let a call be."""
        self._due.pop(call, None)

    def _arm(self, loop: asyncio.AbstractEventLoop, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._loop, self._at_s = loop, at_s
        self._timer = loop.call_at(at_s, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, self._at_s = None, math.inf
        now_s = loop.time() + _EARLY_S
        for call in [call for call, at_s in self._due.items() if at_s <= now_s]:
            self.clear(call)
            call.cancel()
        if self._due and self._timer is None:
            self._arm(loop, min(self._due.values()))
