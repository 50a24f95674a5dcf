"""The machine's clocks."""

from __future__ import annotations

import time


class SystemClock:
    """`ports.Clock` on the operating system's clocks."""

    def monotonic_ns(self) -> int:
        """Return the monotonic clock."""
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        """Return nanoseconds since the epoch, UTC."""
        return time.time_ns()
