"""The vision server over the HTTP API of a real vLLM that runs by itself."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench import vision
from fakes.charts_to_read import chart_query
from tradeserve.vision.v1 import chart_reading_service_pb2_grpc as rpc
from tradeserve_client.answers import Answer, NoAnswer, Reason
from tradeserve_client.chart_reading import ChartReading, ChartReadingClient
from vision_processes import (
    RunningVision,
    assert_cancelling_aborts,
    eventually,
    figures_at,
    free_port,
    needs_vllm,
    total,
    vision_on,
    vllm_api,
)

pytestmark = [pytest.mark.xdist_group("vision"), pytest.mark.timeout(400), pytest.mark.slow]

BUDGET_S = 60.0
SERVICE = "tradeserve.vision.v1.ChartReadingService"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    needs_vllm()
    with vllm_api(tmp_path_factory.mktemp("vllm")) as (url, _):
        yield url


@pytest.fixture(scope="module")
def over_http(api: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningVision]:
    with vision_on(tmp_path_factory.mktemp("over_http"), "--api-url", api) as running:
        yield running


async def read(address: str, seed: int) -> ChartReading:
    client = ChartReadingClient(address)
    try:
        outcome = await client.read_chart(chart_query(seed), budget=BUDGET_S)
    finally:
        await client.close()
    assert isinstance(outcome, Answer), outcome
    return outcome.value


async def test_both_backends_say_the_same_of_the_same_chart(
    over_http: RunningVision, real_vision: RunningVision
) -> None:
    assert over_http.ready["engine"].startswith("http://")
    for seed in range(20, 26):
        here, there = await read(real_vision.address, seed), await read(over_http.address, seed)
        assert here.record is not None
        assert there.record is not None
        assert here.record.raw_output == there.record.raw_output
        assert here.record.prompt_tokens == there.record.prompt_tokens
        assert here.model == there.model
        assert there.record.first_token_ns == -1, "the API does not tell"


async def test_a_call_that_is_cancelled_is_aborted_in_the_vllm_behind_the_api(
    api: str, over_http: RunningVision
) -> None:
    async with grpc.aio.insecure_channel(over_http.address) as channel:
        stub = rpc.ChartReadingServiceStub(channel)
        await assert_cancelling_aborts(stub, over_http.figures, lambda: figures_at(f"{api}/metrics"))


async def test_the_benchmark_measures_all_of_it(
    api: str, over_http: RunningVision, real_vision: RunningVision
) -> None:
    figures = await vision.compare(vision.Places(real_vision.address, over_http.address, api), 3, 2)
    assert {figure.name for figure in figures} == {
        "vision_p50_ms",
        "vision_first_token_p50_ms",
        "vision_rps_64",
        "vision_overhead",
    }
    assert all(math.isfinite(figure.value) and figure.value > 0 for figure in figures)


def failed(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "vision_server", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def test_an_api_that_serves_another_model_is_named(api: str) -> None:
    status, error = failed("--api-url", api, "--api-model", "qwen3-vl-4b")
    assert status == 1
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "serves chart_reader, not qwen3-vl-4b" in error


async def test_a_vllm_that_is_killed_in_mid_request_is_noticed_and_its_return_too(tmp_path: Path) -> None:
    needs_vllm()
    port = free_port()
    with (
        vllm_api(tmp_path / "first", port) as (url, pid),
        vision_on(tmp_path / "server", "--api-url", url) as running,
    ):
        client = ChartReadingClient(running.address)
        async with grpc.aio.insecure_channel(running.address) as channel:
            assert isinstance(await client.read_chart(chart_query(1), budget=BUDGET_S), Answer)
            asked = asyncio.create_task(client.read_chart(chart_query(2), budget=BUDGET_S))
            await eventually(lambda: at_work(running))
            os.killpg(pid, signal.SIGKILL)
            outcome = await asked
            assert isinstance(outcome, NoAnswer)
            assert outcome.reason is Reason.DOWN, outcome
            await eventually(lambda: is_serving(channel, False))
            with vllm_api(tmp_path / "again", port):
                await eventually(lambda: is_serving(channel, True), timeout_s=60)
                assert (await read(running.address, 3)).model.name
        await client.close()


async def at_work(running: RunningVision) -> bool:
    return total(await asyncio.to_thread(running.figures), "tradeserve_vision_running") >= 1


async def is_serving(channel: grpc.aio.Channel, wanted: bool) -> bool:
    request = health_pb2.HealthCheckRequest(service=SERVICE)
    answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=BUDGET_S)
    return bool((answer.status == health_pb2.HealthCheckResponse.SERVING) is wanted)
