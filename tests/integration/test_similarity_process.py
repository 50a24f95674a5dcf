import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import similarity_server
from fakes.similarity_index import state_arrays, unit_vectors, write_index
from similarity_server.gpu import gpu_count
from tradeserve.similarity.v1 import similarity_service_pb2 as pb
from tradeserve.similarity.v1 import similarity_service_pb2_grpc as pb_grpc

DEADLINE_S = 60.0
PACKAGED = Path(similarity_server.__file__).parent / "indexes"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "similarity_server", *map(str, arguments)]


@contextlib.contextmanager
def running(ready: Path, *arguments: object) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Start the server; yield the process and what its ready file says."""
    process = subprocess.Popen(
        command("--ready-file", ready, *arguments),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        until = time.monotonic() + DEADLINE_S
        while not ready.exists():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < until, "no ready file"
            time.sleep(0.02)
        yield process, json.loads(ready.read_text())
    finally:
        process.kill()
        process.communicate()


def failed(*arguments: object) -> tuple[int, list[str]]:
    """Run a server that cannot start; return its exit status and the lines of errors."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()


@pytest.fixture
def indexes(tmp_path: Path) -> Path:
    write_index(tmp_path / "indexes", state_arrays(200, 16))
    return tmp_path / "indexes"


def request(dimension: int = 16, count: int = 5) -> pb.SearchNeighborsRequest:
    query = unit_vectors(np.random.default_rng(3), 1, dimension)[0]
    return pb.SearchNeighborsRequest(
        request_id="r", index_name="market_states", embedding_f32=query.tobytes(), neighbor_count=count
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_starts_serves_and_drains_on_a_signal(
    tmp_path: Path, indexes: Path, number: signal.Signals
) -> None:
    ready = tmp_path / "ready.json"
    with running(ready, "--indexes", indexes, "--log-format", "json") as (process, content):
        assert content["pid"] == process.pid
        assert content["index"] == {
            "name": "market_states",
            "version": 1,
            "state_count": 200,
            "dimension": 16,
        }
        with grpc.insecure_channel(content["address"]) as channel:
            answer = pb_grpc.SimilarityServiceStub(channel).SearchNeighbors(request(), timeout=DEADLINE_S)
            assert len(answer.neighbors) == 5
        process.send_signal(number)
        _, logged = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0
        assert not ready.exists()
        events = [json.loads(line)["event"] for line in logged.splitlines()]
        assert events == ["index loaded", "serving", "draining", "stopped"]


async def test_a_signal_ends_open_streams_with_unavailable_after_what_was_answered(
    tmp_path: Path, indexes: Path
) -> None:
    with running(tmp_path / "ready.json", "--indexes", indexes) as (process, content):
        async with grpc.aio.insecure_channel(content["address"]) as channel:
            health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await health.read()).status == health_pb2.HealthCheckResponse.SERVING
            stream = pb_grpc.SimilarityServiceStub(channel).StreamSearchNeighbors()
            await stream.write(pb.StreamSearchNeighborsRequest(search=request()))
            assert len((await stream.read()).search.neighbors) == 5
            process.send_signal(signal.SIGTERM)
            assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.read()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert await asyncio.to_thread(process.wait, DEADLINE_S) == 0


async def test_a_restart_on_the_same_port_is_picked_up_by_the_same_channel(
    tmp_path: Path, indexes: Path
) -> None:
    ready = tmp_path / "ready.json"
    with running(ready, "--indexes", indexes) as (process, content):
        channel = grpc.aio.insecure_channel(
            content["address"], options=[("grpc.max_reconnect_backoff_ms", 200)]
        )
        stub = pb_grpc.SimilarityServiceStub(channel)
        assert len((await stub.SearchNeighbors(request())).neighbors) == 5
        process.kill()
        process.wait()
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.SearchNeighbors(request(), timeout=1.0)
    port = content["address"].rpartition(":")[2]
    ready.unlink()
    with running(ready, "--indexes", indexes, "--port", port):
        answer = await stub.SearchNeighbors(request(), timeout=DEADLINE_S, wait_for_ready=True)
        assert len(answer.neighbors) == 5
        await channel.close()


def test_a_port_in_use_is_one_clear_line(indexes: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, lines = failed("--indexes", indexes, "--port", port, "--log-level", "error")
        assert status == 2
        assert lines == [
            (
                f"error: port {port} on 127.0.0.1 is in use: stop the process that listens there, "
                "or choose another --port (0 picks a free one)"
            )
        ]
        status, lines = failed("--indexes", indexes, "--metrics-port", port, "--log-level", "error")
        assert status != 0
        assert len(lines) == 1
        assert "choose another --metrics-port" in lines[0]


def test_a_missing_index_is_one_clear_line(tmp_path: Path) -> None:
    status, lines = failed("--indexes", tmp_path)
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith(f"error: no index 'market_states' in {tmp_path}: build it with `make models`")


def test_a_corrupt_index_is_one_clear_line(indexes: Path) -> None:
    path = indexes / "market_states" / "1" / "states.npz"
    os.truncate(path, path.stat().st_size // 2)
    status, lines = failed("--indexes", indexes)
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {path} has sha256 ")


def test_a_bad_option_is_one_clear_line(indexes: Path) -> None:
    status, lines = failed("--indexes", indexes, "--max-added", "many")
    assert status == 2
    assert lines == [("error: argument --max-added: 'many' is no count: give a whole number from 1 to 1000000 "
                     "(see similarity_server --help)")]  # fmt: skip


@pytest.mark.skipif(gpu_count() > 0, reason="FAISS sees a GPU here")
def test_a_gpu_that_is_not_there_is_one_clear_line(indexes: Path) -> None:
    status, lines = failed("--indexes", indexes, "--gpu")
    assert status == 1
    assert lines == [("error: --gpu: FAISS sees no GPU: install tradeserve[gpu] instead of [cpu] on a machine "
                     "with an NVIDIA GPU and its driver, or leave the option out")]  # fmt: skip


def test_help_says_what_is_not_durable() -> None:
    done = subprocess.run(command("--help"), capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert "lost at exit" in " ".join(done.stdout.split())


@pytest.mark.skipif(
    not PACKAGED.is_dir(), reason="the packaged index is not built yet: `make models` builds it"
)
def test_the_packaged_index_is_served(tmp_path: Path) -> None:
    with running(tmp_path / "ready.json") as (_, content):
        with grpc.insecure_channel(content["address"]) as channel:
            answer = pb_grpc.SimilarityServiceStub(channel).SearchNeighbors(
                request(content["index"]["dimension"]), timeout=DEADLINE_S
            )
        assert len(answer.neighbors) == 5
        assert content["index"]["state_count"] > 1000
