"""Our load generator against real sockets: what it sends, and what it says of it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from fakes.slow_server import SlowServer
from load_test import config, generator, messages, payloads, report
from load_test.generator import OpenLoop
from load_test.report import Outcome
from local_stack import plan

ROOT = Path(__file__).parents[2]
PATH = "/a.B/C"


def settings(address: str, **changes: Any) -> config.LoadConfig:
    keys = {"host": address, "call": "a.B/C", "protoset": "unused", "data": {}, "insecure": True, "rps": 100}
    keys |= {"duration": "500ms", "timeout": "10s", "concurrency": 1000}
    return config.parse({**keys, **{key.replace("_", "-"): value for key, value in changes.items()}}, "test")


async def run(address: str, sent: list[bytes] | None = None, **changes: Any) -> Outcome:
    return await OpenLoop(settings(address, **changes), PATH, sent or [b""]).run()


async def test_every_call_is_made_once_in_turn_with_its_deadline_and_metadata() -> None:
    async with SlowServer() as server:
        found = await run(server.address, [b"\n\x01a", b"\n\x01b"], metadata={"X-Desk": "one"}, connections=3)
        assert found.status == ["OK"] * 50
        assert found.error == [""] * 50
        assert sorted(server.requests) == sorted([b"\n\x01a", b"\n\x01b"] * 25)
        assert ("x-desk", "one") in [tuple(pair) for pair in server.metadata]
        assert all(0 < left_s < 10.5 for left_s in server.remaining_s)  # grpc rounds it up on the wire
        assert (found.latency_ns >= found.lag_ns).all()
        assert (found.lag_ns >= 0).all()
        assert found.end_reason == "normal"


async def test_a_server_that_stalls_shows_in_the_latency_of_every_call_due_meanwhile() -> None:
    async with SlowServer() as server:
        server.open.clear()
        running = asyncio.create_task(run(server.address))
        async with asyncio.timeout(10):
            while len(server.requests) < 50:  # noqa: ASYNC110 - all are sent though none is answered
                await asyncio.sleep(0.005)
        server.open.set()
        found = await running
        assert found.status == ["OK"] * 50
        # All end together; so the earlier a call was due, the longer it took: 10 ms from one to the next.
        spacing_ms = -np.diff(found.latency_ns) / 1e6
        assert np.median(spacing_ms) == pytest.approx(10, abs=2)
        assert found.latency_ns[0] - found.latency_ns[-1] > 400e6


async def test_what_cannot_be_sent_is_an_error_in_words_and_never_waits() -> None:
    async with SlowServer() as server:
        server.open.clear()
        found = await run(server.address, concurrency=20, timeout="1s")
        assert found.status.count("DeadlineExceeded") == 20
        assert found.status.count(report.NOT_SENT) == 30
        assert set(found.error[20:]) == {"not sent: 20 calls were in flight (concurrency)"}
        assert len(server.requests) == 20
        assert (found.lag_ns[20:] == -1).all()


async def test_calls_whose_deadline_passed_before_they_could_be_sent_are_not_sent() -> None:
    async with SlowServer() as server:
        # A hundred thousand a second is beyond any Python process: most are late.
        found = await run(server.address, rps=100_000, duration="100ms", timeout="1ms", concurrency=100_000)
        late = [text for text in found.error if text.startswith("not sent: its deadline passed")]
        assert late
        assert len(found.status) == 10_000
        assert len(server.requests) <= 10_000 - len(late)


async def test_statuses_carry_ghzs_names() -> None:
    async with SlowServer() as server:
        server.refuse = grpc.StatusCode.RESOURCE_EXHAUSTED
        found = await run(server.address)
    assert set(found.status) == {"ResourceExhausted"}
    assert found.error[0] == "rpc error: code = ResourceExhausted desc = as the test wants"
    assert report.go_name(grpc.StatusCode.OK) == "OK"
    assert report.go_name(grpc.StatusCode.DEADLINE_EXCEEDED) == "DeadlineExceeded"


async def test_a_server_that_is_not_there_fails_every_call_and_the_run_ends() -> None:
    async with SlowServer() as server:
        address = server.address
    found = await run(address, connect_timeout="50ms", timeout="1s")
    assert set(found.status) <= {"Unavailable", "DeadlineExceeded"}
    assert len(found.status) == 50


async def test_a_run_can_be_ended_early_and_says_so() -> None:
    async with SlowServer() as server:
        load = OpenLoop(settings(server.address, duration="60s"), PATH, [b""])
        running = asyncio.create_task(load.run())
        async with asyncio.timeout(10):
            while len(server.requests) < 5:  # noqa: ASYNC110 - polls what has no event
                await asyncio.sleep(0.005)
        load.cancel()
        found = await asyncio.wait_for(running, 10)
        assert found.end_reason == "cancel"
        assert 5 <= len(found.status) < 6000
        assert set(found.status) == {"OK"}


async def test_what_is_written_is_read_again_the_same(tmp_path: Path) -> None:
    async with SlowServer() as server:
        used = settings(
            server.address, skipFirst=10, tags={"desk": "one"}, output=str(tmp_path / "a" / "r.json")
        )
        found = await OpenLoop(used, PATH, [b""]).run()
    generator.write(used, found)
    read = report.read(tmp_path / "a" / "r.json")
    assert read.tool == "our generator"
    assert (read.count, read.skip_first, read.sent_count) == (40, 10, 50)
    assert read.schedule.call_count == 50
    assert read.latency_ms.tolist() == pytest.approx((found.latency_ns[10:] / 1e6).tolist())
    assert np.diff(read.due_s) == pytest.approx(np.full(39, 0.01), abs=1e-5)
    raw = json.loads((tmp_path / "a" / "r.json").read_text())
    assert raw["tags"] == {"desk": "one"}
    assert sum(bucket["count"] for bucket in raw["histogram"]) == 40
    assert [entry["percentage"] for entry in raw["latencyDistribution"]] == [10, 25, 50, 75, 90, 95, 99]


async def test_the_shipped_similarity_config_is_answered_by_the_real_server(tmp_path: Path) -> None:
    payloads.write(tmp_path, ROOT / "model_repository")
    service = plan.similarity(tmp_path)
    await service.start()
    document = config.read(ROOT / "deploy" / "ghz" / "similarity.toml")
    document |= {
        "protoset": str(tmp_path / "similarity.protoset"),
        "binary-file": str(tmp_path / "similarity.bin"),
        "host": service.address,
        "rps": 50,
        "duration": "1s",
        "timeout": "10s",
    }
    try:
        used = config.parse(document, "similarity")
        call = messages.Call(used)
        found = await OpenLoop(used, call.path, call.payloads(used)).run()
    finally:
        await service.stop()
    assert found.status == ["OK"] * 50


async def test_the_command_runs_a_config_file_and_ends_on_a_signal(tmp_path: Path) -> None:
    payloads.write(tmp_path, ROOT / "model_repository")
    out = tmp_path / "report.json"
    async with SlowServer() as server:
        document = config.read(ROOT / "deploy" / "ghz" / "strategy.toml")
        document |= {
            "host": server.address,
            "protoset": str(tmp_path / "strategy.protoset"),
            "output": str(out),
        }
        document |= {"duration": "10m", "timeout": "10s"}
        path = tmp_path / "config.json"
        path.write_text(json.dumps(document))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "load_test", "generate", "--config", str(path)
        )
        async with asyncio.timeout(30):
            while len(server.requests) < 5:  # noqa: ASYNC110 - polls what has no event
                await asyncio.sleep(0.01)
            process.terminate()
            assert await process.wait() == 0
    assert report.read(out).end_reason == "cancel"
    assert report.read(out).statuses == {"OK": report.read(out).count}


@pytest.mark.parametrize(
    ("content", "says"),
    [("rpm = 1", "rpm is no key of ghz; did you mean rps?"), ("rps = 1", "host: is missing")],
)
def test_the_command_names_the_key_that_is_wrong_in_one_line(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(content)
    done = subprocess.run(
        [sys.executable, "-m", "load_test", "generate", "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr == f"error: {path}: {says}\n"
