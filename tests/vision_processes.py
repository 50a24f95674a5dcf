"""Real vision servers and real vLLM, as processes: import the fixtures in a conftest.py."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fakes.charts_to_read import chart_query
from fakes.waiting import wait_for_file
from tradeserve.vision.v1 import chart_reading_service_pb2_grpc as rpc
from tradeserve_client.chart_messages import read_message
from vision_server.checkpoint import PACKAGED
from vision_server.installation import is_installed
from vision_server.vllm_engine import ENVIRONMENT

ROOT = Path(__file__).parents[1]
VLLM_VENV = ROOT / "build" / "venv-vllm"
_START_S = 150.0
_STOP_S = 40.0
_POLL_S = 0.1


@dataclass(slots=True)
class RunningVision:
    """A vision server that runs.

    Attributes:
        process: Its process.
        ready: What its ready file says.
        log: Its log.
    """

    process: subprocess.Popen[bytes]
    ready: Mapping[str, Any]
    log: Path

    @property
    def address(self) -> str:
        """host:port."""
        return str(self.ready["address"])

    def figures(self) -> dict[str, float]:
        """Return its metrics: name with labels -> value."""
        return figures_at(f"http://{self.ready['metrics_address']}/metrics")


def needs_vllm() -> None:
    """Skip where vLLM is not installed, in words."""
    if not is_installed(VLLM_VENV):
        pytest.skip("vLLM is not installed here (2.5 GB): `make venv-vllm` builds build/venv-vllm")


def figures_at(url: str) -> dict[str, float]:
    """Return what Prometheus would read at an address."""
    with urllib.request.urlopen(url, timeout=20) as answer:  # an address of this test's own process
        lines = answer.read().decode().splitlines()
    parts = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in parts}


def total(figures: Mapping[str, float], *parts: str) -> float:
    """Return the sum of the figures whose names hold all parts."""
    return sum(value for name, value in figures.items() if all(part in name for part in parts))


@contextlib.contextmanager
def vision_on(folder: Path, *arguments: object) -> Iterator[RunningVision]:
    """Start the vision server; stop it in order at the end, and leave nothing behind."""
    folder.mkdir(parents=True, exist_ok=True)
    ready, log = folder / "ready.json", folder / "server.log"
    command = [sys.executable, "-m", "vision_server", "--ready-file", str(ready), "--metrics-port", "0"]
    command += ["--venv", str(VLLM_VENV), *map(str, arguments)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        wait_for_file(ready, process, timeout_s=_START_S)
        yield RunningVision(process, json.loads(ready.read_text()), log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def vllm_api(
    folder: Path, port: int = 0, *arguments: str, name: str = "chart_reader"
) -> Iterator[tuple[str, int]]:
    """Start vLLM's own OpenAI-compatible server on the packaged checkpoint; give its URL and process id."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    command = [str(VLLM_VENV / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server"]
    command += [
        "--model",
        str(PACKAGED),
        "--served-model-name",
        name,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "2048", "--max-num-seqs", "8"]
    command += ["--kv-cache-memory-bytes", str(64 << 20), "--mm-processor-cache-gb", "0"]
    command += ["--limit-mm-per-prompt", '{"image": 1, "video": 0}']
    command += [
        "--structured-outputs-config",
        '{"backend": "xgrammar", "disable_any_whitespace": true}',
        *arguments,
    ]
    with (folder / "vllm.log").open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=output,
            stderr=output,
            env={**ENVIRONMENT, **os.environ},
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + _START_S
        while not _is_healthy(url):
            assert process.poll() is None, (folder / "vllm.log").read_text()[-2000:]
            assert time.monotonic() < until, "vLLM did not start in time"
            time.sleep(_POLL_S)
        yield url, process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def engine_of(pid: int) -> int:
    """Return the process of vLLM's engine core below a process.

    Raises:
        AssertionError: There is none.
    """
    for child in _descendants(pid):
        with contextlib.suppress(OSError):
            if (
                "EngineCore"
                in Path(f"/proc/{child}/comm").read_text() + Path(f"/proc/{child}/cmdline").read_text()
            ):
                return child
    raise AssertionError(f"no engine core below process {pid}")


async def eventually(holds: Callable[[], Awaitable[bool]], timeout_s: float = 60.0) -> None:
    """Wait until a condition holds, bounded."""
    until = time.monotonic() + timeout_s
    while True:
        if await holds():
            return
        assert time.monotonic() < until, "what was waited for did not happen"
        await asyncio.sleep(0.01)


async def assert_cancelling_aborts(
    stub: rpc.ChartReadingServiceStub,
    server: Callable[[], dict[str, float]],
    vllm: Callable[[], dict[str, float]],
) -> None:
    """Check that vLLM stops computing what is cancelled, by how soon it is idle again.

    Args:
        stub: Of the vision server.
        server: Its figures.
        vllm: vLLM's figures.
    """

    async def is_(busy: bool) -> bool:
        running = total(await asyncio.to_thread(vllm), "vllm:num_requests_running")
        ours = total(await asyncio.to_thread(server), "tradeserve_vision_running")
        return running >= 1 if busy else running == ours == 0

    def start(first: int) -> list[Any]:
        messages = [read_message(chart_query(first + n), f"{first}-{n}") for n in range(8)]
        return [stub.ReadChart(message, timeout=_START_S) for message in messages]

    async def idle_after_s(first: int, cancel: bool) -> float:
        calls = start(first)
        await eventually(lambda: is_(True))
        began = time.monotonic()
        if cancel:
            for call in calls:
                call.cancel()
        await eventually(lambda: is_(False))
        await asyncio.gather(*calls, return_exceptions=True)
        return time.monotonic() - began

    whole_s = await idle_after_s(900, cancel=False)
    # If it went on computing, no attempt would be much shorter; a busy machine may lengthen one.
    attempts = [await idle_after_s(910 + 10 * attempt, cancel=True) for attempt in range(3)]
    assert min(attempts) < whole_s / 2, (whole_s, attempts)


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _descendants(pid: int) -> list[int]:
    children = [
        int(child)
        for tasks in Path(f"/proc/{pid}/task").glob("*/children")
        for child in tasks.read_text().split()
    ]
    return children + [further for child in children for further in _descendants(child)]


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="session")
def real_vision(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningVision]:
    """Start the vision server with vLLM in its process once."""
    needs_vllm()
    with vision_on(tmp_path_factory.mktemp("vision")) as running:
        yield running
