"""Keeps the servers of the stack alive while the strategy runs."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from local_stack.process import Service, StackError


@dataclass(frozen=True, slots=True)
class RestartLimits:
    """How often and how fast a server is started again.

    Attributes:
        max_restarts: In a row; the count begins anew when the server has lived for `recovered_s`.
        recovered_s: See max_restarts.
        first_backoff_s: Pause before the first start; doubles while starts fail.
        max_backoff_s: Longest pause.
    """

    max_restarts: int = 10
    recovered_s: float = 60.0
    first_backoff_s: float = 0.5
    max_backoff_s: float = 5.0


class Supervisor:
    """Restarts a server that died, at the address it had, a bounded number of times.

    Args:
        say: Called with one line for the screen.
        limits: How often and how fast.
    """

    def __init__(self, say: Callable[[str], None], limits: RestartLimits | None = None) -> None:
        self._say = say
        self._limits = limits or RestartLimits()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    def watch(self, service: Service) -> None:
        """Watch a started server until stop()."""
        self._tasks.append(asyncio.create_task(self._keep(service), name=f"watch {service.name}"))

    async def stop(self) -> None:
        """Stop watching; a death from now on is wanted."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, service: Service) -> None:
        restarts = 0
        while True:
            began = time.monotonic()
            status = await service.wait()
            if self._stopping:
                return
            if time.monotonic() - began >= self._limits.recovered_s:
                restarts = 0
            why = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
            self._say(f"    ! {service.name}: died ({why}); starting it again")
            backoff_s = self._limits.first_backoff_s
            while True:
                restarts += 1
                if service.restart_command is None or restarts > self._limits.max_restarts:
                    self._say(
                        f"    ! {service.name}: not started again after {restarts - 1} times; see {service.log_file}"
                    )
                    return
                await asyncio.sleep(backoff_s)
                try:
                    took_s = await service.start()
                except StackError as error:
                    self._say(f"    ! {error}")
                    backoff_s = min(2 * backoff_s, self._limits.max_backoff_s)
                    continue
                self._say(f"{service.name}: healthy again at {service.address} after {took_s:.1f} s")
                break
