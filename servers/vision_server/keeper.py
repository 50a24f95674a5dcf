"""Keep an engine there: notice that it is away, say so, and bring it back."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from server_runtime.errors import InternalError, OverloadedError, UnavailableError
from vision_server.reading_engine import (
    EngineAwayError,
    EngineError,
    EngineFailedError,
    EngineFullError,
    Generated,
    ReadingEngine,
    ReadingJob,
)

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between attempts to bring an engine back: each twice the one before."""

    first_s: float = 0.5
    most_s: float = 30.0


class EngineKeeper:
    """One engine, watched.

    Attributes:
        restarts: How often it was brought back.
    """

    def __init__(
        self,
        engine: ReadingEngine,
        on_change: Callable[[bool], Awaitable[None]],
        backoff: Backoff | None = None,
    ) -> None:
        """Take an engine; nothing runs before `start`.

        Args:
            engine: What is kept.
            on_change: Told when it went away (False) and when it is back (True).
            backoff: Pauses between attempts.
        """
        self.restarts = 0
        self._engine = engine
        self._on_change = on_change
        self._backoff = backoff or Backoff()
        self._away: str | None = "is starting"
        self._watch: asyncio.Task[None] | None = None

    @property
    def is_there(self) -> bool:
        """Whether charts are read at the moment."""
        return self._away is None

    async def start(self) -> None:
        """Start the engine and watch it.

        Raises:
            EngineError: It does not start.
        """
        await self._engine.start()
        self._away = None
        self._watch = asyncio.create_task(self._keep(), name="engine keeper")

    async def generate(self, job: ReadingJob) -> Generated:
        """Read one chart.

        Raises:
            UnavailableError: The engine is away, or went away meanwhile.
            OverloadedError: It takes no more.
            InternalError: It could not read this chart.
        """
        if self._away is not None:
            raise self._unavailable(self._away)
        try:
            return await self._engine.generate(job)
        except EngineAwayError as e:
            raise self._unavailable(str(e)) from e
        except EngineFullError as e:
            raise OverloadedError(f"the engine is full ({e}): drop it", retry_after_s=0.5) from e
        except EngineFailedError as e:
            _log.error("the engine could not read a chart", request_id=job.request_id, error=str(e))
            raise InternalError("the engine could not read this chart: the server's log has the cause") from e

    async def close(self) -> None:
        """Stop watching, and the engine."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        await self._engine.stop()

    def _unavailable(self, why: str) -> UnavailableError:
        return UnavailableError(
            f"the engine is away ({why}): go on without a reading", retry_after_s=self._backoff.first_s
        )

    async def _keep(self) -> None:
        while True:
            self._away = await self._engine.wait_away()
            _log.error("the engine is away", reason=self._away)
            await self._on_change(False)
            await self._bring_back()
            self.restarts += 1
            self._away = None
            await self._on_change(True)
            _log.info("the engine is back", restarts=self.restarts)

    async def _bring_back(self) -> None:
        pause_s = self._backoff.first_s
        while True:
            await self._engine.stop()
            await asyncio.sleep(pause_s)
            try:
                await self._engine.start()
            except EngineError as e:
                pause_s = min(2 * pause_s, self._backoff.most_s)
                self._away = str(e)
                _log.warning("the engine is not back yet", error=str(e), next_attempt_s=pause_s)
                continue
            return
