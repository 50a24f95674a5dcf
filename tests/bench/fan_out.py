"""Three models in parallel through the SDK, and what the SDK adds to a raw stub, on one Triton."""

from __future__ import annotations

import itertools
import shutil
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bench import machine
from bench.context import Bench, UnavailableError
from bench.figures import Figure, of_rounds, summary
from bench.in_process import InProcess, open_session, window_of
from local_stack import plan
from local_stack.plan import Options
from local_stack.process import StackError
from tradeserve_client.answers import Answer, Outcome
from tradeserve_client.breaker import CircuitBreaker
from tradeserve_client.channel import Transport
from tradeserve_client.fan_out import FanOut, Lane
from tradeserve_client.triton import INFER_METHOD, PreparedModel, TritonClient

# The third is the first once more under a name of its own: another model to Triton, with its own process.
MODELS: Mapping[str, str] = {"gaf_resnet": "gaf_resnet", "lstm_cnn": "lstm_cnn", "lstm_cnn_copy": "lstm_cnn"}
_SINGLE = "lstm_cnn"
_WARM_UP = 30
_DEADLINE_NS = 1_000_000_000  # far away: this measures time, not lateness
_CONTRACT_S = 5.0

Window = NDArray[np.float32]
Measured = Callable[[Window], Awaitable[Any]]


async def measure(bench: Bench, local: InProcess) -> list[Figure]:
    """Call three models of a Triton of this section's own, every way in turn on every window.

    Raises:
        UnavailableError: There are no windows, Triton can't run here, or a call failed.
    """
    windows = [window_of(raw) for raw, _ in bench.windows]
    if not windows:
        raise UnavailableError("no session recorded windows")
    folder = bench.folder / "fan_out"
    repository = _repository(folder)
    try:
        triton = plan.triton(Options(model_repository=repository), folder)
        await triton.start()
    except StackError as error:
        raise UnavailableError(str(error)) from error
    try:
        async with AsyncExitStack() as stack:
            ways = await _ways(triton.address, repository, windows, stack)
            times = await _measure(ways, windows, bench.size.fan_outs)
            server = await _server_times(triton.address, stack)
    finally:
        await triton.stop()
    return _figures(times, server, bench.size.rounds)


def _repository(folder: Path) -> Path:
    """Return a repository of three models, made of the two that ship."""
    repository = folder / "models"
    for name, original in MODELS.items():
        shutil.copytree(Path("model_repository") / original, repository / name)
        for config in (repository / name).rglob("*.pbtxt"):
            config.write_text(config.read_text().replace(f'name: "{original}"', f'name: "{name}"', 1))
    return repository


async def _ways(
    address: str, repository: Path, windows: Sequence[Window], stack: AsyncExitStack
) -> dict[str, Measured]:
    sessions = {name: open_session(repository / name) for name in MODELS}

    async def in_process(window: Window) -> None:
        for session in sessions.values():
            session.run(None, {"window": window})

    ways: dict[str, Measured] = {"in_process": in_process}
    for transport in Transport:
        client = TritonClient(address, transport=transport)
        stack.push_async_callback(client.close)
        if not await client.ready(_CONTRACT_S):
            raise UnavailableError(f"no connection to {address}")
        models = {}
        for name in MODELS:
            contract = await client.contract(name, timeout_s=_CONTRACT_S)
            models[name] = client.prepare(
                name, contract.version, "window", windows[0].shape, contract.outputs
            )
        ways |= _ways_of(client, models, transport.value, windows)
    return ways


def _ways_of(
    client: TritonClient, models: Mapping[str, PreparedModel], transport: str, windows: Sequence[Window]
) -> dict[str, Measured]:
    lanes = {name: client.lane(name, breaker=CircuitBreaker(time.monotonic_ns)) for name in models}
    fan_out = FanOut()
    raw = client.link.channel.unary_unary(INFER_METHOD)
    # Prebuilt: whoever calls with a raw stub is given the whole request.
    bodies = {
        id(window): {name: model.request(window).body for name, model in models.items()} for window in windows
    }

    async def together(window: Window) -> None:
        with fan_out.group(fan_out.clock_ns() + _DEADLINE_NS) as group:
            pending = [group.start(lanes[name], model.request(window)) for name, model in models.items()]
            for call in pending:
                _need(await call.outcome())

    async def raw_together(window: Window) -> None:
        calls = [raw(body, timeout=1.0) for body in bodies[id(window)].values()]
        for call in calls:
            await call

    async def single(window: Window) -> None:
        await _call(fan_out, lanes[_SINGLE], models[_SINGLE], window)

    async def infer(window: Window) -> None:
        _need(await client.infer(_SINGLE, {"window": window}, budget=1.0))

    async def raw_single(window: Window) -> None:
        await raw(bodies[id(window)][_SINGLE], timeout=1.0)

    ways = {
        "fan_out": together,
        "raw_fan_out": raw_together,
        "single": single,
        "infer": infer,
        "raw_single": raw_single,
    }
    return {f"{name}_{transport}": way for name, way in ways.items()}


