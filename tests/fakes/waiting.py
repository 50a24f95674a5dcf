"""Bounded waiting for what has no event, and a look at what is still running."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - polls what has no event
            await asyncio.sleep(0.005)


_CLIENT_MARKS = ("tradeserve_client", "strategy/adapters", "grpc/aio/_call.py", "grpc/aio/_channel.py")


def client_tasks() -> set[asyncio.Task[Any]]:
    """Every task of our clients and of grpc's client side; fake servers share the loop."""
    return {
        task
        for task in asyncio.all_tasks()
        if task is not asyncio.current_task() and any(mark in repr(task) for mark in _CLIENT_MARKS)
    }


def wait_for_file(path: Path, process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Wait, bounded, for the file that a server writes once it is healthy."""
    end_s = time.monotonic() + timeout_s
    while not _has_content(path):
        if process.poll() is not None or time.monotonic() > end_s:
            log = "\n".join(file.read_text(errors="replace") for file in path.parent.glob("*.log"))
            raise AssertionError(f"the server did not become ready (exit {process.poll()}):\n{log[-4000:]}")
        time.sleep(0.02)


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
