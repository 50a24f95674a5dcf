"""What an overload's calls are judged to have been."""

from __future__ import annotations

import numpy as np
import pytest

from bench.overload_load import NO_ANSWER, SHED, Calls
from bench.overload_result import DEADLINE_EXCEEDED, OK, RESOURCE_EXHAUSTED, Result, judge

DEADLINE_S = 0.1
STAGES = ((1.0, 10.0), (1.0, 100.0), (1.0, 10.0))


def made(code: list[int], took_s: float = 0.01, late_s: float = 0.0) -> Calls:
    """Calls of the three stages, of which the overload's end as told, the others in time."""
    due_s = np.concatenate([np.arange(10) / 10, 1 + np.arange(len(code)) / 100, 2 + np.arange(10) / 10])
    calls = Calls(due_s)
    calls.code[:] = OK
    calls.code[10 : 10 + len(code)] = code
    calls.sent_s = due_s + late_s
    calls.ended_s = calls.sent_s + took_s
    return calls


def judged(calls: Calls) -> Result:
    return judge(calls, STAGES, 10.0, DEADLINE_S)


def test_calls_that_are_neither_refused_nor_shed_count_as_admitted() -> None:
    calls = made([OK] * 6 + [DEADLINE_EXCEEDED, NO_ANSWER] + [RESOURCE_EXHAUSTED] * 80 + [SHED] * 12)
    result = judged(calls)
    assert result.admitted_in_time == pytest.approx(6 / 8)
    assert result.refused_share == pytest.approx(80 / 88)


def test_an_answer_behind_the_deadline_is_admitted_and_not_in_time() -> None:
    calls = made([OK, OK])
    calls.ended_s[10] += DEADLINE_S
    assert judged(calls).admitted_in_time == pytest.approx(0.5)


def test_what_the_load_itself_is_late_is_told_and_not_blamed_on_the_server() -> None:
    result = judged(made([OK] + [RESOURCE_EXHAUSTED] * 99, took_s=0.002, late_s=0.2))
    assert result.admitted_in_time == 1.0
    assert result.refusal_p99_ms == pytest.approx(2.0)
    assert result.detail["load_was_late_ms"]["p50"] == pytest.approx(200.0)


def test_recovery_lasts_until_the_first_call_since_which_all_are_in_time() -> None:
    calls = made([RESOURCE_EXHAUSTED] * 100)
    assert judged(calls).recovered
    assert judged(calls).recovery_ms == pytest.approx(0.0)
    calls.code[110:113] = RESOURCE_EXHAUSTED
    assert judged(calls).recovery_ms == pytest.approx(300.0)
    calls.code[110:] = RESOURCE_EXHAUSTED
    assert not judged(calls).recovered
    assert judged(calls).recovery_ms == pytest.approx(1000.0)
