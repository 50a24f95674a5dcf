"""Keep below the gateway's limit of 50 messages a second, orders first.

The libraries throttle first in, first out: an order behind a hundred subscriptions waits two seconds.
Here subscriptions wait for room below a lower limit, and an order is sent at once or refused.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

MESSAGES_PER_S = 45
"""The gateway's limit is 50 for all messages of a client together."""
ORDER_RESERVE = 15
"""Messages per second that subscriptions leave to orders and cancels."""
CANCEL_RESERVE = 3
"""Messages per second that orders leave to cancels."""

_WINDOW_NS = 1_000_000_000


class MessagePacer:
    """A sliding window of one second over everything that was sent.

    Attributes:
        limit: Messages allowed in any one second.
    """

    def __init__(
        self, limit: int = MESSAGES_PER_S, monotonic_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self.limit = limit
        self._monotonic_ns = monotonic_ns
        self._sent_ns: deque[int] = deque()
        self._turn = asyncio.Lock()

    def room(self) -> int:
        """Return how many messages may be sent now."""
        now_ns = self._monotonic_ns()
        while self._sent_ns and now_ns - self._sent_ns[0] > _WINDOW_NS:
            self._sent_ns.popleft()
        return self.limit - len(self._sent_ns)

    def try_take(self, count: int, reserve: int = 0) -> bool:
        """Take room for `count` messages if at least `reserve` are left after them."""
        if self.room() - count < reserve:
            return False
        self._sent_ns.extend([self._monotonic_ns()] * count)
        return True

    async def take(self) -> None:
        """Wait, in turn, for room for one message that is not urgent."""
        async with self._turn:
            while not self.try_take(1, ORDER_RESERVE):
                oldest_ns = self._sent_ns[0]
                await asyncio.sleep(max(0.001, (oldest_ns + _WINDOW_NS - self._monotonic_ns()) / 1e9 + 0.001))
