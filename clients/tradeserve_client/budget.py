"""Time that runs out: a decision's budget, and the deadline that each call gets out of it.

Pure arithmetic on monotonic nanoseconds; the clock is passed in. A deadline made from a budget is
never later than the budget's own end, and nothing here can move an end backwards or forwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

ClockNs: TypeAlias = Callable[[], int]
"""Gives monotonic nanoseconds, like time.monotonic_ns."""


@dataclass(frozen=True, slots=True, order=True)
class Deadline:
    """An instant on the monotonic clock after which an answer does not count.

    Attributes:
        at_ns: The instant; an answer received exactly then still counts.
    """

    at_ns: int

    def remaining_ns(self, now_ns: int) -> int:
        """Return the time left, 0 when it has passed."""
        return max(0, self.at_ns - now_ns)

    def has_passed(self, now_ns: int) -> bool:
        """Return whether an answer received now would be late."""
        return now_ns > self.at_ns


@dataclass(frozen=True, slots=True)
class LatencyBudget:
    """A stretch of time that stages and calls take their shares from.

    Attributes:
        start_ns: Monotonic begin.
        end_ns: Monotonic end; no deadline made from this budget is later.
        clock_ns: Monotonic clock.
    """

    start_ns: int
    end_ns: int
    clock_ns: ClockNs

    def __post_init__(self) -> None:
        if self.end_ns < self.start_ns:
            raise ValueError(f"budget ends ({self.end_ns}) before it starts ({self.start_ns})")

    @classmethod
    def starting_at(cls, start_ns: int, total_ns: int, clock_ns: ClockNs) -> LatencyBudget:
        """Return the budget of `total_ns` that began at `start_ns`."""
        return cls(start_ns, start_ns + total_ns, clock_ns)

    @property
    def deadline(self) -> Deadline:
        """The end of the whole budget."""
        return Deadline(self.end_ns)

    @property
    def used_ns(self) -> int:
        """Time since the start; can exceed the total."""
        return self.clock_ns() - self.start_ns

    @property
    def remaining_ns(self) -> int:
        """Time left, 0 when it is used up."""
        return max(0, self.end_ns - self.clock_ns())

    def share(self, share_ns: int) -> Deadline:
        """Return the deadline of a call that starts now: its share, or what is left if that is less."""
        return Deadline(min(self.clock_ns() + max(0, share_ns), self.end_ns))

    def nested(self, share_ns: int) -> LatencyBudget:
        """Return a stage's own budget that starts now and can't outlast this one."""
        now_ns = self.clock_ns()
        end_ns = min(now_ns + max(0, share_ns), self.end_ns)
        return LatencyBudget(min(now_ns, end_ns), end_ns, self.clock_ns)


Budget: TypeAlias = LatencyBudget | Deadline | float
"""How long a call may take: what is left of a budget, until a deadline, or seconds from now."""


def deadline_of(budget: Budget, clock_ns: ClockNs) -> Deadline:
    """Return until when an answer counts.

    Raises:
        ValueError: Seconds that are not a number above 0 and at most a day.
    """
    return budget if isinstance(budget, Deadline) else Deadline(end_ns_of(budget, clock_ns))


def end_ns_of(budget: Budget, clock_ns: ClockNs) -> int:
    """Return the same instant as `deadline_of`, as a number.

    Raises:
        ValueError: Seconds that are not a number above 0 and at most a day.
    """
    if isinstance(budget, Deadline):
        return budget.at_ns
    if isinstance(budget, LatencyBudget):
        return budget.end_ns
    if not 0 < budget <= 86_400:
        raise ValueError(
            f"budget = {budget!r}: give seconds above 0, e.g. 0.02, a Deadline or a LatencyBudget"
        )
    return clock_ns() + round(budget * 1e9)