async def _call(fan_out: FanOut, lane: Lane, model: PreparedModel, window: Window) -> None:
    with fan_out.group(fan_out.clock_ns() + _DEADLINE_NS) as group:
        _need(await group.start(lane, model.request(window)).outcome())


def _need(outcome: Outcome[Any]) -> None:
    if not isinstance(outcome, Answer):
        raise UnavailableError(f"{outcome.call.service} did not answer: {outcome.reason}: {outcome.detail}")


async def _measure(
    ways: Mapping[str, Measured], windows: Sequence[Window], count: int
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = defaultdict(list)
    names = list(ways)
    for number, window in zip(range(-_WARM_UP, count), itertools.cycle(windows), strict=False):
        # Who comes after whom changes, so that nobody always finds the caches of the same other.
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            began = time.perf_counter_ns()
            await ways[name](window)
            took_ms = (time.perf_counter_ns() - began) / 1e6
            if number >= 0:
                times[name].append(took_ms)
    return times


async def _server_times(address: str, stack: AsyncExitStack) -> dict[str, dict[str, float]]:
    """Return what Triton says of its own time: means in milliseconds per model."""
    client = TritonClient(address)
    stack.push_async_callback(client.close)
    stub = service_pb2_grpc.GRPCInferenceServiceStub(client.link.channel)
    spans = {"whole": "success", "queue": "queue", "compute": "compute_infer", "output": "compute_output"}
    found = {}
    for name in MODELS:
        request = service_pb2.ModelStatisticsRequest(name=name)
        statistics = (await stub.ModelStatistics(request, timeout=_CONTRACT_S)).model_stats[0].inference_stats
        parts = {span: getattr(statistics, field) for span, field in spans.items()}
        found[name] = {span: round(part.ns / 1e6 / max(1, part.count), 4) for span, part in parts.items()}
    return found


def _figures(
    times: Mapping[str, list[float]], server: Mapping[str, Mapping[str, float]], rounds: int
) -> list[Figure]:
    middle = {name: of_rounds(samples, rounds)["median"] for name, samples in times.items()}
    detail = {
        name: {**summary(samples), "rounds": of_rounds(samples, rounds)} for name, samples in times.items()
    }
    http2, grpc = Transport.HTTP2.value, Transport.GRPC.value
    local = middle["in_process"]
    fan_out = {
        "definition": f"{', '.join(MODELS)} in parallel through CallGroup over the http2 transport, over the same "
        "three with onnxruntime (1 thread) one after the other in process; medians of rounds, interleaved. "
        "lstm_cnn_copy is lstm_cnn under another name, in a process of its own",
        "backend": machine.triton_backend(),
        "over_grpc": round(middle[f"fan_out_{grpc}"] / local, 4),
        "floor_raw_http2": round(middle[f"raw_fan_out_{http2}"] / local, 4),
        "floor_raw_grpc": round(middle[f"raw_fan_out_{grpc}"] / local, 4),
        "triton_says_mean_ms": server,
        "ms": detail,
    }
    sdk = {
        "definition": f"{_SINGLE} through TritonClient.infer over grpc.aio, over the median of a raw grpc.aio call "
        "with the same prebuilt bytes on the same Triton; medians of rounds, interleaved",
        "prepared_over_grpc": round(middle[f"single_{grpc}"] / middle[f"raw_single_{grpc}"], 4),
        "infer_over_http2_vs_raw_http2": round(middle[f"infer_{http2}"] / middle[f"raw_single_{http2}"], 4),
        "prepared_over_http2_vs_raw_http2": round(
            middle[f"single_{http2}"] / middle[f"raw_single_{http2}"], 4
        ),
        "prepared_over_http2_vs_raw_grpc": round(middle[f"single_{http2}"] / middle[f"raw_single_{grpc}"], 4),
    }
    together, one, raw = middle[f"fan_out_{http2}"], middle[f"infer_{grpc}"], middle[f"raw_single_{grpc}"]
    return [
        Figure(
            "fan_out_vs_in_process_p50",
            together / local,
            "ratio",
            f"three models in parallel {together:.2f} ms, one after the other in process {local:.2f} ms",
            fan_out,
        ),
        Figure(
            "sdk_vs_raw_stub_p50",
            one / raw,
            "ratio",
            f"TritonClient.infer {one:.3f} ms, a raw stub {raw:.3f} ms",
            sdk,
        ),
    ]
