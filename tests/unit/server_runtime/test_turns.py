"""One piece of work at a time, and no work that would be late."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from fakes.waiting import until
from server_runtime.admission import Admission
from server_runtime.errors import OverloadedError, TooLateError
from server_runtime.turns import Turns


@pytest.fixture
def turns() -> Iterator[Turns]:
    made = Turns(margin_s=0.001)
    yield made
    made.close()


async def test_work_that_is_alone_is_done_at_once(turns: Turns) -> None:
    future = turns.start(lambda: threading.current_thread().name, 10.0)
    assert future.done()
    assert await future == threading.main_thread().name


async def test_work_is_done_in_the_order_in_which_it_came(turns: Turns) -> None:
    done: list[int] = []
    futures = [turns.start(partial(done.append, number), None) for number in range(5)]
    assert done == [0], "the others wait until the loop has looked for what came in"
    await asyncio.gather(*futures)
    assert done == [0, 1, 2, 3, 4]


async def test_long_work_is_done_off_the_loop(turns: Turns) -> None:
    turns.typical_s = 1.0
    names = await asyncio.gather(
        *(turns.run(lambda: threading.current_thread().name, None) for _ in range(3))
    )
    assert names == ["turns"] * 3
    await until(lambda: not turns.ahead)  # when the thread has said that nothing is left


async def test_one_piece_that_was_held_up_does_not_make_the_next_ones_hopeless(turns: Turns) -> None:
    turns.typical_s = 0.0005
    await turns.run(partial(time.sleep, 0.05), None)
    assert turns.typical_s == pytest.approx(0.0006)
    for _ in range(40):
        await turns.run(partial(time.sleep, 0.005), None)
    assert turns.typical_s > 0.004, "work that stays long is known to be long"


async def test_what_work_raises_reaches_who_awaits_it(turns: Turns) -> None:
    for typical_s in (0.0, 1.0):  # on the loop, on the thread
        turns.typical_s = typical_s
        with pytest.raises(ZeroDivisionError):
            await turns.run(lambda: 1 // 0, None)


async def test_work_that_what_is_ahead_would_make_late_is_refused_with_a_time_to_retry(turns: Turns) -> None:
    first = turns.start(lambda: None, None)
    waiting = [turns.start(lambda: None, None) for _ in range(3)]
    turns.typical_s = 0.1
    with pytest.raises(OverloadedError, match="3 are ahead") as refused:
        turns.start(lambda: None, 0.3)
    assert refused.value.retry_after_s == pytest.approx(0.6)
    turns.typical_s = 0.0
    in_time = turns.start(lambda: "done", 60.0)
    await asyncio.gather(first, *waiting)
    assert await in_time == "done"


async def test_a_call_is_turned_away_before_its_request_is_read_when_callers_would_not_wait(
    turns: Turns,
) -> None:
    assert turns.has_time_for(1000), "nothing is known of the callers yet"
    turns.start(lambda: None, 0.05)
    waiting = turns.start(lambda: None, 10.0)
    turns.typical_s, turns.patience_s = 0.001, 0.05
    assert turns.has_time_for(2)
    assert not turns.has_time_for(50)
    assert turns.has_time_for(50, 10.0), "this caller has more time than most"
    assert not turns.has_time_for(2, 0.002), "this one has less"
    await waiting
    assert turns.has_time_for(50), "nothing is ahead any more"


async def test_a_queue_that_stays_is_kept_shorter_than_a_burst(turns: Turns) -> None:
    def admitted() -> int:
        usual_s, turns.typical_s = turns.typical_s, 0.001
        most = next(more for more in range(1, 1000) if not turns.has_time_for(more)) - 1
        turns.typical_s = usual_s
        return most

    turns.typical_s = 0.003  # long work, for the thread
    done = threading.Event()
    work = turns.start(done.wait, 0.5)
    assert admitted() == 249, "half of what callers' time would allow"
    await until(lambda: admitted() == 124)  # a quarter, when it has taken longer than callers have time
    done.set()
    await work
    await until(lambda: turns.has_time_for(1000))


async def test_work_without_time_left_is_not_begun(turns: Turns) -> None:
    done: list[str] = []
    with pytest.raises(TooLateError):
        turns.start(lambda: done.append("late"), 0.0005)
    assert not done


@pytest.mark.parametrize("typical_s", [0.0, 0.0021])
async def test_work_whose_deadline_passes_before_its_turn_is_not_begun(
    turns: Turns, typical_s: float
) -> None:
    done: list[str] = []
    turns.start(lambda: done.append("first"), None)
    turns.typical_s = typical_s  # short: on the loop; long: on the thread
    turns.start(lambda: time.sleep(0.05), None)
    late = turns.start(lambda: done.append("late"), 0.02)
    with pytest.raises(TooLateError):
        await late
    assert done == ["first"]


async def test_work_that_nobody_awaits_any_more_is_not_begun(turns: Turns) -> None:
    done: list[str] = []
    turns.start(lambda: done.append("first"), None)
    given_up = turns.start(lambda: done.append("given up"), None)
    last = turns.start(lambda: done.append("last"), None)
    given_up.cancel()
    await last
    assert done == ["first", "last"]


def test_a_rate_lets_a_burst_in_and_then_what_time_allows() -> None:
    now_s = 0.0
    admission = Admission(1000, rate_per_s=10, clock=lambda: now_s)
    assert [admission.try_enter() for _ in range(3)] == [True, True, False]
    now_s = 0.1
    assert [admission.try_enter() for _ in range(2)] == [True, False]
    now_s = 100.0
    assert [admission.try_enter() for _ in range(3)] == [True, True, False]
    assert admission.refusal().metadata == {"limit": "1000", "rate_per_s": "10"}
