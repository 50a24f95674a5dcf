"""How a server of ours stops, and how it says that it serves."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fakes.gate import NAME, Gate, Start, failure_of
from server_runtime import errors
from server_runtime.server import GrpcServer, ServerOptions, Transport


async def test_a_drain_says_not_serving_finishes_what_is_in_flight_and_refuses_the_rest(
    start_gate: Start, tmp_path: Path
) -> None:
    one = await start_gate()
    watch = health_pb2_grpc.HealthStub(one.channel).Watch(health_pb2.HealthCheckRequest(service=NAME))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    held = one.call("Wait")
    await asyncio.wait_for(one.gate.waiting.acquire(), 10)
    stream = one.stream()
    await stream.write(b"1")
    assert await stream.read() == b"1"
    stopping = asyncio.create_task(one.server.stop())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    error = await failure_of(stream.read())
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert "shutting down" in error.details()
    assert not stopping.done()
    one.gate.opened.set()
    assert await held == b"open:x"
    began = time.monotonic()
    await stopping
    assert time.monotonic() - began < 8.0, "the watcher of the health must not hold the server"
    error = await failure_of(one.call("Wait", timeout=5.0))
    assert error.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_drain_finishes_the_message_a_stream_is_working_on(start_gate: Start) -> None:
    one = await start_gate()
    stream = one.stream()
    await stream.write(b"gate")
    await asyncio.wait_for(one.gate.waiting.acquire(), 10)
    stopping = asyncio.create_task(one.server.stop())
    one.gate.opened.set()
    assert await stream.read() == b"gate"
    assert (await failure_of(stream.read())).code() == grpc.StatusCode.UNAVAILABLE
    await stopping


async def test_a_drain_is_bounded_by_its_grace(start_gate: Start) -> None:
    one = await start_gate(grace_s=0.2)
    held = one.call("Wait")
    await asyncio.wait_for(one.gate.waiting.acquire(), 10)
    await asyncio.wait_for(one.server.stop(), 8)
    assert (await failure_of(held)).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


DRAINS = """
import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server_runtime.server import GrpcServer, ServerOptions, Transport


async def drain(grace_s: float) -> None:
    server = GrpcServer(ServerOptions(transport=Transport.GRPC, grace_s=grace_s))
    async with grpc.aio.insecure_channel(await server.start()) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        await server.stop()


async def main() -> None:
    for number in range(150):
        await drain(number * 1e-5)


asyncio.run(main())
"""


async def test_the_process_outlives_a_drain_whose_grace_ends_as_its_last_calls_do() -> None:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", DRAINS), stderr=asyncio.subprocess.DEVNULL
    )
    assert await child.wait() == 0


async def test_the_ready_file_is_there_while_the_server_serves(
    tmp_path: Path, server_transport: Transport
) -> None:
    ready = tmp_path / "ready.json"
    ready.write_text("of an earlier run")
    server = GrpcServer(ServerOptions(ready_file=ready, transport=server_transport))
    server.add_service(NAME, Gate().register)
    serving = asyncio.create_task(server.serve({"index": {"name": "x"}}))
    until = time.monotonic() + 10
    while not ready.exists() or not ready.read_text().startswith("{"):
        assert time.monotonic() < until
        await asyncio.sleep(0.01)
    content = json.loads(ready.read_text())
    assert content["address"] == server.address
    assert content["index"] == {"name": "x"}
    server.request_stop()
    await asyncio.wait_for(serving, 10)
    assert not ready.exists()


async def test_a_ready_file_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    server = GrpcServer(ServerOptions(ready_file=tmp_path / "missing" / "ready.json"))
    with pytest.raises(errors.StartError, match=r"--ready-file .* cannot be written"):
        await asyncio.wait_for(server.serve(), 10)
