"""The servers of a benchmark: those of the local stack, kept for all its sections."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from bench.context import UnavailableError
from local_stack import plan
from local_stack.plan import Options
from local_stack.process import Service, StackError


@contextlib.asynccontextmanager
async def running(folder: Path, say: Callable[[str], None]) -> AsyncIterator[dict[str, Service]]:
    """Start Postgres, Triton and the similarity server; stop them at the end.

    Raises:
        UnavailableError: One of them can't run here.
    """
    data_dir = _data_dir()
    services: dict[str, Service] = {}
    try:
        try:
            for service in (
                _postgres(folder, data_dir),
                plan.triton(Options(), folder),
                plan.similarity(folder),
            ):
                services[service.name] = service
            tasks = [asyncio.create_task(service.start()) for service in services.values()]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        except StackError as error:
            raise UnavailableError(str(error)) from error
        for service in services.values():
            say(f"{service.name}: healthy at {service.address}")
        yield services
    finally:
        await asyncio.gather(*(service.stop() for service in services.values()))
        shutil.rmtree(data_dir, ignore_errors=True)


def _data_dir() -> Path:
    """Make a folder that the user of Postgres can enter; nothing of it is kept."""
    folder = Path(tempfile.mkdtemp(prefix="tradeserve-bench-"))
    folder.chmod(0o711)
    return folder


def _postgres(folder: Path, data_dir: Path) -> Service:
    command = [sys.executable, "-m", "journal", "serve", "--port", "0", "--data-dir", str(data_dir / "data")]
    return Service("postgres", command, folder, start_timeout_s=90)
