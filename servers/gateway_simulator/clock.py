"""The replay's clock: how much replayed time has passed for the wall time that has."""

from __future__ import annotations

import time
from collections.abc import Callable

MIN_SPEED, MAX_SPEED = 0.1, 100_000.0
_MAX_LAG_NS = 1_000_000_000


class ReplayClock:
    """Maps monotonic wall time to replayed time without dead time.

    Attributes:
        speed: Replayed seconds per wall second.
        running: Whether it was started.
    """

    def __init__(self, speed: float, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.speed = speed
        self.running = False
        self._monotonic_ns = monotonic_ns
        self._wall_ns = 0
        self._elapsed_ns = 0

    def start(self, elapsed_ns: int) -> None:
        """Let time run from this much replayed time on."""
        self._wall_ns, self._elapsed_ns = self._monotonic_ns(), elapsed_ns
        self.running = True

    def wait_s(self, due_ns: int) -> float:
        """Return the wall seconds until `due_ns` of replayed time; 0 or less when it is due.

        A replay more than a second behind (a busy machine, a stall) goes on from where it is
        instead of rushing to catch up.
        """
        wait_ns = self._wall_ns + (due_ns - self._elapsed_ns) / self.speed - self._monotonic_ns()
        if wait_ns < -_MAX_LAG_NS:
            self.start(due_ns)
            return 0.0
        return wait_ns / 1e9
