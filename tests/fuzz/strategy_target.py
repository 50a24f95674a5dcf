"""The strategy's control service on an engine in memory: `python -m fuzz.strategy_target FOLDER READY_FILE`."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from pathlib import Path
from typing import Any

from fakes.engine_world import World
from fakes.fake_world import MemoryJournal
from server_runtime.server import GrpcServer, ServerOptions
from strategy.adapters.control import SERVICE, StrategyServicer, register


class LatestRows(MemoryJournal):
    """Keeps only the latest rows: what grows in the real journal is on a disk."""

    def __init__(self) -> None:
        super().__init__()
        latest: Any = deque(maxlen=100)
        self.rows = latest


async def serve(folder: Path, ready_file: Path) -> None:
    """Serve until SIGTERM."""
    world = World(folder, journal=LatestRows())
    await world.start()
    states: Any = deque(maxlen=100)
    world.states = states
    await world.bar()
    server = GrpcServer(ServerOptions(ready_file=ready_file))
    server.add_service(SERVICE, register(StrategyServicer(world.engine)))
    await server.serve()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), Path(sys.argv[2])))
