"""Clients of several event loops in one process, one loop after the other."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from fakes.fake_triton import FakeTriton

PROGRAM = """
import asyncio, sys
import numpy as np
from tradeserve_client import Answer, BlockingClients, ClientConfig, Clients, TritonSection

config = ClientConfig(triton=TritonSection(target=sys.argv[1]))
inputs = {"window": np.ones((1, 60, 5), np.float32)}

async def main():
    async with Clients(config) as clients:
        assert isinstance(await clients.triton.infer("lstm_cnn", inputs, budget=20.0), Answer)

for _ in range(5):
    asyncio.run(main())
    with BlockingClients(config) as clients:
        assert isinstance(clients.triton.infer("lstm_cnn", inputs, budget=20.0), Answer)
"""


async def test_a_closed_client_leaves_nothing_that_a_later_loop_complains_about() -> None:
    async with FakeTriton() as triton:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-W", "error", "-c", PROGRAM, triton.address],
            capture_output=True,
            text=True,
            timeout=100,
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
