import numpy as np
import pytest

from load_test.errors import ConfigError
from load_test.schedule import MAX_CALLS, Schedule, Stage


def test_a_constant_schedule_spaces_its_calls_evenly_from_zero() -> None:
    schedule = Schedule(rps=10, duration_s=1)
    assert schedule.due_s().tolist() == pytest.approx([number / 10 for number in range(10)])
    assert (schedule.call_count, schedule.mean_rate, schedule.length_s) == (10, 10, 1)


def test_a_total_bounds_a_schedule_without_a_duration() -> None:
    schedule = Schedule(rps=4, total=6)
    assert schedule.due_s().tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1.0, 1.25])
    assert schedule.length_s == pytest.approx(1.5)


def test_a_duration_beats_a_total_as_in_ghz() -> None:
    assert Schedule(rps=10, duration_s=2, total=5).call_count == 20


def test_a_step_schedule_holds_each_rate_for_its_time_and_then_the_end() -> None:
    schedule = Schedule("step", start=10, step=10, end=30, step_duration_s=2, duration_s=10)
    assert schedule.stages == [Stage(0, 2, 10), Stage(2, 4, 20), Stage(4, 6, 30), Stage(6, 10, 30)]
    due = schedule.due_s()
    counts = np.histogram(due, bins=[0, 2, 4, 6, 10])[0].tolist()
    assert counts == [20, 40, 60, 120]
    assert schedule.call_count == len(due) == 240
    assert schedule.peak_rate == 30


def test_a_step_schedule_counts_as_ghz_does() -> None:
    # ghz's own table of its StepPacer: start 10, step 10, every 4 s: 80 hits after 6 s.
    assert Schedule("step", start=10, step=10, step_duration_s=4, duration_s=6).call_count == 80


def test_a_line_changes_its_rate_once_a_second_as_ghz_does() -> None:
    schedule = Schedule("line", start=1, step=5, end=12, duration_s=6)
    assert [stage.rate for stage in schedule.stages] == [1, 6, 11, 12]
    assert schedule.call_count == 1 + 6 + 11 + 3 * 12


def test_the_longest_load_ends_the_steps_and_keeps_the_last_rate() -> None:
    schedule = Schedule("step", start=10, step=10, step_duration_s=2, max_duration_s=5, duration_s=8)
    assert schedule.stages == [Stage(0, 2, 10), Stage(2, 4, 20), Stage(4, 5, 30), Stage(5, 8, 30)]


def test_a_schedule_can_go_down_and_stops_where_nothing_is_left_to_send() -> None:
    schedule = Schedule("step", start=10, step=-4, step_duration_s=1, duration_s=60)
    assert [stage.rate for stage in schedule.stages] == [10, 6, 2, 0]
    assert schedule.call_count == 18


def test_calls_are_due_in_order_across_stages_with_fractions_of_calls() -> None:
    schedule = Schedule("step", start=3, step=4, end=11, step_duration_s=0.5, duration_s=3)
    due = schedule.due_s()
    assert (np.diff(due) > 0).all()
    assert len(due) == schedule.call_count


def test_a_call_is_due_by_its_number_and_none_after_the_end() -> None:
    schedule = Schedule("step", start=10, step=10, end=30, step_duration_s=1, duration_s=2)
    numbers = np.array([0.0, 5.0, 10.0, 20.0, 30.0, 99.0])
    assert schedule.due_at_s(numbers).tolist() == pytest.approx([0, 0.5, 1, 1.5, 2, 2])
    assert Schedule(rps=0, duration_s=1).due_at_s(numbers).tolist() == [0.0] * 6


@pytest.mark.parametrize(
    ("schedule", "names"),
    [
        (Schedule(rps=0, duration_s=1), "rps"),
        (Schedule(rps=1, total=0), "duration"),
        (Schedule(rps=1, duration_s=0.5), "duration"),
        (Schedule("step", start=0, step=1, duration_s=1), "load-start"),
        (Schedule("line", start=1, step=0, duration_s=1), "load-step"),
        (Schedule("line", start=1, step=1, end=1, duration_s=1), "load-end"),
        (Schedule("step", start=1, step=1, duration_s=1), "load-step-duration"),
        (Schedule(rps=MAX_CALLS, duration_s=2), "duration"),
        (Schedule("line", start=1, step=1000, duration_s=86_400), "duration"),
    ],
)
def test_a_schedule_that_cannot_be_run_names_its_key(schedule: Schedule, names: str) -> None:
    with pytest.raises(ConfigError, match=f"^{names}: "):
        schedule.check()
