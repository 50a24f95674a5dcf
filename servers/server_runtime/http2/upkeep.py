"""Bounds of one connection, and what looks after it while nothing happens.

Source: RFC 9113, section 10.5; CVE-2023-44487 (rapid reset); keepalive: gRFC A8, A9.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from grpc_wire.frames import ErrorCode, ProtocolError


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one connection.

    Attributes:
        max_streams: Calls at once.
        max_message_bytes: Longest message, either way.
        hello_s: How long a peer may take to introduce itself.
        request_s: How long the only request of a call without a deadline may take to come.
        keepalive_s: After this silence the peer is pinged.
        keepalive_timeout_s: How long it may take to answer; looked at so often, too, who takes no answers.
        min_ping_s: Pings that come faster, with no answer between them, are abuse.
        nuisance_per_s: Frames per second that carry nothing: resets, pings, settings, empty ones.
        unsent_bytes: Of all answers that the peer's windows don't let through.
    """

    max_streams: int = 1024
    max_message_bytes: int = 16 * 1024 * 1024
    hello_s: float = 10.0
    request_s: float = 30.0
    keepalive_s: float = 60.0
    keepalive_timeout_s: float = 20.0
    min_ping_s: float = 10.0
    nuisance_per_s: int = 2_000
    unsent_bytes: int = 64 * 1024 * 1024


_MAX_PING_STRIKES = 2


class Patience:
    """What a peer may do that carries nothing."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._since_s = 0.0
        self._spent = 0
        self._pinged_s = float("-inf")
        self._strikes = 0
        self._progress = -1

    def spend(self, what: str, cost: int = 1) -> None:
        """Bear with a frame.

        Raises:
            ProtocolError: There were too many within a second.
        """
        now_s = time.monotonic()
        if now_s - self._since_s >= 1.0:
            self._since_s, self._spent = now_s, 0
        self._spent += cost
        if self._spent > self._limits.nuisance_per_s:
            raise ProtocolError(f"too many {what}", ErrorCode.ENHANCE_YOUR_CALM)

    def ping(self, progress: int) -> None:
        """Bear with a ping.

        Args:
            progress: Changes with every answer that is sent; pings around answers are welcome.

        Raises:
            ProtocolError: There were too many without one.
        """
        now_s = time.monotonic()
        if progress != self._progress:
            self._progress, self._strikes = progress, 0
        elif now_s - self._pinged_s < self._limits.min_ping_s:
            self._strikes += 1
            if self._strikes > _MAX_PING_STRIKES:
                raise ProtocolError("too_many_pings", ErrorCode.ENHANCE_YOUR_CALM)
        self._pinged_s = now_s


class Timers:
    """Alarms by name."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.TimerHandle] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._running

    def start(self, name: str, delay_s: float, callback: Callable[[], None]) -> None:
        """Call back once, after that time; in place of an alarm of that name."""
        self.stop(name)
        self._running[name] = asyncio.get_running_loop().call_later(delay_s, callback)

    def stop(self, name: str) -> None:
        """Forget an alarm."""
        timer = self._running.pop(name, None)
        if timer is not None:
            timer.cancel()

    def clear(self) -> None:
        """Forget all."""
        for name in list(self._running):
            self.stop(name)
