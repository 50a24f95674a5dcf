"""Small servers of our own under the stack's supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fakes.waiting import until
from local_stack.process import Service, StackError
from local_stack.supervisor import RestartLimits, Supervisor

LIMITS = RestartLimits(max_restarts=2, recovered_s=60.0, first_backoff_s=0.01, max_backoff_s=0.02)
SERVER = """
    import json, os, pathlib, sys, time
    if pathlib.Path("broken").exists():
        sys.exit("error: it is broken; mend it")
    partial = pathlib.Path(sys.argv[2] + ".new")
    partial.write_text(json.dumps({"pid": os.getpid(), "address": "127.0.0.1:4321"}))
    partial.rename(sys.argv[2])
    while True:
        time.sleep(10)
"""


@pytest.fixture
async def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-c", textwrap.dedent(SERVER)]
    one = Service("small", command, tmp_path, restart_command=lambda ready: command)
    await one.start()
    yield one
    await one.stop()


async def die(service: Service) -> None:
    pid = service.ready["pid"]
    os.kill(pid, signal.SIGKILL)


async def test_a_server_that_dies_comes_back(service: Service):
    said: list[str] = []
    supervisor = Supervisor(said.append, LIMITS)
    supervisor.watch(service)
    await die(service)
    await until(lambda: len(said) == 2)
    await supervisor.stop()
    assert said[0] == "    ! small: died (killed by SIGKILL); starting it again"
    assert said[1].startswith("small: healthy again at 127.0.0.1:4321 after ")


async def test_a_server_that_cannot_come_back_is_given_up_with_its_reason(service: Service, tmp_path: Path):
    said: list[str] = []
    supervisor = Supervisor(said.append, LIMITS)
    supervisor.watch(service)
    (tmp_path / "broken").touch()
    await die(service)
    await until(lambda: "not started again" in said[-1] if said else False)
    await supervisor.stop()
    reasons = [line for line in said if "did not start: it is broken; mend it" in line]
    assert len(reasons) == LIMITS.max_restarts
    assert said[-1].startswith("    ! small: not started again after 2 times; see ")


async def test_a_server_that_is_stopped_on_purpose_stays_down(service: Service):
    said: list[str] = []
    supervisor = Supervisor(said.append, LIMITS)
    supervisor.watch(service)
    await supervisor.stop()
    await service.stop()
    await asyncio.sleep(0)
    assert said == []


async def test_a_server_that_is_never_healthy_is_ended(tmp_path: Path):
    sleeper = [sys.executable, "-c", "import time; time.sleep(100)"]
    slow = Service("slow", sleeper, tmp_path, start_timeout_s=0.3)
    with pytest.raises(StackError, match=r"slow was not healthy after 0 s: it wrote nothing"):
        await slow.start()
    assert await slow.wait() == -signal.SIGTERM


async def test_a_program_that_is_missing_is_named(tmp_path: Path):
    with pytest.raises(StackError, match=r"none cannot be started: .*no-such-program"):
        await Service("none", ["/no-such-program"], tmp_path).start()
