"""Triton queues whatever it is sent; so the SDK bounds what it sends, and sheds the rest."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np

from bench.context import Bench, UnavailableError, need
from bench.figures import Figure, quantile
from bench.in_process import window_of
from bench.overload_load import SHED, Calls
from bench.overload_result import TIMES, judge
from tradeserve_client.answers import Answer, Reason
from tradeserve_client.breaker import CircuitBreaker
from tradeserve_client.channel import Transport
from tradeserve_client.fan_out import CallGroup, FanOut, PendingCall
from tradeserve_client.inference import PreparedModel
from tradeserve_client.lane import Lane
from tradeserve_client.triton import TritonClient

MODEL = "gaf_resnet"  # the slowest that ships: milliseconds per window
_DEADLINE_S = 0.1
_CALL_S = 10.0
_LEAST_PER_S = 20.0
_CALLERS = 16
_FAILED = 13
# Of the time until the deadline, what the calls in flight may fill; the rest is for what varies.
_FILLED = 0.3


async def measure(bench: Bench) -> list[Figure]:
    """Offer ten times what Triton answers through the SDK, with a bound on the calls in flight.

    Raises:
        UnavailableError: There are no windows, or Triton does not answer.
    """
    windows = [window_of(raw) for raw, _ in bench.windows]
    if not windows:
        raise UnavailableError("no session recorded windows")
    seconds = bench.size.overload_s
    client = TritonClient(bench.triton, transport=Transport.HTTP2)
    try:
        if not await client.ready(_CALL_S):
            raise UnavailableError(f"no connection to Triton at {bench.triton}")
        contract = await client.contract(MODEL, timeout_s=_CALL_S)
        model = client.prepare(MODEL, contract.version, "window", windows[0].shape, contract.outputs)
        sustained = await _sustained(client, model, windows[0], seconds / 2)
        # So many keep Triton as busy as it was for the sustained rate; more would only wait.
        bound = max(1, min(_CALLERS, int(_FILLED * _DEADLINE_S * sustained)))
        lane = client.lane(MODEL, breaker=CircuitBreaker(time.monotonic_ns), max_in_flight=bound)
        stages = ((seconds / 2, sustained / 2), (seconds, TIMES * sustained), (seconds, sustained / 2))
        calls = await _load(lane, model, windows[0], stages)
    finally:
        await client.close()
    result = judge(calls, stages, sustained, _DEADLINE_S)
    shed = (calls.code == SHED) & (calls.due_s >= seconds / 2) & (calls.due_s < 1.5 * seconds)
    # From when it was asked for, not from when it was due: this process is the caller, and the clock is its own.
    shed_ms = ((calls.ended_s - calls.sent_s)[shed] * 1e3).tolist()
    offered = f"{result.offered_per_s / sustained:.1f} x {sustained:.0f}/s asked of the SDK, {bound} in flight at most"
    detail: dict[str, Any] = {"model": MODEL, "max_in_flight": bound, **result.detail}
    return [
        Figure("triton_shed_in_time", result.admitted_in_time, "share",
               f"{offered}: of the calls that were sent are answered within {_DEADLINE_S * 1e3:g} ms",
               {"definition": f"the bound is what reaches the sustained rate, {_CALLERS}, and at most {_FILLED:g} of "
                "the deadline times that rate", **detail}),
        Figure("triton_shed_admitted_p99_ms", result.admitted_p99_ms, "ms",
               f"{offered}: p99 of the calls that were answered", {"see": "triton_shed_in_time"}),
        Figure("triton_shed_refusal_p50_ms", quantile(shed_ms or [0.0], 0.5), "ms",
               f"{offered}: time until the caller has its NoAnswer(BUSY)", {"see": "triton_shed_in_time"}),
        Figure("triton_shed_refusal_p99_ms", quantile(shed_ms or [0.0], 0.99), "ms",
               f"{offered}: the same, p99", {"see": "triton_shed_in_time"}),
        Figure("triton_shed_goodput", result.goodput, "ratio",
               f"{offered}: answers in time against what Triton sustains", {"see": "triton_shed_in_time"}),
        Figure("triton_shed_recovery_ms", result.recovery_ms, "ms",
               "from the end of it to the first call since which, for 200 ms, 99 % are answered in time",
               {"recovered": result.recovered, "see": "triton_shed_in_time"}),
    ]  # fmt: skip


async def _sustained(client: TritonClient, model: PreparedModel, window: Any, seconds: float) -> float:
    lane = client.lane(MODEL, breaker=CircuitBreaker(time.monotonic_ns))
    fan_out, answered = FanOut(), 0
    end = time.perf_counter() + seconds

    async def ask() -> None:
        nonlocal answered
        while time.perf_counter() < end:
            with fan_out.group(fan_out.clock_ns() + int(_CALL_S * 1e9)) as group:
                need(await group.start(lane, model.request(window)).outcome())
            answered += 1

    await asyncio.gather(*(ask() for _ in range(_CALLERS)))
    return max(_LEAST_PER_S, answered / seconds)


async def _load(
    lane: Lane, model: PreparedModel, window: Any, stages: tuple[tuple[float, float], ...]
) -> Calls:
    """Ask at the rates of the stages, whether those before are answered or not; a call's deadline counts from then."""
    parts, at = [], 0.0
    for seconds, rate in stages:
        parts.append(at + np.arange(int(seconds * rate)) / rate)
        at += seconds
    calls = Calls(np.concatenate(parts))
    fan_out = FanOut()
    start_ns = fan_out.clock_ns() + 10_000_000

    async def ended(number: int, pending: PendingCall[Any], calls_of_it: CallGroup) -> None:
        with calls_of_it:
            outcome = await pending.outcome()
        calls.ended_s[number] = (fan_out.clock_ns() - start_ns) / 1e9
        if isinstance(outcome, Answer):
            calls.code[number] = 0
        else:
            calls.code[number] = 4 if outcome.reason is Reason.LATE else _FAILED

    async with asyncio.TaskGroup() as tasks:
        for number, due_s in enumerate(calls.due_s.tolist()):
            due_ns = start_ns + int(due_s * 1e9)
            wait_ns = due_ns - fan_out.clock_ns()
            if wait_ns > 0 or number % 8 == 7:  # answers are read also when every call is late
                await asyncio.sleep(max(0, wait_ns) / 1e9)
            asked_ns = fan_out.clock_ns()
            calls.sent_s[number] = (asked_ns - start_ns) / 1e9
            group = fan_out.group(asked_ns + int(_DEADLINE_S * 1e9))
            pending = group.start(lane, model.request(window))
            if pending.sent_ns:
                tasks.create_task(ended(number, pending, group))
            else:  # nine of ten: a task for each would leave Triton and its answers no core
                calls.ended_s[number] = (fan_out.clock_ns() - start_ns) / 1e9
                calls.code[number] = SHED
    return calls
