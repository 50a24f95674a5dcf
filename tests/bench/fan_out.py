"""Three models in parallel through the SDK, and what the SDK adds to a raw stub, on one Triton."""

from __future__ import annotations

import itertools
import random
import shutil
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tritonclient.grpc import service_pb2, service_pb2_grpc

from bench import machine
from bench.context import Bench, UnavailableError, need
from bench.decision_calls import Case, DecisionCalls, open_search
from bench.figures import Figure, of_rounds, summary
from bench.in_process import EMBEDDER, InProcess, open_session, window_of
from local_stack import plan
from local_stack.plan import Options
from local_stack.process import StackError
from tradeserve_client.breaker import CircuitBreaker
from tradeserve_client.channel import Transport
from tradeserve_client.fan_out import FanOut
from tradeserve_client.inference import PreparedModel
from tradeserve_client.search_stream import SearchStream
from tradeserve_client.triton import INFER_METHOD, TritonClient

# The third is the first once more under a name of its own: another model to Triton, with its own process.
MODELS: Mapping[str, str] = {"gaf_resnet": "gaf_resnet", "lstm_cnn": "lstm_cnn", "lstm_cnn_copy": "lstm_cnn"}
_SINGLE = "lstm_cnn"
_WARM_UP = 30
_DEADLINE_NS = 1_000_000_000  # far away: this measures time, not lateness
_CONTRACT_S = 5.0

Measured = Callable[[Case], Awaitable[Any]]


async def measure(bench: Bench, local: InProcess) -> list[Figure]:
    """Call three models of a Triton of this section's own, every way in turn on every window.

    Raises:
        UnavailableError: There are no windows, Triton can't run here, or a call failed.
    """
    cases = [Case(window_of(raw), event_ns) for raw, event_ns in bench.windows]
    if not cases:
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
            ways = await _ways(bench, local, triton.address, repository, cases, stack)
            times = await _measure(ways, cases, bench.size.fan_outs)
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
    bench: Bench,
    local: InProcess,
    address: str,
    repository: Path,
    cases: Sequence[Case],
    stack: AsyncExitStack,
) -> dict[str, Measured]:
    sessions = {name: open_session(repository / name) for name in MODELS}

    async def in_process(case: Case) -> None:
        for session in sessions.values():
            session.run(None, {"window": case.window})

    async def decision_in_process(case: Case) -> None:
        found = {name: session.run(None, {"window": case.window}) for name, session in sessions.items()}
        local.search(found[EMBEDDER], case.event_ns)

    ways: dict[str, Measured] = {"in_process": in_process, "decision_in_process": decision_in_process}
    for transport in Transport:
        client = TritonClient(address, transport=transport)
        stack.push_async_callback(client.close)
        if not await client.ready(_CONTRACT_S):
            raise UnavailableError(f"no connection to {address}")
        models = {}
        for name in MODELS:
            contract = await client.contract(name, timeout_s=_CONTRACT_S)
            models[name] = client.prepare(
                name, contract.version, "window", cases[0].window.shape, contract.outputs
            )
        stream = await open_search(bench.similarity, transport, stack)
        ways |= _ways_of(client, models, stream, transport.value, cases)
    return ways


def _ways_of(
    client: TritonClient,
    models: Mapping[str, PreparedModel],
    stream: SearchStream,
    transport: str,
    cases: Sequence[Case],
) -> dict[str, Measured]:
    lanes = {name: client.lane(name, breaker=CircuitBreaker(time.monotonic_ns)) for name in models}
    fan_out = FanOut()
    decision = DecisionCalls(fan_out, lanes, models, stream, _DEADLINE_NS)
    raw = client.link.channel.unary_unary(INFER_METHOD)
    # Prebuilt: whoever calls with a raw stub is given the whole request.
    bodies = {
        id(case): {name: model.request(case.window).body for name, model in models.items()} for case in cases
    }

    async def together(case: Case) -> None:
        with fan_out.group(fan_out.clock_ns() + _DEADLINE_NS) as group:
            pending = [group.start(lanes[name], model.request(case.window)) for name, model in models.items()]
            for call in pending:
                need(await call.outcome())

    async def raw_together(case: Case) -> None:
        calls = [raw(body, timeout=1.0) for body in bodies[id(case)].values()]
        for call in calls:
            await call

    async def single(case: Case) -> None:
        with fan_out.group(fan_out.clock_ns() + _DEADLINE_NS) as group:
            need(await group.start(lanes[_SINGLE], models[_SINGLE].request(case.window)).outcome())

    async def infer(case: Case) -> None:
        need(await client.infer(_SINGLE, {"window": case.window}, budget=1.0))

    async def raw_single(case: Case) -> None:
        await raw(bodies[id(case)][_SINGLE], timeout=1.0)

    ways = {
        "fan_out": together,
        "raw_fan_out": raw_together,
        "decision": decision.ask,
        "single": single,
        "infer": infer,
        "raw_single": raw_single,
    }
    return {f"{name}_{transport}": way for name, way in ways.items()}


async def _measure(ways: Mapping[str, Measured], cases: Sequence[Case], count: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = defaultdict(list)
    names, order = list(ways), random.Random(7)
    for number, case in zip(range(-_WARM_UP, count), itertools.cycle(cases), strict=False):
        # Who comes after whom changes, so that nobody always finds the caches of the same other.
        order.shuffle(names)
        for name in names:
            began = time.perf_counter_ns()
            await ways[name](case)
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
    decision = {
        "definition": f"{', '.join(MODELS)} in parallel and, from {EMBEDDER}'s embedding, a search on a stream, all "
        "through the SDK over the http2 transport, over the same three with onnxruntime (1 thread) one after the "
        "other and then an exact FAISS search in process; medians of rounds, interleaved. From the socket to the "
        "order it is order_vs_in_process_p50",
        "backend": machine.triton_backend(),
        "over_grpc": round(middle[f"decision_{grpc}"] / middle["decision_in_process"], 4),
    }
    asked, here = middle[f"decision_{http2}"], middle["decision_in_process"]
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
            "decision_vs_in_process_p50",
            asked / here,
            "ratio",
            f"three models and a search {asked:.2f} ms, in process {here:.2f} ms",
            decision,
        ),
        Figure(
            "sdk_vs_raw_stub_p50",
            one / raw,
            "ratio",
            f"TritonClient.infer {one:.3f} ms, a raw stub {raw:.3f} ms",
            sdk,
        ),
    ]
