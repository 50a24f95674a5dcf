import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from server_runtime.errors import OverloadedError, TooLateError
from vision_server.chart_queue import ChartQueue


class Reader:
    """Reads charts of a queue until told to end each."""

    def __init__(self, queue: ChartQueue) -> None:
        self.queue = queue
        self.reading: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, name: str, key: str = "", as_of_ns: int = 0, left_s: float | None = None) -> None:
        self.tasks[name] = asyncio.create_task(self._read(name, key or name, as_of_ns, left_s))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def end(self, name: str) -> None:
        self.reading[name].set()
        await self.tasks[name]
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def _read(self, name: str, key: str, as_of_ns: int, left_s: float | None) -> None:
        async with self.queue.turn(key, as_of_ns, left_s):
            self.reading[name] = asyncio.Event()
            await self.reading[name].wait()
            del self.reading[name]


@asynccontextmanager
async def reader(max_waiting: int = 4, max_running: int = 1) -> AsyncIterator[Reader]:
    made = Reader(ChartQueue(max_waiting, max_running, clock=lambda: 0.0))
    yield made
    for task in made.tasks.values():
        task.cancel()
    await asyncio.gather(*made.tasks.values(), return_exceptions=True)
    assert made.queue.running == made.queue.waiting == 0, "every place is given back"


async def test_charts_are_read_in_the_order_in_which_they_came() -> None:
    async with reader(max_running=2) as charts:
        for name in "abcd":
            await charts.come(name)
        assert sorted(charts.reading) == ["a", "b"]
        await charts.end("b")
        assert sorted(charts.reading) == ["a", "c"]
        await charts.end("a")
        assert sorted(charts.reading) == ["c", "d"]


async def test_the_newest_chart_of_an_instrument_wins_and_the_older_one_is_told_at_once() -> None:
    async with reader() as charts:
        await charts.come("busy")
        await charts.come("old", "ACME", 1)
        await charts.come("other")
        await charts.come("new", "ACME", 2)
        with pytest.raises(OverloadedError, match="newer chart"):
            await charts.tasks["old"]
        await charts.come("late", "ACME", 1)
        with pytest.raises(OverloadedError, match="newer chart"):
            await charts.tasks["late"]
        assert (charts.queue.superseded, charts.queue.waiting) == (2, 2)
        await charts.end("busy")
        await charts.end("other")
        assert list(charts.reading) == ["new"]


async def test_a_chart_that_is_being_read_is_finished() -> None:
    async with reader() as charts:
        await charts.come("old", "ACME", 1)
        await charts.come("new", "ACME", 2)
        await charts.end("old")
        assert list(charts.reading) == ["new"]


async def test_a_full_queue_refuses_at_once_but_takes_a_newer_chart_of_one_that_waits() -> None:
    async with reader(max_waiting=1) as charts:
        await charts.come("busy")
        await charts.come("old", "ACME", 1)
        await charts.come("more")
        with pytest.raises(OverloadedError, match="1 charts wait"):
            await charts.tasks["more"]
        await charts.come("new", "ACME", 2)
        with pytest.raises(OverloadedError, match="newer chart"):
            await charts.tasks["old"]
        await charts.end("busy")
        assert list(charts.reading) == ["new"]


async def test_who_leaves_the_queue_gives_its_place_back() -> None:
    async with reader() as charts:
        for name in "abc":
            await charts.come(name)
        charts.tasks["b"].cancel()
        await asyncio.sleep(0)
        await charts.end("a")
        assert list(charts.reading) == ["c"]


async def test_who_is_cancelled_just_as_its_turn_comes_passes_it_on() -> None:
    async with reader() as charts:
        for name in "abc":
            await charts.come(name)
        charts.reading["a"].set()
        await asyncio.sleep(0)  # a has left, and b has not run yet
        charts.tasks["b"].cancel()
        await asyncio.gather(charts.tasks["b"], return_exceptions=True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert list(charts.reading) == ["c"]


async def test_what_cannot_be_read_in_time_is_refused_before_it_waits() -> None:
    now_s = 0.0
    queue = ChartQueue(8, 1, clock=lambda: now_s)
    for _ in range(5):
        async with queue.turn("a", 0, None):
            now_s += 1.0
    with pytest.raises(TooLateError, match="reading a chart takes 1000 ms"):
        async with queue.turn("a", 0, 0.5):
            pass
    async with queue.turn("a", 0, 1.5):
        with pytest.raises(TooLateError, match="takes 2000 ms"):
            async with queue.turn("b", 0, 1.5):
                pass


async def test_a_reading_that_failed_is_no_measure_of_time() -> None:
    queue = ChartQueue(8, 1, clock=lambda: 0.0)
    with pytest.raises(ZeroDivisionError):
        async with queue.turn("a", 0, None):
            raise ZeroDivisionError
    async with queue.turn("a", 0, 1e-9):
        pass


@pytest.mark.parametrize("bounds", [(0, 1), (1, 0)])
def test_a_queue_has_room(bounds: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="needs room"):
        ChartQueue(*bounds)
