import pytest

from triton_server.probe import Health
from triton_server.watchdog import ModelHealth, Remedy, RestartBudget


def _remedies(*seen: Health) -> list[Remedy]:
    health = ModelHealth()
    return [health.record(one) for one in seen]


def test_a_stub_found_dead_twice_is_reloaded_once() -> None:
    dead = Health.STUB_DEAD
    assert _remedies(dead, dead, dead) == [Remedy.NONE, Remedy.RELOAD, Remedy.NONE]


def test_one_dead_instance_among_two_is_found_between_answers_of_the_other() -> None:
    answered, dead = Health.ANSWERED, Health.STUB_DEAD
    assert _remedies(dead, answered, answered, dead)[-1] is Remedy.RELOAD


def test_dead_probes_far_apart_do_not_add_up() -> None:
    quiet = [Health.ANSWERED] * 6
    assert set(_remedies(Health.STUB_DEAD, *quiet, Health.STUB_DEAD)) == {Remedy.NONE}


def test_a_model_that_is_not_loaded_is_loaded() -> None:
    assert _remedies(Health.NOT_LOADED, Health.NOT_LOADED)[-1] is Remedy.RELOAD


@pytest.mark.parametrize("silent", [Health.LATE, Health.UNREACHABLE])
def test_three_silent_probes_in_a_row_restart_the_server(silent: Health) -> None:
    assert _remedies(silent, silent, silent) == [Remedy.NONE, Remedy.NONE, Remedy.RESTART]


def test_an_answer_between_silent_probes_keeps_the_server() -> None:
    late = Health.LATE
    assert set(_remedies(late, late, Health.ANSWERED, late, late)) == {Remedy.NONE}


def test_a_model_that_fails_on_zeros_is_left_alone() -> None:
    assert set(_remedies(*[Health.FAILED] * 10)) == {Remedy.NONE}


def test_a_model_whose_slots_are_taken_by_sequences_is_well() -> None:
    health = ModelHealth()
    assert {health.record(Health.WAITS) for _ in range(10)} == {Remedy.NONE}
    assert not health.is_suspicious


def test_a_failure_makes_a_model_suspicious_until_it_is_forgotten() -> None:
    health = ModelHealth()
    health.record(Health.STUB_DEAD)
    assert health.is_suspicious
    for _ in range(6):
        health.record(Health.ANSWERED)
    assert not health.is_suspicious


def test_the_restart_budget_is_spent_and_comes_back_with_time() -> None:
    budget = RestartBudget(limit=3, window_s=300)
    assert [budget.spend(now) for now in (0, 1, 2, 3)] == [True, True, True, False]
    assert budget.spend(301)


def test_the_pause_before_a_restart_grows_to_a_bound() -> None:
    budget = RestartBudget(limit=10)
    pauses = []
    for now in range(10):
        budget.spend(now)
        pauses.append(budget.backoff_s())
    assert pauses[:4] == [0, 0.25, 0.5, 1]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 5
