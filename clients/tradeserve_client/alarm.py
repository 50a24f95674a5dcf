"""One timer of the event loop for the times of many calls: their deadlines, or when to look at them again."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Call = TypeVar("Call")

ALARM_LEAD_NS = 1_200_000
"""How late a timer of asyncio fires (epoll counts whole milliseconds)."""
_EARLY_S = 1e-6
"""The loop may run a timer this much before its time (its clock's resolution)."""


class Alarm(Generic[Call]):
    """Calls back for what is still under way at its time.

    Nearly every call ends long before, so that a timer of its own would be set and cancelled in vain. Here
    the timer of the earliest time is left to fire, and is then set for the next one, if there is any.

    Attributes:
        lead_ns: How long before a deadline it calls back.
    """

    __slots__ = ("_at_s", "_due", "_loop", "_on_time", "_timer", "lead_ns")

    def __init__(self, on_time: Callable[[Call], Any], *, lead_ns: int = ALARM_LEAD_NS) -> None:
        """Make it.

        Args:
            on_time: Called with each call whose time has come, once.
            lead_ns: How long before a deadline it calls back.
        """
        self.lead_ns = lead_ns
        self._on_time = on_time
        self._due: dict[Call, float] = {}
        self._at_s = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def set(self, call: Call, delay_s: float) -> None:
        """Call back for a call after that time, unless it is cleared before. Needs a running loop."""
        loop = asyncio.get_running_loop()
        at_s = loop.time() + delay_s
        self._due[call] = at_s
        if at_s < self._at_s or loop is not self._loop:  # an earlier loop may be closed, and its timer lost
            self._arm(loop, at_s)

    def set_before(self, call: Call, left_ns: int) -> None:
        """Call back for a call shortly before its deadline, which is this far away."""
        # Close to the deadline the lead would eat the whole call: keep half of what is left.
        self.set(call, max(left_ns - self.lead_ns, left_ns // 2) / 1e9)

    def clear(self, call: Call) -> None:
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
        try:
            for call in [call for call, at_s in self._due.items() if at_s <= now_s]:
                if self._due.pop(call, None) is not None:  # else an earlier one ended it
                    self._on_time(call)
        finally:
            if self._due and self._timer is None:
                self._arm(loop, min(self._due.values()))
