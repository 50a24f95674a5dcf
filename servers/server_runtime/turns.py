"""Do work one piece at a time, and refuse at once what could not be done in time.

Short work runs on the event loop: a thread would cost a tenth of a millisecond. Long work runs on a thread, so
that the loop is free to take in calls, and to refuse them. What is refused is decided when it arrives, from what
is ahead of it and how long a piece takes now.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from server_runtime.deadlines import DEFAULT_MARGIN_S, refuse_late
from server_runtime.errors import OverloadedError

T = TypeVar("T")

# A piece that takes longer is not run on the loop: nothing could be refused meanwhile.
_LONG_S = 0.002
# Of a new measurement in the running means.
_WEIGHT = 0.1
# A piece that a busy machine held up says little of the next ones: it counts as so many typical ones at most.
_MOST_TYPICALS = 3.0
# What is ahead is taken to last so much longer than the mean says; the pieces differ.
_CAUTION = 2.0
# The same where work has been waiting for longer than callers have time: that is no burst, which must be taken in,
# but more than can be done. A long queue gains nothing then, and makes all late when the machine stalls.
_CAUTION_OVERLOADED = 4.0
# Between two pieces on the loop, calls are taken in while they come more often than the lull, for as long as the
# piece was and at least for so long.
_LULL_NS = 500_000
_LEAST_PAUSE_NS = 1_000_000
_NS = 1_000_000_000


@dataclass(slots=True)
class _Piece:
    work: Callable[[], Any]
    future: "asyncio.Future[Any]"
    until_ns: int | None

    def outcome(self, margin_s: float) -> tuple[Any, Exception | None]:
        """Do the work, unless it is too late; return what it returned, or raised."""
        try:
            if self.until_ns is not None:
                refuse_late((self.until_ns - time.monotonic_ns()) / _NS, margin_s)
            return self.work(), None
        except Exception as e:  # noqa: BLE001 - handed to who awaits it
            return None, e

    def settle(self, result: object, error: Exception | None) -> None:
        """Tell who awaits it, unless nobody does any more."""
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class Turns:
    """The order in which the work of a server is done. Used from one event loop.

    Attributes:
        typical_s: Running mean of how long one piece takes, from the end of the one before where some wait.
        patience_s: Running mean of the time that work had left when it came; None before the first.
    """

    def __init__(self, margin_s: float = DEFAULT_MARGIN_S) -> None:
        """Wait for work; a thread is started when it is needed.

        Args:
            margin_s: Time that must be left of a deadline when its work starts.
        """
        self.typical_s = 0.0
        self.patience_s: float | None = None
        self._margin_s = margin_s
        self._pieces: deque[_Piece] = deque()
        self._busy = False
        self._busy_since_ns = 0
        self._on_thread = 0
        self._arrival_ns = self._pause_until_ns = 0
        self._wake = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def ahead(self) -> int:
        """Pieces that new work would wait for."""
        return len(self._pieces) + self._on_thread

    def arrived(self) -> None:
        """Take note that a call, or a request of a stream, came in."""
        self._arrival_ns = time.monotonic_ns()

    def has_time_for(self, more: int, left_s: float | None = None) -> bool:
        """Return whether work behind so many pieces would still be in time.

        Args:
            more: So many at least.
            left_s: Time left of its deadline; None for what callers have now.
        """
        if left_s is None:
            left_s = self.patience_s
        if left_s is None or not self.ahead:
            return True
        return self._wait_s(max(more, self.ahead)) + self._margin_s <= left_s

    def start(self, work: Callable[[], T], left_s: float | None) -> "asyncio.Future[T]":
        """Begin work now, or when its turn comes.

        Args:
            work: What to do; called on the event loop or on a thread.
            left_s: Time left of its deadline; None when there is none.

        Returns:
            What it returned or raised. TooLateError when its deadline passed before its turn; cancelled, it is
            not begun.

        Raises:
            OverloadedError: It could not be done in time, because of what is ahead of it.
            TooLateError: There is no time left at all.
        """
        refuse_late(left_s, self._margin_s)
        until_ns = None
        if left_s is not None:
            until_ns = time.monotonic_ns() + int(left_s * _NS)
            self.patience_s = _mean(self.patience_s, left_s)
            self._refuse_hopeless(left_s)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        piece = _Piece(work, future, until_ns)
        if self._busy:
            self._pieces.append(piece)
        else:
            self._busy, self._busy_since_ns = True, time.monotonic_ns()
            self._do(piece)
        return future

    async def run(self, work: Callable[[], T], left_s: float | None) -> T:
        """Do work when its turn comes; see `start`."""
        return await self.start(work, left_s)

    def close(self) -> None:
        """End the thread once it has done its present piece."""
        self._closed = True
        if self._thread is not None:
            self._wake.release()
            self._thread.join()
            self._thread = None

    def _refuse_hopeless(self, left_s: float) -> None:
        if not self.has_time_for(0, left_s):
            ahead = self.ahead
            wait_s = self._wait_s(ahead)
            raise OverloadedError(
                f"{ahead} are ahead and may take {wait_s * 1e3:.1f} ms, and {left_s * 1e3:.1f} ms are left: "
                "drop it, or retry later",
                retry_after_s=round(wait_s, 3),
                metadata={"ahead": str(ahead)},
            )

    def _wait_s(self, ahead: int) -> float:
        busy_s = (time.monotonic_ns() - self._busy_since_ns) / _NS if self._busy else 0.0
        overloaded = self.patience_s is not None and busy_s > self.patience_s
        return ahead * self.typical_s * (_CAUTION_OVERLOADED if overloaded else _CAUTION)

    def _do(self, piece: _Piece) -> None:
        loop = asyncio.get_running_loop()
        if self.typical_s > _LONG_S:
            self._pieces.appendleft(piece)
            self._hand_over(loop)
            return
        begin_ns = time.monotonic_ns()
        piece.settle(*piece.outcome(self._margin_s))
        end_ns = time.monotonic_ns()
        self._note(end_ns - begin_ns)
        self._pause_until_ns = end_ns + max(end_ns - begin_ns, _LEAST_PAUSE_NS)
        # Whatever else came in meanwhile is read off the wire before the next piece begins.
        loop.call_soon(self._next)

    def _next(self) -> None:
        while self._pieces and self._pieces[0].future.done():
            self._pieces.popleft()  # cancelled
        if not self._pieces:
            self._busy = False
            return
        now_ns = time.monotonic_ns()
        if now_ns < self._pause_until_ns and now_ns - self._arrival_ns < _LULL_NS:
            asyncio.get_running_loop().call_soon(self._next)
            return
        self._do(self._pieces.popleft())

    # --- the thread -------------------------------------------------------------------------------

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the thread work until nothing waits."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, args=(loop,), name="turns", daemon=True)
            self._thread.start()
        self._on_thread = 1
        self._wake.release()

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            self._wake.acquire()
            end_ns = time.monotonic_ns()
            while self._pieces and not self._closed:
                piece = self._pieces.popleft()
                if piece.future.cancelled():
                    continue
                result, error = piece.outcome(self._margin_s)
                begin_ns, end_ns = end_ns, time.monotonic_ns()
                loop.call_soon_threadsafe(self._end, piece, result, error, end_ns - begin_ns)
            if self._closed:
                return
            loop.call_soon_threadsafe(self._rest)

    def _end(self, piece: _Piece, result: object, error: Exception | None, took_ns: int) -> None:
        self._note(took_ns)
        piece.settle(result, error)

    def _rest(self) -> None:
        self._on_thread = 0
        self._next()

    def _note(self, took_ns: int) -> None:
        took_s = took_ns / _NS
        if self.typical_s:
            took_s = min(took_s, _MOST_TYPICALS * self.typical_s)
        self.typical_s = _mean(self.typical_s or None, took_s)


def _mean(before: float | None, new: float) -> float:
    return new if before is None else before + _WEIGHT * (new - before)
