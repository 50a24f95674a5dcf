"""Ten times the rate that a server sustains: what is admitted is answered in time, the rest refused at once.

The load is an open loop in a process of its own (`overload_load`), and callers have deadlines. In front of
Triton, which is not ours and queues whatever it is sent, the SDK sheds (`overload_triton`).
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bench import overload_control, overload_load, overload_triton, similarity_data
from bench.context import Bench, UnavailableError
from bench.figures import Figure
from bench.in_process import InProcess
from bench.overload_load import ID, Calls, Plan
from bench.overload_result import TIMES, Result, judge
from bench.similarity import indexes_of
from local_stack.process import Service, StackError
from strategy.adapters.control import MAX_CALLS_PER_S
from tradeserve.similarity.v1 import similarity_service_pb2 as pb
from tradeserve.strategy.v1 import strategy_service_pb2 as strategy_pb

_SIMILARITY = "/tradeserve.similarity.v1.SimilarityService/"
_STRATEGY = "/tradeserve.strategy.v1.StrategyService/GetStatus"
_DEADLINE_S = 0.1
_CONNECTIONS = 8
_SDK_IN_FLIGHT = 32  # per stream, the SDK's default
_CALLERS = 4
# Every other instrument: the filtered search takes several milliseconds, so that ten times the sustained rate is
# what a generator on the same two cores can offer.
_CON_IDS = range(1, similarity_data.CON_IDS + 1, 2)
_LEAST_PER_S = 20.0
_NS = 1_000_000_000


async def measure(bench: Bench, local: InProcess) -> list[Figure]:
    """Overload the similarity server, a control service, and the SDK in front of Triton.

    Raises:
        UnavailableError: A server or the load can't be started.
    """
    del local
    size = bench.size
    indexes = await indexes_of(bench, size.similarity_states)
    control = Service("control-bench", [sys.executable, overload_control.__file__], bench.folder)
    command = [sys.executable, "-m", "similarity_server", "--indexes", str(indexes)]
    similarity = Service("similarity-overload", [*command, "--index", similarity_data.INDEX], bench.folder)
    services = (control, similarity)
    try:
        await asyncio.gather(*(service.start() for service in services))
        figures: list[Figure] = []
        calls = _searches(similarity.address, size.similarity_states, streams=False)
        sustained = await _sustained(calls, size.overload_s)
        for streams, name in ((False, "similarity_overload"), (True, "similarity_stream_overload")):
            plan = _searches(similarity.address, size.similarity_states, streams=streams)
            result = await _overloaded(plan, sustained, size.overload_s, similarity)
            figures += _figures(name, result, _ABOUT_SEARCH if not streams else _ABOUT_STREAM)
        status = strategy_pb.GetStatusRequest().SerializeToString()
        plan = Plan(control.address, _STRATEGY, (status,), (), _DEADLINE_S, _CONNECTIONS)
        result = await _overloaded(plan, float(MAX_CALLS_PER_S), size.overload_s, control)
        figures += _figures("strategy_overload", result, _ABOUT_CONTROL)
        return figures + await overload_triton.measure(bench)
    except StackError as error:
        raise UnavailableError(str(error)) from error
    finally:
        await asyncio.gather(*(service.stop() for service in services))


def _searches(address: str, states: int, *, streams: bool) -> Plan:
    queries = similarity_data.members(similarity_data.centers(states), 100, seed=404)
    payloads = []
    for query in queries:
        search = pb.SearchNeighborsRequest(
            request_id=ID.decode(), index_name=similarity_data.INDEX, embedding_f32=query.tobytes(),
            neighbor_count=10, con_ids=_CON_IDS,
        )  # fmt: skip
        message = pb.StreamSearchNeighborsRequest(search=search)
        message.remaining_duration.FromNanoseconds(int(_DEADLINE_S * _NS))
        payloads.append((message if streams else search).SerializeToString())
    method = "StreamSearchNeighbors" if streams else "SearchNeighbors"
    return Plan(
        address, _SIMILARITY + method, tuple(payloads), (), _DEADLINE_S, _CONNECTIONS,
        streams=streams, in_flight=_SDK_IN_FLIGHT if streams else 0,
    )  # fmt: skip


async def _sustained(plan: Plan, seconds: float) -> float:
    """Return the answers per second of a few callers that each wait for theirs."""
    patient = Plan(
        plan.address, plan.path, plan.payloads, ((seconds / 2, 0.0),), 2.0, _CALLERS,
        streams=plan.streams, callers=_CALLERS,
    )  # fmt: skip
    calls = await _loaded(patient)
    return max(_LEAST_PER_S, float(np.sum(calls.code == 0)) / (seconds / 2))


async def _overloaded(plan: Plan, sustained: float, seconds: float, server: Service) -> Result:
    usual = sustained / 2
    stages = ((seconds / 2, usual), (seconds, TIMES * sustained), (seconds, usual))
    before_s = _waited_for_a_core_s(server)
    calls = await _loaded(
        Plan(
            plan.address, plan.path, plan.payloads, stages, plan.deadline_s, plan.connections,
            streams=plan.streams, in_flight=plan.in_flight,
        )
    )  # fmt: skip
    result = judge(calls, stages, sustained, plan.deadline_s)
    # Says how quiet the machine was: whatever else runs on it makes the server wait.
    if before_s is not None and (after_s := _waited_for_a_core_s(server)) is not None:
        result.detail["server_waited_for_a_core_s"] = round(after_s - before_s, 3)
    return result


def _waited_for_a_core_s(server: Service) -> float | None:
    """Return how long the threads of a server were ready to run, and did not; None where no Linux tells."""
    tasks = Path(f"/proc/{server.ready['pid']}/task")
    try:
        return sum(int((task / "schedstat").read_text().split()[1]) for task in tasks.iterdir()) / _NS
    except OSError:
        return None


async def _loaded(plan: Plan) -> Calls:
    with tempfile.TemporaryDirectory(prefix="tradeserve-overload-") as folder:
        out = Path(folder) / "calls.npz"
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(Path(overload_load.__file__)), "--out", str(out),
            stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            _, failure = await process.communicate(plan.to_json().encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise UnavailableError(f"the load could not be made: {failure.decode()[-500:]}")
        return Calls.read(out)


_ABOUT_SEARCH = (
    "SearchNeighbors of ten neighbours among every other instrument, so that one search takes milliseconds"
)
_ABOUT_STREAM = (
    f"the same searches over {_CONNECTIONS} streams; a caller sheds what exceeds {_SDK_IN_FLIGHT} unanswered on its "
    "stream, as the SDK does, and the server refuses the rest"
)
_ABOUT_CONTROL = (
    f"GetStatus of a control service, which takes {MAX_CALLS_PER_S} calls/s: the event loop is the strategy's; that "
    "rate counts as what it sustains"
)


def _figures(name: str, result: Result, about: str) -> list[Figure]:
    detail: dict[str, Any] = {"about": about, **result.detail}
    times = result.offered_per_s / result.sustained_per_s
    offered = f"{times:.1f} x {result.sustained_per_s:.0f}/s offered for {result.seconds:g} s"
    return [
        Figure(f"{name}_admitted_in_time", result.admitted_in_time, "share",
               f"{offered}: of the calls that were not refused are answered within {result.deadline_s * 1e3:g} ms",
               {"definition": "calls answered OK within the deadline, counted from when they were made, over calls "
                "that were not refused (those without an answer are not refused)", **detail}),
        Figure(f"{name}_admitted_p99_ms", result.admitted_p99_ms, "ms",
               f"{offered}: p99 of the calls that were answered", {"see": f"{name}_admitted_in_time"}),
        Figure(f"{name}_refusal_p50_ms", result.refusal_p50_ms, "ms",
               f"{offered}: time until a caller knows that it is refused", {"see": f"{name}_refusal_p99_ms"}),
        Figure(f"{name}_refusal_p99_ms", result.refusal_p99_ms, "ms",
               f"{offered}: {result.refused_share:.1%} are refused", {
                "definition": "time from when a call was made until the caller's kernel has RESOURCE_EXHAUSTED from "
                "our server, or the CANCELLED that gRPC itself sends when too many calls wait to be taken in; what a "
                "caller shed itself does not count", **result.detail}),
        Figure(f"{name}_goodput", result.goodput, "ratio",
               f"{offered}: answers in time against what the server sustains", {"see": f"{name}_admitted_in_time"}),
        Figure(f"{name}_recovery_ms", result.recovery_ms, "ms",
               "from the end of the overload to the first call since which, for 200 ms, 99 % of the calls, at "
               "half of the sustained rate, are answered in time", {
                "recovered": result.recovered, "see": f"{name}_admitted_in_time"}),
    ]  # fmt: skip
