from __future__ import annotations

import asyncio
from collections.abc import Callable
from operator import methodcaller

import pytest

from fakes.waiting import until
from tradeserve_client.alarm import Alarm


class Call:
    """Notes when it was cancelled."""

    def __init__(self) -> None:
        self.cancelled_s: list[float] = []

    def cancel(self) -> None:
        self.cancelled_s.append(asyncio.get_running_loop().time())


async def cancelled(*calls: Call) -> None:
    await until(lambda: all(call.cancelled_s for call in calls))


async def test_each_call_is_cancelled_once_and_never_before_its_time() -> None:
    alarm, began_s = Alarm(methodcaller("cancel")), asyncio.get_running_loop().time()
    delays_s = [0.03, 0.01, 0.02, 0.01]
    calls = [Call() for _ in delays_s]
    for call, delay_s in zip(calls, delays_s, strict=True):
        alarm.set(call, delay_s)
    await cancelled(*calls)
    for call, delay_s in zip(calls, delays_s, strict=True):
        (at_s,) = call.cancelled_s
        assert at_s >= began_s + delay_s - 1e-5


async def test_a_call_that_was_cleared_is_let_be_and_the_others_are_not() -> None:
    alarm = Alarm(methodcaller("cancel"))
    ended, running = Call(), Call()
    alarm.set(ended, 0.005)
    alarm.set(running, 0.02)
    alarm.clear(ended)
    await cancelled(running)
    assert not ended.cancelled_s


async def test_an_earlier_time_comes_before_one_that_was_set_already() -> None:
    alarm = Alarm(methodcaller("cancel"))
    far, near = Call(), Call()
    alarm.set(far, 3600)
    alarm.set(near, 0.01)
    await cancelled(near)
    assert not far.cancelled_s


async def test_a_call_set_while_others_are_cancelled_gets_its_turn() -> None:
    alarm, next_call = Alarm(methodcaller("cancel")), Call()

    class Chained(Call):
        def cancel(self) -> None:
            super().cancel()
            alarm.set(next_call, 0.01)

    first = Chained()
    alarm.set(first, 0.01)
    await cancelled(first, next_call)


def test_an_alarm_works_on_in_a_later_loop() -> None:
    alarm = Alarm(methodcaller("cancel"))

    async def one_call() -> None:
        call = Call()
        alarm.set(call, 0.01)
        await cancelled(call)

    async def one_that_is_lost() -> None:
        alarm.set(Call(), 0.001)

    asyncio.run(one_that_is_lost())
    asyncio.run(one_call())


async def test_many_calls_share_one_timer_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, alarm = asyncio.get_running_loop(), Alarm(methodcaller("cancel"))
    timers: list[float] = []

    def call_at(when: float, callback: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        timers.append(when)
        return asyncio.BaseEventLoop.call_at(loop, when, callback, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "call_at", call_at)
    for _ in range(100):
        call = Call()
        alarm.set(call, 3600)
        alarm.clear(call)
    assert len(timers) == 1


async def test_what_fails_at_its_time_does_not_keep_the_others_from_theirs() -> None:
    alarm, other = Alarm(methodcaller("cancel")), Call()
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, told: failures.append(told["exception"]))

    class Broken(Call):
        def cancel(self) -> None:
            raise RuntimeError("broken")

    alarm.set(Broken(), 0.01)
    alarm.set(other, 0.01)
    await cancelled(other)
    assert [str(failure) for failure in failures] == ["broken"]


@pytest.mark.parametrize(("left_ms", "rings_after_ms"), [(50, 48.8), (2, 1.0), (1, 0.5)])
async def test_it_rings_before_a_deadline_and_leaves_a_short_call_half_of_its_time(
    left_ms: int, rings_after_ms: float
) -> None:
    alarm, call, loop = Alarm(methodcaller("cancel")), Call(), asyncio.get_running_loop()
    began_s = loop.time()
    alarm.set_before(call, left_ms * 1_000_000)
    set_s = alarm._due[call] - rings_after_ms / 1e3
    assert began_s - 1e-9 <= set_s <= loop.time() + 1e-9
