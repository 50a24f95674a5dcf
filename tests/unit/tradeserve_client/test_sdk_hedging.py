from __future__ import annotations

import random

import pytest

from tradeserve_client.answers import Answer, CallRecord, NoAnswer, Outcome, Reason
from tradeserve_client.budget import Deadline, LatencyBudget, deadline_of
from tradeserve_client.hedging import MIN_SAMPLES, HedgeBudget, Hedging, LatencySample

MS = 1_000_000


def answered(*, sent_ms: int, received_ms: int, service: str = "m") -> Outcome[object]:
    return Answer("found", CallRecord(service, "id", sent_ms * MS, 1_000 * MS, received_ms * MS))


def late(*, sent_ms: int, deadline_ms: int) -> Outcome[object]:
    return NoAnswer(Reason.LATE, "", CallRecord("m", "id", sent_ms * MS, deadline_ms * MS, 0))


def taught(outcome: Outcome[object], began_ms: int) -> Hedging:
    hedging = Hedging(0.05, is_on=True)
    for _ in range(MIN_SAMPLES):
        hedging.note(outcome, began_ms * MS)
    return hedging


def test_no_percentile_is_claimed_from_few_calls() -> None:
    sample = LatencySample()
    for _ in range(MIN_SAMPLES - 1):
        sample.add(1_000)
    assert sample.p95_ns == 0
    sample.add(1_000)
    assert sample.p95_ns == 1_000


def test_the_percentile_is_that_of_the_recent_calls_only() -> None:
    sample = LatencySample()
    for _ in range(1_000):
        sample.add(50_000)
    dice = random.Random(3)
    for number in dice.sample(range(10_000), 10_000):
        sample.add(number)
    assert 8_800 <= sample.p95_ns <= 10_000


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.5])
def test_hedges_never_exceed_their_share_of_the_calls(share: float) -> None:
    budget, dice = HedgeBudget(share), random.Random(1)
    calls = hedges = 0
    for _ in range(20_000):
        budget.earn()
        calls += 1
        while dice.random() < 0.7 and budget.spend():
            hedges += 1
        assert hedges <= share * calls + 1e-6
    assert hedges >= 0.9 * share * calls


def test_quiet_times_save_up_a_bounded_number_of_hedges() -> None:
    budget = HedgeBudget(0.05, max_saved=10)
    for _ in range(100_000):
        budget.earn()
    assert sum(budget.spend() for _ in range(100)) == 10


def test_a_call_is_as_slow_as_it_was_waited_for_also_when_a_hedge_answered_it() -> None:
    assert taught(answered(sent_ms=100, received_ms=104), 100).delay_ns("m", 50 * MS) == 4 * MS
    assert taught(answered(sent_ms=120, received_ms=124), 100).delay_ns("m", 50 * MS) == 24 * MS
    assert taught(late(sent_ms=120, deadline_ms=130), 100).delay_ns("m", 50 * MS) == 30 * MS


def test_what_was_not_sent_or_failed_says_nothing_of_how_long_answers_take() -> None:
    failed = NoAnswer(Reason.FAILED, "", CallRecord("m", "id", 1, 9 * MS, 2 * MS))
    for outcome in (late(sent_ms=0, deadline_ms=9), failed):
        assert taught(outcome, 0).delay_ns("m", 50 * MS) == 0


def test_no_hedge_is_due_without_time_for_it_or_for_a_service_not_seen_yet() -> None:
    hedging = taught(answered(sent_ms=100, received_ms=104), 100)
    assert hedging.delay_ns("m", 5 * MS) == 4 * MS
    assert hedging.delay_ns("m", 4 * MS + MS // 2) == 0
    assert hedging.delay_ns("another", 50 * MS) == 0


def test_where_hedges_are_off_none_is_ever_due() -> None:
    hedging = Hedging(0.05, is_on=False)
    for _ in range(MIN_SAMPLES):
        hedging.note(answered(sent_ms=1, received_ms=5), MS)
    assert hedging.delay_ns("m", 50 * MS) == 0


def test_the_services_that_are_remembered_are_bounded() -> None:
    hedging = Hedging(0.05, is_on=True)
    for number in range(1_000):
        hedging.note(answered(sent_ms=1, received_ms=5, service=f"m{number}"), MS)
    assert len(hedging._samples) == 256


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_seconds_that_are_no_budget_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="give seconds above 0"):
        deadline_of(wrong, lambda: 0)


def test_a_budget_can_be_seconds_a_deadline_or_what_is_left_of_a_budget() -> None:
    assert deadline_of(0.02, lambda: 1_000) == Deadline(20_001_000)
    assert deadline_of(Deadline(5), lambda: 1_000) == Deadline(5)
    assert deadline_of(LatencyBudget.starting_at(10, 90, lambda: 50), lambda: 1_000) == Deadline(100)
