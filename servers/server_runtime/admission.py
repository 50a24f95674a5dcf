"""Bound how many calls are in flight, and how many come in per second; the rest is refused at once, not queued.

A call counts from its arrival to its end, so calls that wait for the event loop count too.
"""

import time
from collections.abc import Callable

from server_runtime.errors import OverloadedError

# So much of a second's calls may come at once.
_BURST_S = 0.2


class Admission:
    """A bounded count of calls in flight. Used from one event loop only."""

    def __init__(
        self,
        limit: int,
        *,
        what: str = "calls",
        retry_after_s: float = 0.05,
        rate_per_s: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Bound the count.

        Args:
            limit: Most calls in flight, at least 1.
            what: What is counted, for the message.
            retry_after_s: What RetryInfo tells the refused.
            rate_per_s: Most calls that come in per second; 0 for any number.
            clock: Monotonic seconds.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        if rate_per_s < 0:
            raise ValueError(f"rate_per_s must not be negative: {rate_per_s}")
        self.limit = limit
        self.in_flight = 0
        self._what = what
        self._retry_after_s = retry_after_s
        self._rate = rate_per_s
        self._clock = clock
        self._allowance = self._most = max(1.0, rate_per_s * _BURST_S)
        self._at_s = clock()

    def try_enter(self) -> bool:
        """Count one more call, unless the server is full."""
        if self.in_flight >= self.limit:
            return False
        if self._rate:
            now_s = self._clock()
            earned = (now_s - self._at_s) * self._rate
            self._allowance, self._at_s = min(self._most, self._allowance + earned), now_s
            if self._allowance < 1.0:
                return False
            self._allowance -= 1.0
        self.in_flight += 1
        return True

    def enter(self) -> None:
        """Count one more call in any case."""
        self.in_flight += 1

    def leave(self) -> None:
        """Count one call less."""
        self.in_flight -= 1

    def refusal(self) -> OverloadedError:
        """Return the error for a call that did not get in."""
        bound = f"{self.limit} {self._what} are in flight, the most this server takes"
        metadata = {"limit": str(self.limit)}
        if self._rate:
            bound = f"{self.limit} {self._what} are in flight, or {self._rate} came within a second, the most"
            bound += " that this server takes"
            metadata["rate_per_s"] = str(self._rate)
        return OverloadedError(
            f"{bound}: drop it, or retry later", retry_after_s=self._retry_after_s, metadata=metadata
        )
