"""Runs the sections one after the other; one that can't run here says so and leaves its figures out."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench import (
    charts,
    decisions,
    fan_out,
    figures,
    forecasts,
    lateness,
    machine,
    model_call,
    overload,
    servers,
    similarity,
    triton,
    vision,
)
from bench.context import SMOKE, Bench, Size, UnavailableError
from bench.figures import Figure
from bench.in_process import InProcess
from server_runtime import logs

ROOT = Path(__file__).resolve().parents[2]

Section = Callable[[Bench, InProcess], Awaitable[list[Figure]]]

# In this order: the decisions record the windows that later sections run on.
SECTIONS: tuple[tuple[str, Section], ...] = (
    ("decisions", decisions.measure),
    ("forecasts", forecasts.measure),
    ("model calls", model_call.measure),
    ("fan-out", fan_out.measure),
    ("lateness", lateness.measure),
    ("similarity", similarity.measure),
    ("triton", triton.measure),
    ("STAC-ML models", triton.measure_stac),
    ("charts", charts.measure),
    ("overload", overload.measure),
    ("vision", vision.measure),
)


def main() -> int:
    """Measure; return the exit status."""
    parser = argparse.ArgumentParser(prog="bench", description="Measure tradeserve on this machine.")
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"), help="where the figures go")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"), help="emptied; logs and stamps")
    parser.add_argument("--smoke", action="store_true", help="a few samples only: whether it works at all")
    arguments = parser.parse_args()
    logs.configure("bench", json=False, stream=sys.stderr, level="warning")
    shutil.rmtree(arguments.folder, ignore_errors=True)
    arguments.folder.mkdir(parents=True)
    size = SMOKE if arguments.smoke else Size()
    try:
        measured = asyncio.run(_measure(size, arguments.folder.resolve()))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("bench: interrupted; nothing was written", flush=True)
        return 130
    figures.write(arguments.out, measured)
    print(f"\n{figures.table(measured)}\n\n{len(measured)} figures in {arguments.out}")
    return 0


async def _measure(size: Size, folder: Path) -> list[Figure]:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # Ctrl-C is asyncio.run's
    began = time.monotonic()
    found = machine.describe()
    _say(f"{found['cores']} cores, {found['cpu']}, load average {found['load_average_before']}")
    _say(f"triton serves with {found['triton_backend']}")
    measured: list[Figure] = []
    try:
        async with servers.running(folder, _say) as services:
            bench = Bench(
                size,
                folder,
                found,
                database_url=str(services["postgres"].ready["database_url"]),
                triton=services["triton"].address,
                similarity=services["similarity"].address,
                say=_say,
            )
            local = InProcess(ROOT)
            machine.calm_the_garbage_collector()
            for name, section in SECTIONS:
                at = time.monotonic()
                try:
                    measured += await section(bench, local)
                except UnavailableError as reason:
                    _say(f"{name}: not measured: {reason}")
                else:
                    _say(f"{name}: measured in {time.monotonic() - at:.0f} s")
    except UnavailableError as reason:
        _say(f"nothing measured: {reason}")
    _say(f"{time.monotonic() - began:.0f} s in all")
    return measured


def _say(line: str) -> None:
    print(f"bench: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
