"""Collections stay off the decisions, and every pause is counted where it belongs."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from strategy.garbage import GarbageKeeper

MS = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now_ns = 1_000 * MS
        self.step_ns = 0

    def __call__(self) -> int:
        self.now_ns += self.step_ns
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keeper(clock: Clock) -> Iterator[GarbageKeeper]:
    thresholds = gc.get_threshold()
    keeper = GarbageKeeper(clock)
    keeper.start()
    clock.step_ns = 3 * MS
    yield keeper
    keeper.stop()
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_nothing_is_collected_by_itself_while_a_decision_is_under_way(keeper: GarbageKeeper) -> None:
    keeper.decision_began(0)
    keeper.decision_began(0)
    assert not gc.isenabled()
    keeper.tidy()
    assert keeper.collections == 0
    keeper.decision_ended()
    assert not gc.isenabled()
    keeper.decision_ended()
    assert gc.isenabled()


def test_a_collection_between_decisions_is_not_on_their_path(keeper: GarbageKeeper, clock: Clock) -> None:
    keeper.decision_began(clock.now_ns)
    keeper.decision_ended()
    keeper.tidy()
    keeper.decision_began(clock.now_ns + 1_000 * MS)
    assert (keeper.collections, keeper.longest_ns, keeper.longest_on_path_ns) == (1, 3 * MS, 0)


def test_a_collection_that_may_have_kept_a_bar_waiting_is_on_its_path(
    keeper: GarbageKeeper, clock: Clock
) -> None:
    keeper.tidy()
    keeper.decision_began(clock.now_ns + 5 * MS)
    assert keeper.longest_on_path_ns == 3 * MS


def test_a_collection_during_a_decision_is_counted(keeper: GarbageKeeper) -> None:
    keeper.decision_began(0)
    gc.collect()
    assert keeper.longest_on_path_ns == 3 * MS


def test_decisions_without_a_pause_do_not_keep_the_collector_off_for_ever(
    keeper: GarbageKeeper, clock: Clock
) -> None:
    keeper.decision_began(0)
    clock.now_ns += 2_000 * MS
    keeper.decision_began(0)
    assert gc.isenabled()


def test_everything_is_collected_once_a_minute_and_the_young_otherwise(
    keeper: GarbageKeeper, clock: Clock
) -> None:
    generations: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "stop":
            generations.append(info["generation"])

    gc.callbacks.append(note)
    try:
        keeper.tidy()
        clock.now_ns += 60_000 * MS
        keeper.tidy()
        keeper.tidy()
    finally:
        gc.callbacks.remove(note)
    assert generations == [1, 2, 1]


def test_one_that_was_not_started_leaves_the_collector_alone() -> None:
    keeper = GarbageKeeper()
    keeper.decision_began(0)
    assert gc.isenabled()
    keeper.decision_ended()
    keeper.tidy()
    keeper.stop()
    assert keeper.collections == 0
