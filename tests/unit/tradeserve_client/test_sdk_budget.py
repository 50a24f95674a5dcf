from __future__ import annotations

import pytest

from tradeserve_client.budget import Deadline, LatencyBudget


class Clock:
    def __init__(self, now_ns: int = 1_000) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        return self.now_ns


def test_a_share_counts_from_now() -> None:
    clock = Clock(1_000)
    budget = LatencyBudget.starting_at(1_000, 500, clock)
    clock.now_ns = 1_100
    assert budget.share(200) == Deadline(1_300)


def test_a_share_never_outlasts_the_budget() -> None:
    clock = Clock(1_400)
    budget = LatencyBudget.starting_at(1_000, 500, clock)
    assert budget.share(200) == Deadline(1_500)


def test_a_share_of_a_spent_budget_has_already_passed() -> None:
    clock = Clock(2_000)
    budget = LatencyBudget.starting_at(1_000, 500, clock)
    assert budget.share(200).remaining_ns(clock()) == 0
    assert budget.share(200).has_passed(clock())


def test_a_nested_budget_never_outlasts_its_parent_however_deep() -> None:
    clock = Clock(1_000)
    budget = LatencyBudget.starting_at(1_000, 500, clock)
    for _ in range(5):
        clock.now_ns += 150
        budget = budget.nested(10_000)
        assert budget.end_ns == 1_500
    assert budget.remaining_ns == 0


def test_a_negative_share_is_no_time() -> None:
    clock = Clock(1_000)
    assert LatencyBudget.starting_at(1_000, 500, clock).share(-5) == Deadline(1_000)


def test_an_answer_exactly_at_the_deadline_still_counts() -> None:
    assert not Deadline(10).has_passed(10)
    assert Deadline(10).has_passed(11)


def test_used_and_remaining_time_follow_the_clock() -> None:
    clock = Clock(1_000)
    budget = LatencyBudget.starting_at(1_000, 500, clock)
    clock.now_ns = 1_200
    assert (budget.used_ns, budget.remaining_ns, budget.deadline) == (200, 300, Deadline(1_500))


def test_a_budget_can_not_end_before_it_starts() -> None:
    with pytest.raises(ValueError, match="before it starts"):
        LatencyBudget(10, 5, Clock())
