"""`make loadtest` and `make capacity` as processes: the servers they start, ghz when it is there, the gate."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest

from fakes.ghz_report import ghz_report, install_fake_ghz
from fakes.slow_server import SlowServer
from load_test import config, messages, payloads, targets
from load_test.errors import ReportError, RunError
from load_test.runner import Load, Tool, resolved

ROOT = Path(__file__).parents[2]
PATIENT = "min_ok_ratio = 0.5\nmin_achieved_ratio = 0.5\nmax_p99_ms = 90\nmax_p999_ms = 95\n"
IMPOSSIBLE = PATIENT.replace("= 90", "= 0.0001")
needs_ghz = pytest.mark.skipif(shutil.which("ghz") is None, reason="ghz is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder that looks like the repository's root; what is written stays in it."""
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "ghz").symlink_to(ROOT / "deploy" / "ghz")
    (tmp_path / "model_repository").symlink_to(ROOT / "model_repository")
    return tmp_path


def load_test(folder: Path, *arguments: str, path: str | None = None) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "load_test", *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path if path is not None else os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
    )
    return done.returncode, done.stdout


@pytest.mark.slow
def test_the_similarity_server_is_started_loaded_and_judged(folder: Path) -> None:
    limits = folder / "slo.toml"
    limits.write_text(f"[similarity]\n{PATIENT.replace('90', '100000').replace('95', '100000')}")
    switches = ("--rps", "20", "--duration", "2s", "--own", "--limits", str(limits))
    status, said = load_test(folder, "run", "similarity", *switches, "--schedule", "step")
    assert status == 0, said
    assert "tool: our open-loop generator" in said
    assert "similarity: step, 24 calls in 2 s" in said
    assert said.count("kept") == 5
    assert "20/s  OK" in said
    assert json.loads((folder / "build/loadtest/similarity.report.json").read_text())["count"] == 24


async def test_a_violated_limit_fails_with_one_clear_line_each(folder: Path) -> None:
    (folder / "slo.toml").write_text(f"[strategy]\n{IMPOSSIBLE}")
    async with SlowServer() as server:
        status, said = await _elsewhere(folder, "run", "strategy", server.address, "--limits", "slo.toml")
    assert status == 1, said
    lines = [line for line in said.splitlines() if line.startswith("VIOLATED ")]
    assert len(lines) == 1
    assert lines[0].startswith("VIOLATED p99: ")
    assert lines[0].endswith("ms, the limit is <= 0.0001 ms")


async def test_capacity_is_searched_tabled_and_drawn(folder: Path) -> None:
    (folder / "slo.toml").write_text(f"[strategy]\n{IMPOSSIBLE}")
    switches = ("--limits", "slo.toml", "--first-rate", "2", "--measure-s", "1", "--repeats", "1")
    async with SlowServer() as server:
        status, said = await _elsewhere(folder, "capacity", "strategy", server.address, *switches)
    assert status == 1, said
    assert "not possible" in said
    found = json.loads((folder / "build" / "capacity.json").read_text())
    assert found["targets"]["strategy"]["capacity_per_s"] == 0
    assert found["targets"]["strategy"]["probes"][-1]["rate"] == 1
    assert (folder / "build" / "capacity.svg").read_text().startswith("<svg ")


async def _elsewhere(folder: Path, command: str, target: str, address: str, *more: str) -> tuple[int, str]:
    duration = ("--rps", "20", "--duration", "1s") if command == "run" else ()
    arguments = (command, target, "--strategy", address, "--own", *duration, *more)
    return await asyncio.to_thread(load_test, folder, *arguments)


def test_ghz_is_used_when_it_is_on_the_path_and_its_exit_status_is_not_believed(folder: Path) -> None:
    (folder / "slo.toml").write_text(f"[strategy]\n{PATIENT}")
    failed = ghz_report([(0.2, "Unavailable")] * 100, duration_s=1)
    install_fake_ghz(folder / "bin", failed)
    switches = ("--strategy", "127.0.0.1:9", "--limits", "slo.toml", "--rps", "100", "--duration", "1s")
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    status, said = load_test(folder, "run", "strategy", *switches, path=path)
    assert status == 1
    assert f"tool: ghz ({folder / 'bin' / 'ghz'})" in said
    assert "VIOLATED answered OK: 0.0000% of the calls" in said
    install_fake_ghz(folder / "bin", ghz_report([(1.0, "OK")] * 100, duration_s=1))
    status, said = load_test(folder, "run", "strategy", *switches, path=path)
    assert status == 0, said
    assert said.rstrip().endswith("passed: report of ghz in build/loadtest/strategy.report.json")


async def test_a_ghz_that_fails_or_writes_nothing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads.write(tmp_path, ROOT / "model_repository")
    document = resolved(config.read(ROOT / "deploy/ghz/strategy.toml"), Load(10, "1s"), "127.0.0.1:9")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    install_fake_ghz(tmp_path / "bin", None, exit_status=3)
    with pytest.raises(RunError, match=r"ghz says something \(exit status 3\)"):
        await Tool().run(document, tmp_path, "t")
    install_fake_ghz(tmp_path / "bin", None)
    with pytest.raises(ReportError, match="the load tool wrote no report"):
        await Tool().run(document, tmp_path, "t")


