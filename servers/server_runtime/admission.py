"""Bound how many calls are in flight; what is above the bound is refused at once, not queued.

A call counts from its arrival to its end, so calls that wait for the event loop count too.
"""

from server_runtime.errors import OverloadedError


class Admission:
    """A bounded count of calls in flight. Used from one event loop only."""

    def __init__(self, limit: int, *, what: str = "calls", retry_after_s: float = 0.05) -> None:
        """Bound the count.

        Args:
            limit: Most calls in flight, at least 1.
            what: What is counted, for the message.
            retry_after_s: What RetryInfo tells the refused.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        self.limit = limit
        self.in_flight = 0
        self._what = what
        self._retry_after_s = retry_after_s

    def try_enter(self) -> bool:
        """Count one more call, unless the server is full."""
        if self.in_flight >= self.limit:
            return False
        self.in_flight += 1
        return True

    def leave(self) -> None:
        """Count one call less."""
        self.in_flight -= 1

    def refusal(self) -> OverloadedError:
        """Return the error for a call that did not get in."""
        return OverloadedError(
            f"{self.limit} {self._what} are in flight, the most this server takes: drop it, or retry later",
            retry_after_s=self._retry_after_s,
            metadata={"limit": str(self.limit)},
        )
