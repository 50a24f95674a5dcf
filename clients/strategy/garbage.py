"""Keeps Python's garbage collector off the decisions, and tells how well that worked.

A collection stops everything: 25 ms and more once a run's objects are many. So what exists at the
start is frozen out of its sight, nothing is collected while a decision is under way, and what piled
up is collected in the calm after a bar. Reference counting frees nearly everything anyway.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any

_THRESHOLDS = (50_000, 20, 100)
_YOUNG = 1
# A collection that ended so shortly before a bar was read may have kept it waiting on the socket.
_BEFORE_BAR_NS = 10_000_000
_FULL_EVERY_NS = 60_000_000_000
_MOST_DECIDING_NS = 1_000_000_000


class GarbageKeeper:
    """Collects between decisions; one per process, as the collector is.

    Attributes:
        collections: Since the start.
        longest_ns: The longest of them.
        longest_on_path_ns: The longest that a decision, or its bar on the socket, had to wait for.
    """

    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.collections = 0
        self.longest_ns = 0
        self.longest_on_path_ns = 0
        self._clock_ns = clock_ns
        self._watching = False
        self._under_way = 0
        self._disabled_ns = 0
        self._began_ns = 0
        self._ended_ns = 0
        self._last_ns = 0
        self._full_ns = 0

    def start(self) -> None:
        """Collect everything once, freeze what is left, and watch from now on."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_THRESHOLDS)
        self._full_ns = self._clock_ns()
        self._watching = True
        gc.callbacks.append(self._on_collection)

    def stop(self) -> None:
        """Leave the collector as Python has it."""
        if self._watching:
            self._watching = False
            gc.callbacks.remove(self._on_collection)
            gc.enable()

    def decision_began(self, receive_ns: int) -> None:
        """Collect nothing from now on.

        Args:
            receive_ns: When its bar came off the socket, monotonic.
        """
        if not self._watching:
            return
        if self._last_ns and self._ended_ns > receive_ns - _BEFORE_BAR_NS:
            self.longest_on_path_ns = max(self.longest_on_path_ns, self._last_ns)
        if not self._under_way:
            self._disabled_ns = self._clock_ns()
            gc.disable()
        elif self._clock_ns() - self._disabled_ns > _MOST_DECIDING_NS:
            gc.enable()  # decisions without a pause between them: memory is bounded before time
        self._under_way += 1

    def decision_ended(self) -> None:
        """Allow collections again once the last decision under way has ended."""
        self._under_way = max(0, self._under_way - 1)
        if self._watching and not self._under_way:
            gc.enable()

    def tidy(self) -> None:
        """Collect what piled up; call it when nothing is urgent. Does nothing during a decision."""
        if self._under_way or not self._watching:
            return
        now_ns = self._clock_ns()
        if now_ns - self._full_ns >= _FULL_EVERY_NS:
            self._full_ns = now_ns
            gc.collect()
        else:
            gc.collect(_YOUNG)

    def _on_collection(self, phase: str, _: Mapping[str, Any]) -> None:
        now_ns = self._clock_ns()
        if phase == "start":
            self._began_ns = now_ns
            return
        took_ns = now_ns - self._began_ns
        self.collections += 1
        self.longest_ns = max(self.longest_ns, took_ns)
        self._last_ns, self._ended_ns = took_ns, now_ns
        if self._under_way:
            self.longest_on_path_ns = max(self.longest_on_path_ns, took_ns)
