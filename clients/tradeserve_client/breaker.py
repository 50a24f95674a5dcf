"""A circuit breaker: stop calling what does not answer, and try again a little at a time.

Pure; the clock is passed in. CLOSED lets everything through. A run of failures opens it. While OPEN
nothing is called until the pause is over; then it is HALF_OPEN and lets a bounded number of probes
through. A successful probe closes it; a failed one opens it again with twice the pause, up to a bound.
"""

from __future__ import annotations

from enum import StrEnum

from tradeserve_client.budget import ClockNs


class BreakerState(StrEnum):
    """Whether calls go through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half open"


class CircuitBreaker:
    """Decides per call whether it may go out.

    Every `allow()` that returned True must be followed by exactly one `succeed()`, `fail()` or
    `abandon()`; else a probe's slot stays taken.

    Attributes:
        failure_count: Failures in a row that open it, >= 1.
        open_ns: First pause.
        max_open_ns: Longest pause.
        probe_count: Calls let through at once while half open, >= 1.
    """

    __slots__ = (
        "_clock_ns",
        "_failures",
        "_pause_ns",
        "_probes",
        "_retry_at_ns",
        "_state",
        "failure_count",
        "max_open_ns",
        "open_ns",
        "probe_count",
    )

    def __init__(
        self,
        clock_ns: ClockNs,
        *,
        failure_count: int = 5,
        open_ns: int = 500_000_000,
        max_open_ns: int = 2_000_000_000,
        probe_count: int = 1,
    ) -> None:
        if failure_count < 1 or probe_count < 1 or not 0 < open_ns <= max_open_ns:
            raise ValueError(
                "breaker needs failure_count and probe_count >= 1 and 0 < open_ns <= max_open_ns"
            )
        self.failure_count = failure_count
        self.open_ns = open_ns
        self.max_open_ns = max_open_ns
        self.probe_count = probe_count
        self._clock_ns = clock_ns
        self._state = BreakerState.CLOSED
        self._failures = 0
        self._probes = 0
        self._pause_ns = open_ns
        self._retry_at_ns = 0

    @property
    def state(self) -> BreakerState:
        """What the next call meets."""
        if self._state is BreakerState.OPEN and self._clock_ns() >= self._retry_at_ns:
            return BreakerState.HALF_OPEN
        return self._state

    def allow(self) -> bool:
        """Return whether a call may go out now; takes a probe's slot while half open."""
        if self._state is BreakerState.CLOSED:
            return True
        if self._state is BreakerState.OPEN:
            if self._clock_ns() < self._retry_at_ns:
                return False
            self._state = BreakerState.HALF_OPEN
            self._probes = 0
        if self._probes >= self.probe_count:
            return False
        self._probes += 1
        return True

    def succeed(self) -> None:
        """Count an answer; closes a half-open breaker."""
        if self._state is BreakerState.CLOSED:
            self._failures = 0
        elif self._state is BreakerState.HALF_OPEN:
            self.reset()
        # While it is open, the answer of a call from before the failures says little about now.

    def fail(self) -> None:
        """Count a failure; opens the breaker after a run of them, or at once while half open."""
        if self._state is BreakerState.HALF_OPEN:
            self._pause_ns = min(self._pause_ns * 2, self.max_open_ns)
            self._open()
        elif self._state is BreakerState.CLOSED:
            self._failures += 1
            if self._failures >= self.failure_count:
                self._open()

    def abandon(self) -> None:
        """Count nothing: the call said nothing about the server's health. Gives a probe's slot back."""
        if self._state is BreakerState.HALF_OPEN and self._probes:
            self._probes -= 1

    def reset(self) -> None:
        """Close it: the server was just seen to answer in another way."""
        self._state = BreakerState.CLOSED
        self._failures = 0
        self._probes = 0
        self._pause_ns = self.open_ns

    def _open(self) -> None:
        self._state = BreakerState.OPEN
        self._failures = 0
        self._probes = 0
        self._retry_at_ns = self._clock_ns() + self._pause_ns
