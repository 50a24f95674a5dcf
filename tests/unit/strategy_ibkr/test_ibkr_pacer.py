from __future__ import annotations

import asyncio

from strategy.adapters.ibkr_pacer import ORDER_RESERVE, MessagePacer


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def test_no_more_than_the_limit_is_sent_in_any_second() -> None:
    clock = Clock()
    pacer = MessagePacer(5, clock)
    assert [pacer.try_take(1) for _ in range(6)] == [True] * 5 + [False]
    clock.now_ns = 1_000_000_000
    assert not pacer.try_take(1)
    clock.now_ns = 1_000_000_001
    assert pacer.try_take(5)
    assert not pacer.try_take(1)


def test_what_is_refused_takes_no_room() -> None:
    pacer = MessagePacer(5, Clock())
    assert not pacer.try_take(6)
    assert not pacer.try_take(3, reserve=3)
    assert pacer.room() == 5


def test_a_bracket_leaves_room_for_cancels() -> None:
    pacer = MessagePacer(5, Clock())
    assert pacer.try_take(2, reserve=3)
    assert not pacer.try_take(1, reserve=3)
    assert pacer.try_take(3)


async def test_subscriptions_wait_while_an_order_goes_at_once() -> None:
    clock = Clock()
    pacer = MessagePacer(ORDER_RESERVE + 2, clock)
    taken: list[int] = []

    async def subscribe(number: int) -> None:
        await pacer.take()
        taken.append(number)

    waiting = [asyncio.create_task(subscribe(n)) for n in range(4)]
    await asyncio.wait(waiting[:2], timeout=5)
    assert taken == [0, 1]
    assert pacer.try_take(3, reserve=3)
    clock.now_ns = 1_000_000_001
    async with asyncio.timeout(5):
        await asyncio.gather(*waiting)
    assert taken == [0, 1, 2, 3]
