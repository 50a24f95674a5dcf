"""When to send a request a second time: pure arithmetic on how long answers took.

A hedge goes out when a call has taken longer than 95 % of the recent ones, and only out of a budget
that grows by a share with every call. So hedges never add more load than that share, also when a
server is slow for all.
Source: J. Dean, L. A. Barroso, "The Tail at Scale", CACM 56 (2013), section "Hedged requests".
"""

from __future__ import annotations

from collections import deque

from tradeserve_client.answers import Answer, Outcome, Reason
from tradeserve_client.lane import MIN_CALL_NS

_RECENT = 256
_REFRESH = 16
_MAX_SERVICES = 256
MIN_SAMPLES = 32


class LatencySample:
    """How long the most recent calls took, bounded; knows their 95th percentile."""

    __slots__ = ("_p95_ns", "_recent", "_unseen")

    def __init__(self) -> None:
        self._recent: deque[int] = deque(maxlen=_RECENT)
        self._unseen = 0
        self._p95_ns = 0

    def add(self, duration_ns: int) -> None:
        """Note a call: its round trip, or how long it was waited for in vain."""
        self._recent.append(duration_ns)
        self._unseen += 1
        # A look once in a while: sorting for every call would cost more than it tells.
        if len(self._recent) >= MIN_SAMPLES and (self._unseen >= _REFRESH or not self._p95_ns):
            ordered = sorted(self._recent)
            self._p95_ns = ordered[(95 * len(ordered)) // 100]
            self._unseen = 0

    @property
    def p95_ns(self) -> int:
        """What 95 of 100 calls did not exceed; 0 while too few were seen."""
        return self._p95_ns


class HedgeBudget:
    """Allows hedges for at most a share of the calls made so far.

    Attributes:
        share: Hedges per call, 0 to 1.
        max_saved: Hedges that quiet times may save up.
    """

    __slots__ = ("_saved", "max_saved", "share")

    def __init__(self, share: float = 0.05, *, max_saved: float = 10.0) -> None:
        if not 0 <= share <= 1 or max_saved < 1:
            raise ValueError("a hedge budget needs 0 <= share <= 1 and max_saved >= 1")
        self.share = share
        self.max_saved = max_saved
        self._saved = 0.0

    def earn(self) -> None:
        """Count a call."""
        self._saved = min(self.max_saved, self._saved + self.share)

    def spend(self) -> bool:
        """Take one hedge out of the budget; return whether there was one."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True


class Hedging:
    """When calls are sent a second time because their answer is slow.

    Attributes:
        budget: Of hedges.
    """

    __slots__ = ("_is_on", "_samples", "budget")

    def __init__(self, share: float, *, is_on: bool) -> None:
        """Make it.

        Args:
            share: Hedges per call at most.
            is_on: Whether there are any.
        """
        self.budget = HedgeBudget(share)
        self._is_on = is_on
        self._samples: dict[str, LatencySample] = {}

    def delay_ns(self, service: str, left_ns: int) -> int:
        """Return after how long a call that has this much time is sent again; 0 when it is not."""
        sample = self._samples.get(service) if self._is_on else None
        p95_ns = sample.p95_ns if sample else 0
        return p95_ns if p95_ns and p95_ns + MIN_CALL_NS < left_ns else 0

    def note(self, outcome: Outcome[object], began_ns: int) -> None:
        """Learn from a call how long it was waited for, from its first sending on.

        From the hedge's own sending on, the sample would forget that some answers are slow, and hedge ever sooner.
        """
        call = outcome.call
        if not self._is_on:
            return
        if isinstance(outcome, Answer):
            self._sample(call.service).add(call.received_ns - began_ns)
        elif outcome.reason is Reason.LATE and call.sent_ns:
            self._sample(call.service).add(call.deadline_ns - began_ns)

    def _sample(self, service: str) -> LatencySample:
        sample = self._samples.get(service)
        if sample is None:
            if len(self._samples) >= _MAX_SERVICES:
                self._samples.pop(next(iter(self._samples)))
            sample = self._samples[service] = LatencySample()
        return sample
