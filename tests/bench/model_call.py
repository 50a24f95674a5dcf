"""One call of a model through the SDK's hot path against the same model in this process, call by call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.context import Bench, UnavailableError, need
from bench.figures import Figure, median, of_rounds, summary
from bench.in_process import MODELS, InProcess, window_of
from tradeserve_client.breaker import CircuitBreaker
from tradeserve_client.channel import Transport
from tradeserve_client.fan_out import FanOut
from tradeserve_client.inference import PreparedModel
from tradeserve_client.lane import Lane
from tradeserve_client.triton import TritonClient

_HEADLINE = "lstm_cnn"
_WARM_UP = 50
_DEADLINE_NS = 1_000_000_000  # far away: this measures time, not lateness
_CONTRACT_S = 5.0


async def measure(bench: Bench, local: InProcess) -> list[Figure]:
    """Call every model on the recorded windows.

    Raises:
        UnavailableError: There are no windows, or a call failed.
    """
    windows = [window_of(raw) for raw, _ in bench.windows]
    if not windows:
        raise UnavailableError("no session recorded windows")
    client = TritonClient(bench.triton, transport=Transport.HTTP2)
    try:
        details = {name: await _compare(bench, local, client, name, windows) for name in MODELS}
    finally:
        await client.close()
    headline = details[_HEADLINE]
    says = f"{_HEADLINE} through the SDK {headline['sdk_ms']['p50']:.3f} ms, "
    says += f"in process {headline['in_process_ms']['p50']:.3f} ms"
    detail = {
        "definition": "median of one call through PreparedModel and CallGroup over the http2 transport "
        "on a local Triton, one client, "
        "over the median of onnxruntime (1 thread) in process, interleaved call by call on recorded windows",
        **details,
    }
    return [Figure("model_call_vs_in_process_p50", headline["ratio"], "ratio", says, detail)]


async def _compare(
    bench: Bench, local: InProcess, client: TritonClient, name: str, windows: list[NDArray[np.float32]]
) -> dict[str, Any]:
    contract = await client.contract(name, timeout_s=_CONTRACT_S)
    prepared = client.prepare(name, contract.version, "window", windows[0].shape, contract.outputs)
    lane = client.lane(name, breaker=CircuitBreaker(time.monotonic_ns))
    fan_out = FanOut()
    remote_ms: list[float] = []
    local_ms: list[float] = []
    for number in range(-_WARM_UP, bench.size.calls):
        window = windows[number % len(windows)]
        # Who goes first changes, so that neither always finds the caches of the other.
        if number % 2:
            here = _timed(local.run, name, window)
            there = await _call(fan_out, lane, prepared, window)
        else:
            there = await _call(fan_out, lane, prepared, window)
            here = _timed(local.run, name, window)
        if number >= 0:
            remote_ms.append(there)
            local_ms.append(here)
    rounds = bench.size.rounds
    return {
        "ratio": round(median(remote_ms) / median(local_ms), 4),
        "sdk_ms": summary(remote_ms),
        "in_process_ms": summary(local_ms),
        "sdk_ms_rounds": of_rounds(remote_ms, rounds),
        "in_process_ms_rounds": of_rounds(local_ms, rounds),
    }


def _timed(
    run: Callable[[str, NDArray[np.float32]], object], name: str, window: NDArray[np.float32]
) -> float:
    began = time.perf_counter_ns()
    run(name, window)
    return (time.perf_counter_ns() - began) / 1e6


async def _call(fan_out: FanOut, lane: Lane, model: PreparedModel, window: NDArray[np.float32]) -> float:
    began = time.perf_counter_ns()
    with fan_out.group(fan_out.clock_ns() + _DEADLINE_NS) as group:
        outcome = await group.start(lane, model.request(window)).outcome()
    took_ms = (time.perf_counter_ns() - began) / 1e6
    need(outcome)
    return took_ms
