"""What an overload did to the callers; pure.

Times count from when a call was made, not from when it was due: the load's process shares its cores with the server,
and what it is late itself (`load_was_late_ms`) says nothing of the server. Whatever keeps a call from the socket once
it was made does count.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.figures import quantile, summary
from bench.overload_load import NO_ANSWER, SHED, Calls

TIMES = 10
OK, CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 0, 1, 4, 8
_WINDOW_S = 0.2
_RECOVERED = 0.99


@dataclass(frozen=True, slots=True)
class Result:
    """One overload.

    Attributes:
        sustained_per_s: What the server answers per second without overload.
        offered_per_s: Calls that were made per second of the overload.
        seconds: Of the overload.
        deadline_s: Of each call.
        admitted_in_time: Share of the calls that were not refused.
        admitted_p99_ms: Of those answered; 0 without any, as are the next two.
        refusal_p50_ms: Time to a refusal.
        refusal_p99_ms: The same.
        refused_share: Of the calls that reached the server.
        goodput: Answers in time per second over the sustained rate.
        recovery_ms: From the end of the overload to the first call since which, for 200 ms, 99 % of the calls are
            answered in time; the length of the quiet after it when it never recovered.
        recovered: Whether it did.
        detail: Everything behind it.
    """

    sustained_per_s: float
    offered_per_s: float
    seconds: float
    deadline_s: float
    admitted_in_time: float
    admitted_p99_ms: float
    refusal_p50_ms: float
    refusal_p99_ms: float
    refused_share: float
    goodput: float
    recovery_ms: float
    recovered: bool
    detail: dict[str, Any]


def judge(
    calls: Calls, stages: Sequence[tuple[float, float]], sustained_per_s: float, deadline_s: float
) -> Result:
    """Return what the second of three stages, the overload, did; and how the third began."""
    starts = np.cumsum([0.0, *(seconds for seconds, _ in stages)])
    before, during, after = (
        (calls.due_s >= first) & (calls.due_s < last) for first, last in itertools.pairwise(starts)
    )
    latency_s = calls.ended_s - calls.sent_s
    in_time = (calls.code == OK) & (latency_s <= deadline_s)
    seconds = stages[1][0]
    code = calls.code[during]
    ok, shed = code == OK, code == SHED
    refused = np.isin(code, (RESOURCE_EXHAUSTED, CANCELLED))
    admitted = int(np.sum(~refused & ~shed))
    latency_ms = latency_s[during] * 1e3
    refusal_ms = latency_ms[refused]
    lag_ms = (calls.sent_s - calls.due_s)[during] * 1e3
    ours = refused & (code == RESOURCE_EXHAUSTED)
    recovery_s, recovered = _recovery(calls.due_s[after] - starts[2], in_time[after], stages[2][0])
    return Result(
        sustained_per_s=sustained_per_s,
        offered_per_s=len(code) / seconds,
        seconds=seconds,
        deadline_s=deadline_s,
        admitted_in_time=_share(int(np.sum(in_time[during])), admitted),
        admitted_p99_ms=_quantile(latency_ms[ok].tolist(), 0.99),
        refusal_p50_ms=_quantile(refusal_ms.tolist(), 0.5),
        refusal_p99_ms=_quantile(refusal_ms.tolist(), 0.99),
        refused_share=_share(int(np.sum(refused)), int(np.sum(~shed))),
        goodput=float(np.sum(in_time[during])) / seconds / sustained_per_s,
        recovery_ms=recovery_s * 1e3,
        recovered=recovered,
        detail={
            "sustained_per_s": round(sustained_per_s, 1),
            "offered_per_s": round(len(code) / seconds, 1),
            "deadline_ms": deadline_s * 1e3,
            "seconds": seconds,
            "load_was_late_ms": summary(lag_ms[np.isfinite(lag_ms)].tolist()),
            "answered_in_time": int(np.sum(in_time[during])),
            "answered_late": int(np.sum(ok & ~in_time[during])),
            "refused_by_our_server": int(np.sum(ours)),
            "of_these_with_details": int(np.sum(calls.detailed[during][ours])),
            "cancelled_by_grpc_below_it": int(np.sum(code == CANCELLED)),
            "deadline_exceeded": int(np.sum(code == DEADLINE_EXCEEDED)),
            "without_answer": int(np.sum(code == NO_ANSWER)),
            "shed_by_the_caller": int(np.sum(shed)),
            "answer_ms": summary(latency_ms[ok].tolist()),
            "refusal_ms": summary(refusal_ms.tolist()),
            "refusal_since_it_was_due_ms": summary((refusal_ms + lag_ms[refused]).tolist()),
            "answered_in_time_before": round(_share(int(np.sum(in_time[before])), int(np.sum(before))), 4),
            "answered_in_time_after": round(_share(int(np.sum(in_time[after])), int(np.sum(after))), 4),
        },
    )


def _recovery(
    since_s: NDArray[np.float64], in_time: NDArray[np.bool_], length_s: float
) -> tuple[float, bool]:
    for first in since_s[since_s <= length_s - _WINDOW_S].tolist():
        inside = (since_s >= first) & (since_s < first + _WINDOW_S)
        if in_time[inside].mean() >= _RECOVERED:
            return float(first), True
    return length_s, False


def _quantile(samples: list[float], share: float) -> float:
    return quantile(samples, share) if samples else 0.0


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
