"""Calls timed around their deadline: is an answer ever used that came after it?"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.context import Bench, UnavailableError, need
from bench.figures import Figure, median
from bench.in_process import MODELS, InProcess, window_of
from tradeserve_client.alarm import ALARM_LEAD_NS
from tradeserve_client.answers import Answer, Outcome, Reason
from tradeserve_client.breaker import CircuitBreaker
from tradeserve_client.channel import Transport
from tradeserve_client.fan_out import FanOut
from tradeserve_client.inference import Inference, PreparedModel
from tradeserve_client.lane import Lane
from tradeserve_client.triton import TritonClient

_CONTRACT_S = 5.0
_PATIENT_NS = 1_000_000_000
_CALIBRATION = 60
_AT_ONCE = 2  # of each model
_NO_BREAKER = 2**31


async def measure(bench: Bench, local: InProcess) -> list[Figure]:
    """Send calls with a deadline near the usual time of an answer, with and without the alarm before it.

    Raises:
        UnavailableError: There are no windows, or Triton does not answer.
    """
    windows = [window_of(raw) for raw, _ in bench.windows]
    if not windows:
        raise UnavailableError("no session recorded windows")
    runs: dict[str, Counter[str]] = {}
    # Without its lead the alarm leaves late answers to the clock alone, which is the harder case.
    for transport in Transport:
        for alarm, lead_ns in (("with the alarm", ALARM_LEAD_NS), ("the clock alone", -_PATIENT_NS)):
            calls = bench.size.late_calls // (2 * len(Transport))
            runs[f"{transport.value}, {alarm}"] = await _run(bench.triton, transport, lead_ns, windows, calls)
    total = sum(runs.values(), Counter[str]())
    calls = total["answers in time"] + total["no answer"]
    detail = {
        "definition": "answers returned though their last byte came off the wire after their deadline, over calls "
        f"of {', '.join(MODELS)} with deadlines of 0.5 to 2 times the usual round trip, {_AT_ONCE} of each at once",
        "calls": calls,
        "runs": {name: dict(sorted(counts.items())) for name, counts in runs.items()},
    }
    late = total["answers that came late and were dropped"]
    says = f"of {calls} calls around their deadline; {late} answers came late and were dropped"
    return [Figure("late_answers_used", total["late answers used"], "count", says, detail)]


async def _run(
    address: str, transport: Transport, lead_ns: int, windows: Sequence[NDArray[np.float32]], count: int
) -> Counter[str]:
    counts: Counter[str] = Counter()

    def on_late(*_: Any) -> None:
        counts["answers that came late and were dropped"] += 1

    client = TritonClient(address, transport=transport)
    fan_out = FanOut(on_late=on_late, alarm_lead_ns=lead_ns)
    try:
        pairs = [await _way(client, name, windows[0]) for name in MODELS]
        usual_ns = await _usual_ns(fan_out, pairs, windows[0])
        dice = random.Random(7)
        number = 0
        while number < count:
            window = windows[number % len(windows)]
            deadline_ns = fan_out.clock_ns() + int(dice.uniform(0.5, 2.0) * usual_ns)
            for outcome, in_hand_ns in await _ask(fan_out, pairs * _AT_ONCE, window, deadline_ns):
                number += 1
                _count(outcome, in_hand_ns, counts)
    finally:
        await client.close()
    return counts


async def _way(client: TritonClient, name: str, window: NDArray[np.float32]) -> tuple[Lane, PreparedModel]:
    if not await client.ready(_CONTRACT_S):
        raise UnavailableError(f"no connection to {client.target}")
    contract = await client.contract(name, timeout_s=_CONTRACT_S)
    breaker = CircuitBreaker(time.monotonic_ns, failure_count=_NO_BREAKER)
    model = client.prepare(name, contract.version, "window", window.shape, contract.outputs)
    return client.lane(name, breaker=breaker), model


async def _usual_ns(
    fan_out: FanOut, pairs: Sequence[tuple[Lane, PreparedModel]], window: NDArray[np.float32]
) -> float:
    trips = []
    for _ in range(_CALIBRATION):
        for outcome, _ in await _ask(fan_out, [*pairs] * _AT_ONCE, window, fan_out.clock_ns() + _PATIENT_NS):
            need(outcome)
            trips.append(outcome.call.round_trip_ns)
    return median(trips)


async def _ask(
    fan_out: FanOut,
    pairs: Sequence[tuple[Lane, PreparedModel]],
    window: NDArray[np.float32],
    deadline_ns: int,
) -> list[tuple[Outcome[Inference], int]]:
    """Return each outcome, and when the caller had it in hand."""
    with fan_out.group(deadline_ns) as group:
        pending = [group.start(lane, model.request(window)) for lane, model in pairs]
        return [(await call.outcome(), fan_out.clock_ns()) for call in pending]


def _count(outcome: Outcome[Inference], in_hand_ns: int, counts: Counter[str]) -> None:
    if isinstance(outcome, Answer):
        counts["answers in time"] += 1
        late_us = (in_hand_ns - outcome.call.deadline_ns) // 1000
        if late_us > 0:  # it had come off the wire before, while the caller was looking at another one
            counts["in time, but in hand after the deadline"] += 1
            longest = "in hand after the deadline, at most us"
            counts[longest] = max(counts[longest], late_us)
        counts["late answers used"] += outcome.call.received_ns > outcome.call.deadline_ns
    else:
        counts["no answer"] += 1
        counts[f"no answer: {outcome.reason.value}"] += 1
        if outcome.reason not in (Reason.LATE, Reason.NO_BUDGET):
            counts["other reasons than lateness"] += 1
