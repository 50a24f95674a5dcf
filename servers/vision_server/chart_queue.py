"""Who is read, and when: a bounded queue in which the newest chart of an instrument takes the older one's place.

A chart that is being read is finished, whatever comes: charts that come faster than they can be read would
otherwise never be read at all.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from server_runtime.errors import OverloadedError, TooLateError

_SAMPLES = 32


@dataclass(slots=True)
class _Waiting:
    key: Hashable
    as_of_ns: int
    turn: "asyncio.Future[None]"


class ChartQueue:
    """The charts of one server. Used from one event loop.

    Attributes:
        superseded: Charts that were refused because a newer one of their instrument came.
    """

    def __init__(
        self, max_waiting: int, max_running: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Bound the queue.

        Args:
            max_waiting: Most charts that wait.
            max_running: Most charts that are read at once.
            clock: Monotonic seconds.
        """
        if max_waiting < 1 or max_running < 1:
            raise ValueError(f"the queue needs room: {max_waiting} waiting, {max_running} running")
        self.superseded = 0
        self._max_waiting = max_waiting
        self._max_running = max_running
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self._running = 0
        self._took_s: deque[float] = deque(maxlen=_SAMPLES)

    @property
    def waiting(self) -> int:
        """Charts that wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Charts that are being read."""
        return self._running

    @asynccontextmanager
    async def turn(self, key: Hashable, as_of_ns: int, left_s: float | None) -> AsyncIterator[None]:
        """Wait for a chart's turn, and hold its place while it is read.

        Args:
            key: The instrument.
            as_of_ns: Which of its charts is newer.
            left_s: Time left of the deadline; None when there is none.

        Raises:
            OverloadedError: The queue is full, or a newer chart of the instrument came.
            TooLateError: It could not be read in time.
        """
        self._displace(key, as_of_ns)
        self._refuse_hopeless(left_s)
        if self._running < self._max_running:
            self._running += 1
        else:
            if len(self._waiting) >= self._max_waiting:
                raise OverloadedError(
                    f"{len(self._waiting)} charts wait, the most that this server lets wait: drop it",
                    retry_after_s=round(max(self._typical_s(), 0.05), 3),
                    metadata={"limit": str(self._max_waiting)},
                )
            await self._wait(_Waiting(key, as_of_ns, asyncio.get_running_loop().create_future()))
        since_s = self._clock()
        try:
            yield
            self._took_s.append(self._clock() - since_s)
        finally:
            self._leave()

    async def _wait(self, entry: _Waiting) -> None:
        self._waiting.append(entry)
        try:
            await entry.turn
        except BaseException:
            if entry in self._waiting:
                self._waiting.remove(entry)
            elif entry.turn.done() and not entry.turn.cancelled() and entry.turn.exception() is None:
                self._leave()  # cancelled just as its turn came
            raise

    def _leave(self) -> None:
        while self._waiting:
            entry = self._waiting.popleft()
            if not entry.turn.done():
                entry.turn.set_result(None)  # it takes over the place
                return
        self._running -= 1

    def _displace(self, key: Hashable, as_of_ns: int) -> None:
        for entry in self._waiting:
            if entry.key != key or entry.turn.done():
                continue
            self.superseded += 1
            refusal = OverloadedError(
                "a newer chart of the instrument came: drop this one", metadata={"superseded": "true"}
            )
            if entry.as_of_ns > as_of_ns:
                raise refusal
            self._waiting.remove(entry)
            entry.turn.set_exception(refusal)
            return

    def _typical_s(self) -> float:
        return sorted(self._took_s)[len(self._took_s) // 2] if self._took_s else 0.0

    def _refuse_hopeless(self, left_s: float | None) -> None:
        if left_s is None or not self._took_s:
            return
        rounds_ahead = 0
        if self._running >= self._max_running:
            rounds_ahead = 1 + len(self._waiting) // self._max_running
        # What has never been faster will not be for this one; what waits costs what it typically does.
        needed_s = rounds_ahead * self._typical_s() + min(self._took_s)
        if left_s < needed_s:
            raise TooLateError(
                f"{left_s * 1e3:.0f} ms are left of the deadline, and reading a chart takes "
                f"{needed_s * 1e3:.0f} ms from now: give it more time, or drop it"
            )
