"""Triton with our backend against ONNX Runtime in this process: one client, many, and the STAC-ML shapes."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import machine
from bench.context import Bench, UnavailableError, need
from bench.figures import Figure, median, of_rounds, quantile, summary
from bench.in_process import InProcess, open_session, window_of
from bench.stac_models import STAC_MODELS, StacModel, write_repository
from local_stack import plan
from local_stack.plan import Options
from local_stack.process import StackError
from tradeserve_client.breaker import CircuitBreaker
from tradeserve_client.channel import Transport
from tradeserve_client.contract import TensorSpec
from tradeserve_client.fan_out import FanOut
from tradeserve_client.inference import PreparedModel
from tradeserve_client.lane import Lane
from tradeserve_client.triton import INFER_METHOD, TritonClient

_MODEL = "lstm_cnn"
_CLIENTS = 64
_WARM_UP = 50
_DEADLINE_NS = 5_000_000_000  # far away: this measures time, not lateness
_CALL_S = 5.0
_LOAD_S = 1.0

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Pair:
    """Round trips through Triton and runs in process, taken in turn, in milliseconds."""

    remote_ms: list[float]
    local_ms: list[float]

    def ratio(self, share: float) -> float:
        return quantile(self.remote_ms, share) / quantile(self.local_ms, share)

    def detail(self, rounds: int) -> dict[str, Any]:
        return {
            "triton_ms": summary(self.remote_ms),
            "in_process_ms": summary(self.local_ms),
            "triton_ms_rounds": of_rounds(self.remote_ms, rounds),
            "in_process_ms_rounds": of_rounds(self.local_ms, rounds),
        }


async def measure(bench: Bench, local: InProcess) -> list[Figure]:
    """Ask one model of the running Triton, by one client and by 64 at once.

    Raises:
        UnavailableError: There are no windows, or a call failed.
    """
    windows = [window_of(raw) for raw, _ in bench.windows]
    if not windows:
        raise UnavailableError("no session recorded windows")
    client = TritonClient(bench.triton, transport=Transport.HTTP2)
    try:
        if not await client.ready(_CALL_S):
            raise UnavailableError(f"no connection to Triton at {bench.triton}")
        contract = await client.contract(_MODEL, timeout_s=_CALL_S)
        prepared = client.prepare(_MODEL, contract.version, "window", windows[0].shape, contract.outputs)

        def run(window: Array) -> object:
            return local.run(_MODEL, window)

        pair = await _in_turn(client, prepared, run, windows, bench.size.calls)
        throughput = await _throughput(client, prepared, run, windows, bench.size.rounds)
    finally:
        await client.close()
    return [_one_client(pair, bench.size.rounds), _many_clients(*throughput)]


async def measure_stac(bench: Bench, _: InProcess) -> list[Figure]:
    """Ask the LSTMs of STAC-ML Markets (Inference) in a Triton of their own.

    Raises:
        UnavailableError: The graphs can't be made, Triton can't run here, or a call failed.
    """
    folder = bench.folder / "stac"
    folder.mkdir()
    repository = write_repository(folder / "models")
    try:
        triton = plan.triton(Options(model_repository=repository), folder)
        await triton.start()
    except StackError as error:
        raise UnavailableError(str(error)) from error
    figures: list[Figure] = []
    try:
        client = TritonClient(triton.address, transport=Transport.HTTP2)
        try:
            await client.ready(_CALL_S)
            for model in STAC_MODELS:
                figures += await _stac(client, repository, model, bench)
        finally:
            await client.close()
    finally:
        await triton.stop()
    return figures


async def _stac(client: TritonClient, repository: Path, model: StacModel, bench: Bench) -> list[Figure]:
    shape = (1, model.steps, model.features)
    dice = np.random.default_rng(11)
    inputs = [dice.standard_normal(shape, np.float32) for _ in range(32)]
    output = TensorSpec("forecast", "FP32", (-1, 1))
    prepared = client.prepare(model.name, 1, "window", shape, (output,))
    session = open_session(repository / model.name)

    def run(window: Array) -> object:
        return session.run(None, {"window": window})

    calls = max(_WARM_UP, bench.size.calls // model.cost)
    pair = await _in_turn(client, prepared, run, inputs, calls)
    p99, ratio = quantile(pair.remote_ms, 0.99), pair.ratio(0.5)
    detail = {
        "definition": f"one call of a {model.layers} x {model.units} LSTM on a fresh window of {model.steps} x "
        f"{model.features} float32 (the whole window is sent and computed, as in STAC-ML's Sumaco suite; seeded "
        "random weights) through the SDK on a local Triton, one client, one thread per model",
        "parameters": model.parameter_count,
        "ratio_p50": round(ratio, 4),
        "ratio_p99": round(pair.ratio(0.99), 4),
        **pair.detail(bench.size.rounds),
    }
    says = f"{model.title}: p50 {median(pair.remote_ms):.3f} ms through Triton, "
    says += f"{median(pair.local_ms):.3f} ms in process (p99 {quantile(pair.local_ms, 0.99):.3f} ms)"
    return [
        Figure(f"{model.name}_p99_ms", p99, "ms", says, detail),
        Figure(f"{model.name}_vs_in_process_p50", ratio, "ratio", says, {"see": f"{model.name}_p99_ms"}),
    ]


async def _in_turn(
    client: TritonClient,
    prepared: PreparedModel,
    run: Callable[[Array], object],
    inputs: Sequence[Array],
    calls: int,
) -> _Pair:
    lane = client.lane(prepared.name, breaker=CircuitBreaker(time.monotonic_ns))
    fan_out = FanOut()
    pair = _Pair([], [])
    for number in range(-_WARM_UP, calls):
        window = inputs[number % len(inputs)]
        # Who goes first changes, so that neither always finds the caches of the other.
        if number % 2:
            here = _timed(run, window)
            there = await _call(fan_out, lane, prepared, window)
        else:
            there = await _call(fan_out, lane, prepared, window)
            here = _timed(run, window)
        if number >= 0:
            pair.remote_ms.append(there)
            pair.local_ms.append(here)
    return pair


def _timed(run: Callable[[Array], object], window: Array) -> float:
    began = time.perf_counter_ns()
    run(window)
    return (time.perf_counter_ns() - began) / 1e6


async def _call(fan_out: FanOut, lane: Lane, model: PreparedModel, window: Array) -> float:
    began = time.perf_counter_ns()
    with fan_out.group(fan_out.clock_ns() + _DEADLINE_NS) as group:
        outcome = await group.start(lane, model.request(window)).outcome()
    took_ms = (time.perf_counter_ns() - began) / 1e6
    need(outcome)
    return took_ms


async def _throughput(
    client: TritonClient,
    prepared: PreparedModel,
    run: Callable[[Array], object],
    windows: Sequence[Array],
    rounds: int,
) -> tuple[list[float], list[float]]:
    """Return answers per second of 64 concurrent callers and of one thread in process, per round."""
    bodies = [prepared.request(window).body for window in windows]
    method = client.link.channel.unary_unary(INFER_METHOD)
    remote: list[float] = []
    here: list[float] = []
    for _ in range(rounds):
        remote.append(await _remote_rate(method, bodies))
        here.append(_local_rate(run, windows))
    return remote, here


async def _remote_rate(method: Any, bodies: Sequence[bytes]) -> float:
    began = time.perf_counter()
    end = began + _LOAD_S
    answered = 0

    async def ask(caller: int) -> None:
        nonlocal answered
        number = caller
        while time.perf_counter() < end:
            await method(bodies[number % len(bodies)], timeout=_CALL_S)
            number += 1
            answered += 1

    async with asyncio.TaskGroup() as group:
        for caller in range(_CLIENTS):
            group.create_task(ask(caller))
    return answered / (time.perf_counter() - began)


def _local_rate(run: Callable[[Array], object], windows: Sequence[Array]) -> float:
    began = time.perf_counter()
    end = began + _LOAD_S
    count = 0
    while time.perf_counter() < end:
        run(windows[count % len(windows)])
        count += 1
    return count / (time.perf_counter() - began)


def _one_client(pair: _Pair, rounds: int) -> Figure:
    says = f"{_MODEL} through the SDK {median(pair.remote_ms):.3f} ms, "
    says += f"in process {median(pair.local_ms):.3f} ms"
    detail = {
        "definition": "median of one call through the SDK's own HTTP/2 transport on a local Triton with "
        f"{machine.triton_backend()}, one client, over the median of onnxruntime (1 thread) in process, in turn",
        **pair.detail(rounds),
    }
    return Figure("triton_vs_in_process_p50", pair.ratio(0.5), "ratio", says, detail)


def _many_clients(remote: Sequence[float], here: Sequence[float]) -> Figure:
    ratios = [there / local for there, local in zip(remote, here, strict=True)]
    says = f"{_CLIENTS} concurrent calls: {statistics.median(remote):.0f} answers/s through Triton, "
    says += f"{statistics.median(here):.0f} in process on one thread"
    detail = {
        "definition": f"answers per second of {_CLIENTS} callers in one process that each wait for their answer, "
        "over runs per second of onnxruntime (1 thread) in process; median of the rounds' ratios, in turn",
        "answers_per_second_rounds": [round(rate) for rate in remote],
        "runs_per_second_rounds": [round(rate) for rate in here],
        "ratio_rounds": [round(ratio, 3) for ratio in ratios],
    }
    return Figure(
        f"triton_{_CLIENTS}_vs_in_process_throughput", statistics.median(ratios), "ratio", says, detail
    )
