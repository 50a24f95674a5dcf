import asyncio

import numpy as np
import pytest

from server_runtime.errors import InternalError, OverloadedError, UnavailableError
from vision_server.keeper import Backoff, EngineKeeper
from vision_server.png import Picture
from vision_server.reading_engine import (
    EngineAwayError,
    EngineError,
    EngineFailedError,
    EngineFullError,
    Generated,
    ReadingJob,
    Sampling,
)

JOB = ReadingJob("r", "", "", Picture(np.zeros((1, 1, 3), np.uint8), b""), {}, Sampling())
ANSWER = Generated("{}", 1, 1, complete=True)


class Engine:
    """An engine that does what a test tells it to."""

    def __init__(self) -> None:
        self.dies = asyncio.Event()
        self.failures: list[EngineError] = []
        self.error: EngineError | None = None
        self.calls: list[str] = []

    async def start(self) -> None:
        self.calls.append("start")
        if self.failures:
            raise self.failures.pop(0)
        self.dies.clear()

    async def generate(self, job: ReadingJob) -> Generated:
        if self.error is not None:
            raise self.error
        return ANSWER

    async def wait_away(self) -> str:
        await self.dies.wait()
        return "died"

    async def stop(self) -> None:
        self.calls.append("stop")


async def kept(engine: Engine) -> tuple[EngineKeeper, asyncio.Queue[bool]]:
    changes: asyncio.Queue[bool] = asyncio.Queue()
    keeper = EngineKeeper(engine, changes.put, Backoff(0.001, 0.004))
    return keeper, changes


async def test_an_engine_that_died_is_brought_back_however_often_that_fails() -> None:
    engine = Engine()
    keeper, changes = await kept(engine)
    await keeper.start()
    assert await keeper.generate(JOB) == ANSWER
    engine.failures = [EngineAwayError("not yet")] * 3
    engine.dies.set()
    assert await changes.get() is False
    with pytest.raises(UnavailableError, match="the engine is away"):
        await keeper.generate(JOB)
    assert await changes.get() is True
    assert await keeper.generate(JOB) == ANSWER
    assert keeper.restarts == 1
    assert engine.calls == ["start", *["stop", "start"] * 4]
    await keeper.close()
    assert engine.calls[-1] == "stop"


async def test_an_engine_that_does_not_start_is_the_callers_to_hear_of() -> None:
    engine = Engine()
    engine.failures = [EngineAwayError("no memory")]
    keeper, _ = await kept(engine)
    with pytest.raises(EngineAwayError, match="no memory"):
        await keeper.start()
    with pytest.raises(UnavailableError, match="is starting"):
        await keeper.generate(JOB)
    await keeper.close()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (EngineAwayError("died"), UnavailableError),
        (EngineFullError("8 wait"), OverloadedError),
        (EngineFailedError("secret path"), InternalError),
    ],
)
async def test_what_an_engine_cannot_do_becomes_a_status(error: EngineError, told: type[Exception]) -> None:
    engine = Engine()
    keeper, _ = await kept(engine)
    await keeper.start()
    engine.error = error
    with pytest.raises(told) as failed:
        await keeper.generate(JOB)
    assert "secret" not in str(failed.value)
    await keeper.close()
