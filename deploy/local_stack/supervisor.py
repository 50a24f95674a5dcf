"""Keeps the servers of the stack alive while the strategy runs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from local_stack.process import Service, StackError

_MAX_RESTARTS = 10
_FIRST_BACKOFF_S = 0.5
_MAX_BACKOFF_S = 5.0


class Supervisor:
    """Restarts a server that died, at the address it had, a bounded number of times.

    Args:
        say: Called with one line for the screen.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
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
            status = await service.wait()
            if self._stopping:
                return
            why = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
            self._say(f"    ! {service.name}: died ({why}); starting it again")
            backoff_s = _FIRST_BACKOFF_S
            while True:
                restarts += 1
                if service.restart_command is None or restarts > _MAX_RESTARTS:
                    self._say(
                        f"    ! {service.name}: not started again after {restarts - 1} times; see {service.log_file}"
                    )
                    return
                await asyncio.sleep(backoff_s)
                try:
                    took_s = await service.start()
                except StackError as error:
                    self._say(f"    ! {error}")
                    backoff_s = min(2 * backoff_s, _MAX_BACKOFF_S)
                    continue
                self._say(f"{service.name}: healthy again at {service.address} after {took_s:.1f} s")
                break