async def test_a_tool_starts_every_time_also_from_a_process_in_which_grpc_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads.write(tmp_path, ROOT / "model_repository")
    document = resolved(config.read(ROOT / "deploy/ghz/strategy.toml"), Load(10, "1s"), "127.0.0.1:9")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ghz").write_text("#!/bin/sh\necho started\nexit 3\n")
    (tmp_path / "bin" / "ghz").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    async with SlowServer() as server, grpc.aio.insecure_channel(server.address) as channel:
        for _ in range(150):  # with the files closed before the exec it was one in forty
            await channel.unary_unary("/a.B/C")(b"")
            with pytest.raises(RunError, match=r"^ghz \(.*\): started \(exit status 3\)$"):
                await Tool().run(document, tmp_path, "t")


@needs_ghz
@pytest.mark.parametrize("kind", ["const", "step", "line"])
@pytest.mark.parametrize("target", targets.names(ROOT / "deploy" / "ghz"))
async def test_ghz_itself_runs_every_shipped_config(
    folder: Path, target: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    payloads.write(Path("build/loadtest"), Path("model_repository"))
    async with SlowServer() as server:
        document = config.read(ROOT / "deploy" / "ghz" / f"{target}.toml") | {"timeout": "10s"}
        document = resolved(document, Load(20, "2s", kind), server.address)
        used = config.parse(document, target)
        payload = messages.Call(used).payloads(used)
        found = await Tool().run(document, folder, target)
        assert found.tool == "ghz"
        assert found.statuses == {"OK": found.count}
        assert found.achieved_ratio > 0.5  # how steadily it sends is not ours to test
        assert set(server.requests) == set(payload[: found.count])


@needs_ghz
@pytest.mark.parametrize(
    "changes",
    [
        {"rps": 40},
        {"rps": 40, "duration": "", "total": 60},
        {"load-schedule": "step", "load-start": 20, "load-step": 30, "load-end": 60},
        {"load-schedule": "step", "load-start": 60, "load-step": -20, "load-end": 20},
        {
            "load-schedule": "step",
            "load-start": 20,
            "load-step": 20,
            "load-max-duration": "1s",
            "load-end": 0,
        },
        {"load-schedule": "line", "load-start": 20, "load-step": 20, "load-end": 60},
        {"load-schedule": "line", "load-start": 60, "load-step": -20, "load-end": 20},
    ],
    ids=lambda changes: " ".join(f"{key}={value}" for key, value in changes.items()),
)
async def test_ghz_itself_sends_at_the_rates_of_our_schedule(
    folder: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    payloads.write(Path("build/loadtest"), Path("model_repository"))
    async with SlowServer() as server:
        document = _similarity(server) | {"duration": "3s", "load-step-duration": "500ms"} | changes
        found = await Tool().run({k: v for k, v in document.items() if v != ""}, folder, "t")
    sent_s = np.sort(found.due_s)
    due_s = found.schedule.due_at_s(np.arange(1, len(sent_s) + 1, dtype=np.float64))
    assert len(sent_s) > 0.9 * found.schedule.call_count
    late_s = (sent_s - due_s)[: found.schedule.call_count - 1]  # it may go on a little longer
    # A busy machine makes some calls late; another rate would make most of them late, or early.
    assert np.median(late_s) - late_s.min() < 0.1


@needs_ghz
async def test_ghz_itself_waits_for_nothing_when_a_server_stalls(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    payloads.write(Path("build/loadtest"), Path("model_repository"))
    async with SlowServer() as server:
        server.open.clear()
        document = _similarity(server) | {"rps": 50, "duration": "1s", "concurrency": 4, "timeout": "30s"}
        running = asyncio.create_task(Tool().run(document, folder, "t"))
        async with asyncio.timeout(30):
            while len(server.requests) < 40:  # noqa: ASYNC110 - polls what has no event
                await asyncio.sleep(0.01)
        server.open.set()
        found = await running
    assert found.statuses == {"OK": found.count}


def _similarity(server: SlowServer) -> dict[str, Any]:
    return config.read(ROOT / "deploy/ghz/similarity.toml") | {"host": server.address, "timeout": "10s"}


def test_a_report_of_ghz_can_be_judged_on_its_own(folder: Path) -> None:
    path = folder / "report.json"
    path.write_text(json.dumps(ghz_report([(3.0, "OK")] * 2000, duration_s=20)))
    limits = str(ROOT / "deploy" / "slo.toml")
    status, said = load_test(folder, "gate", str(path), "--target", "similarity", "--limits", limits)
    assert status == 0, said
    path.write_text(json.dumps(ghz_report([(300.0, "OK")] * 2000, duration_s=20)))
    status, said = load_test(folder, "gate", str(path), "--target", "similarity", "--limits", limits)
    assert status == 1
    assert "VIOLATED p99: 300.00 ms, the limit is <= 10 ms" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "nobody"), "target 'nobody': give one of gaf_resnet, "),
        (("run", "similarity", "--rps", "0"), "argument --rps: '0' is no whole number above 0"),
        (("run", "similarity", "--schedule", "sine"), "schedule 'sine': give one of const, step, line"),
        (("run", "similarity", "--duration", "5"), "duration: '5' is no duration"),
        (("capacity", "similarity", "nobody"), "target 'nobody': give one of "),
        (("gate", "nowhere.json", "--target", "similarity"), "nowhere.json: No such file"),
    ],
)
def test_a_wrong_argument_is_one_line_before_anything_is_started(
    folder: Path, arguments: tuple[str, ...], says: str
) -> None:
    (folder / "deploy" / "slo.toml").symlink_to(ROOT / "deploy" / "slo.toml")
    status, said = load_test(folder, *arguments)
    assert says in said
    assert said.count("\n") == 1
    assert status in (1, 2)
