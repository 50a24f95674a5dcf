"""The adapter against the simulator as a process of its own, which is killed and comes back."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest

from fakes.ibkr_world import HOST, Recorder, intent, price
from fakes.waiting import until
from strategy.adapters.ibkr_broker import IbkrBroker
from strategy.adapters.ibkr_connection import IbkrConnection
from strategy.adapters.ibkr_feed import IbkrFeed
from strategy.core.values import Purpose, Side
from strategy.ports import ConnectionState

ROOT = Path(__file__).parents[2]
IB_ASYNC = ROOT / "build" / "ib_async"
START_TIMEOUT_S = 30.0


@asynccontextmanager
async def simulator(tmp_path: Path, port: int = 0) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    ready = tmp_path / "ready.json"
    ready.unlink(missing_ok=True)
    arguments = ["--port", port, "--ready-file", ready, "--state-file", tmp_path / "state"]
    arguments += ["--symbols", "AAPL", "--bar-size-s", 60, "--speed", 300]
    command = [sys.executable, "-m", "gateway_simulator", *(str(argument) for argument in arguments)]
    with (tmp_path / "simulator.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(*command, stderr=log)
        try:
            await until(lambda: ready.exists() or process.returncode is not None, START_TIMEOUT_S)
            assert process.returncode is None, (tmp_path / "simulator.log").read_text()
            yield process, int(json.loads(ready.read_text())["address"].rsplit(":", 1)[1])
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.wait()


async def test_a_killed_gateway_that_comes_back_is_reconciled_and_the_bars_go_on(tmp_path: Path) -> None:
    got = Recorder()
    async with simulator(tmp_path) as (process, port):
        connection = IbkrConnection(HOST, port, 7, first_backoff_s=0.05, max_backoff_s=0.2)
        broker, feed = IbkrBroker(connection), IbkrFeed(connection, 60, 30)
        await broker.connect(got)
        (aapl,) = await feed.resolve(["AAPL"])
        past = (await feed.subscribe([aapl], got))[aapl.con_id]
        await until(lambda: bool(got.quotes))
        last = past[-1].close
        entry = intent(
            aapl,
            Side.BUY,
            10,
            purpose=Purpose.ENTRY,
            stop_price=price(last * 0.8),
            take_profit_price=price(last * 1.2),
        )
        broker.place(entry)
        await until(
            lambda: got.status(entry.entry_ref) == "Filled" and len(got.commissions) == len(got.fills)
        )
        await until(lambda: got.status(entry.stop_ref) == "PreSubmitted" and len(got.bars) >= 2)
        fills = list(got.fills)
        process.kill()
        await process.wait()
        await until(lambda: broker.state is ConnectionState.DISCONNECTED)
    async with simulator(tmp_path, port):
        await until(
            lambda: broker.state is ConnectionState.READY and len(got.snapshots) == 2, START_TIMEOUT_S
        )
        snapshot = got.snapshots[-1]
        assert [(p.con_id, p.quantity) for p in snapshot.positions] == [(aapl.con_id, Decimal(10))]
        assert {o.order_ref for o in snapshot.working_orders} == {entry.stop_ref, entry.take_profit_ref}
        assert got.fills == fills
        seen = len(got.bars)
        await until(lambda: len(got.bars) >= seen + 3)
        starts = [bar.start_ns for bar in (*past, *got.bars)]
        assert starts == sorted(set(starts))
        live = got.starts(aapl.con_id)
        assert {later - earlier for earlier, later in pairwise(live)} == {60_000_000_000}
        await feed.close()
        await broker.close()


SCRIPT = """
import asyncio, sys
from fakes.ibkr_world import World
from fakes.waiting import until

async def main():
    async with World(600.0) as world:
        await world.start("AAPL")
        await until(lambda: bool(world.recorder.bars))
        print(world.connection.library.name, "attached")

LOOPS = {
    "asyncio.run": lambda: asyncio.run(main()),
    "loop_factory": lambda: asyncio.Runner(loop_factory=asyncio.new_event_loop).run(main()),
}
LOOPS[sys.argv[1]]()
"""


def run_script(library: str, loop: str) -> subprocess.CompletedProcess[str]:
    path = [str(ROOT / "tests"), *([str(IB_ASYNC)] if library == "ib_async" else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "IBKR_LIBRARY": library}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(SCRIPT), loop]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


needs_ib_async = pytest.mark.skipif(
    not (IB_ASYNC / "ib_async").is_dir(),
    reason="ib_async is not in build/ib_async; install tests/integration/ib_async-requirements.txt there "
    "(pip install --no-deps --target build/ib_async -r …)",
)


@pytest.mark.parametrize("loop", ["asyncio.run", "loop_factory"])
@pytest.mark.parametrize("library", ["ib_insync", pytest.param("ib_async", marks=needs_ib_async)])
def test_the_library_attaches_to_the_running_loop_without_patches(library: str, loop: str) -> None:
    done = run_script(library, loop)
    assert done.returncode == 0, done.stderr
    assert f"{library} attached" in done.stdout
    assert "Traceback" not in done.stderr


@needs_ib_async
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_adapters_tests_pass_with_ib_async_too() -> None:
    names = ["test_ibkr_feed.py", "test_ibkr_broker.py", "test_ibkr_connection.py", "test_ibkr_process.py"]
    files = [str(Path(__file__).with_name(name)) for name in names]
    path = os.pathsep.join([str(IB_ASYNC), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "IBKR_LIBRARY": "ib_async"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:xdist",
        "-k",
        "not library_attaches and not ib_async_too",
    ]
    done = subprocess.run(
        [*command, *files],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
