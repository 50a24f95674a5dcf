from __future__ import annotations

import random

import pytest

from tradeserve_client.budget import Deadline, LatencyBudget, deadline_of
from tradeserve_client.hedging import MIN_SAMPLES, HedgeBudget, LatencySample


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


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_seconds_that_are_no_budget_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="give seconds above 0"):
        deadline_of(wrong, lambda: 0)


def test_a_budget_can_be_seconds_a_deadline_or_what_is_left_of_a_budget() -> None:
    assert deadline_of(0.02, lambda: 1_000) == Deadline(20_001_000)
    assert deadline_of(Deadline(5), lambda: 1_000) == Deadline(5)
    assert deadline_of(LatencyBudget.starting_at(10, 90, lambda: 50), lambda: 1_000) == Deadline(100)
