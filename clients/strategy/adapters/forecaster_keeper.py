"""Keeps up to date, in the background, what is known of the servers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from strategy.adapters.forecaster_checks import Check
from tradeserve_client.channel import Link


class Keeper:
    """Keeps the checks of one server up to date in the background: at once after every change of the
    connection, every `pause_s` while anything is amiss, and every `look_again_s` while nothing is.
    """

    def __init__(self, link: Link, checks: Sequence[Check], pause_s: float, look_again_s: float) -> None:
        self._link = link
        self._checks = checks
        self._pause_s = pause_s
        self._look_again_s = look_again_s
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        link.on_change(self._wake.set)
        for check in checks:
            check.on_doubt = self._wake.set

    def open(self) -> None:
        """Start. Needs a running loop."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name=f"checks {self._link.target}"
            )

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            for check in self._checks:
                if not check.holds and self._link.is_ready:
                    await check.check()
            all_hold = all(check.holds for check in self._checks)
            try:
                async with asyncio.timeout(self._look_again_s if all_hold else self._pause_s):
                    await self._wake.wait()
            except TimeoutError:
                await self._look_again(all_hold)
            if not all_hold:
                await asyncio.sleep(0.05)  # a flapping connection must not make this a busy loop

    async def _look_again(self, all_hold: bool) -> None:
        if all_hold:
            for check in self._checks:
                await check.look_again()
