"""The clients for code without asyncio: notebooks, scripts, a REPL.

One thread runs one event loop for all clients of a set; every call is handed to it and waited for,
bounded. A notebook's own running loop is not touched.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from numpy.typing import ArrayLike

from tradeserve_client.answers import Outcome
from tradeserve_client.budget import Budget, Deadline, deadline_of
from tradeserve_client.chart_reading import ChartQuery, ChartReading, ReaderInfo
from tradeserve_client.client_set import Clients
from tradeserve_client.config import ClientConfig, load_config
from tradeserve_client.contract import ExpectedModel, ModelContract
from tradeserve_client.errors import TooLateError, TradeserveError
from tradeserve_client.fan_out import OnLate
from tradeserve_client.inference import Inference
from tradeserve_client.metadata import Metadata
from tradeserve_client.resilience import OnOutcome
from tradeserve_client.sequence import SequenceStep
from tradeserve_client.similarity import IndexInfo, Matches, SearchQuery
from tradeserve_client.strategy_service import (
    TIMEOUT_S,
    KillResult,
    OpenPosition,
    StrategyDecision,
    StrategyStatus,
    TradingState,
)

T = TypeVar("T")

_GRACE_S = 2.0
"""How much longer than its deadline a call is waited for: the loop may be held up by other calls."""
_CLOSE_S = 10.0


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="tradeserve clients", daemon=True)
        self._closed = False
        self._thread.start()

    def call(self, make: Callable[[], Coroutine[Any, Any, T]], timeout_s: float) -> T:
        """Run a coroutine on the loop and wait for it, bounded.

        Raises:
            TooLateError: The loop did not end it in time.
            TradeserveError: Closed, or called on the loop's own thread.
        """
        if self._closed:
            raise TradeserveError("the clients are closed; make new ones")
        if threading.current_thread() is self._thread:
            raise TradeserveError("a blocking call inside a callback of the clients would wait for itself")
        future = asyncio.run_coroutine_threadsafe(make(), self._loop)
        try:
            return future.result(timeout_s)
        except concurrent.futures.TimeoutError as error:
            if future.done():  # the call's own TimeoutError, not ours
                raise
            raise TooLateError(
                "client", f"the clients' thread did not answer in {timeout_s:.1f} s"
            ) from error
        finally:
            future.cancel()  # nothing goes on after an interrupt from the keyboard

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a last coroutine, stop the loop and join the thread; all bounded."""
        if self._closed:
            return
        try:
            self.call(last, _CLOSE_S)
        finally:
            self._closed = True
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            if left:
                self._loop.run_until_complete(asyncio.wait(left, timeout=1.0))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            self._loop.close()


class BlockingTriton:
    """Calls to Triton that wait; see TritonClient."""

    def __init__(self, thread: LoopThread, clients: Clients) -> None:
        self._thread = thread
        self._clients = clients

    def infer(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        *,
        budget: Budget,
        version: int = 0,
        outputs: Sequence[str] = (),
        metadata: Metadata | None = None,
        sequence: SequenceStep | None = None,
    ) -> Outcome[Inference]:
        """Ask a model; see TritonClient.infer."""
        deadline = deadline_of(budget, time.monotonic_ns)

        async def ask() -> Outcome[Inference]:
            return await self._clients.triton.infer(
                model,
                inputs,
                budget=deadline,
                version=version,
                outputs=outputs,
                metadata=metadata,
                sequence=sequence,
            )

        return self._thread.call(ask, _wait_s(deadline))

    def contract(self, model: str, version: int = 0, *, timeout_s: float = TIMEOUT_S) -> ModelContract:
        """Return what is served under a name; see TritonClient.contract."""

        async def ask() -> ModelContract:
            return await self._clients.triton.contract(model, version, timeout_s=timeout_s)

        return self._thread.call(ask, timeout_s + _GRACE_S)

    def ready(self, timeout_s: float = TIMEOUT_S) -> bool:
        """Connect, bounded; return whether any replica is connected."""

        async def ask() -> bool:
            return await self._clients.triton.ready(timeout_s)

        return self._thread.call(ask, timeout_s + _GRACE_S)


class BlockingSimilarity:
    """Searches that wait; see SimilarityReplicas."""

    def __init__(self, thread: LoopThread, clients: Clients) -> None:
        self._thread = thread
        self._clients = clients

    def search(
        self, query: SearchQuery, *, budget: Budget, metadata: Metadata | None = None
    ) -> Outcome[Matches]:
        """Search; see SimilarityReplicas.search."""
        deadline = deadline_of(budget, time.monotonic_ns)

        async def ask() -> Outcome[Matches]:
            return await self._clients.similarity.search(query, budget=deadline, metadata=metadata)

        return self._thread.call(ask, _wait_s(deadline))

    def get_index(self, index_name: str, *, timeout_s: float = TIMEOUT_S) -> IndexInfo:
        """Return what an index holds; see SimilarityReplicas.get_index."""

        async def ask() -> IndexInfo:
            return await self._clients.similarity.get_index(index_name, timeout_s=timeout_s)

        return self._thread.call(ask, timeout_s + _GRACE_S)


class BlockingChartReading:
    """Readings of charts that wait; see ChartReadingClient."""

    def __init__(self, thread: LoopThread, clients: Clients) -> None:
        self._thread = thread
        self._clients = clients

    def read_chart(
        self, query: ChartQuery, *, budget: Budget, metadata: Metadata | None = None
    ) -> Outcome[ChartReading]:
        """Have a chart read; see ChartReadingClient.read_chart."""
        deadline = deadline_of(budget, time.monotonic_ns)

        async def ask() -> Outcome[ChartReading]:
            return await self._clients.charts.read_chart(query, budget=deadline, metadata=metadata)

        return self._thread.call(ask, _wait_s(deadline))

    def reader(self, *, timeout_s: float = TIMEOUT_S) -> ReaderInfo:
        """Return which model and prompts the server has; see ChartReadingClient.reader."""

        async def ask() -> ReaderInfo:
            return await self._clients.charts.reader(timeout_s=timeout_s)

        return self._thread.call(ask, timeout_s + _GRACE_S)


class BlockingStrategy:
    """Calls to a running strategy that wait; see StrategyClient."""

    def __init__(self, thread: LoopThread, clients: Clients) -> None:
        self._thread = thread
        self._clients = clients

    def status(self, *, timeout_s: float = TIMEOUT_S) -> StrategyStatus:
        """Return the state of the run."""
        return self._call(lambda: self._clients.strategy.status(timeout_s=timeout_s), timeout_s)

    def positions(self, *, timeout_s: float = TIMEOUT_S) -> Sequence[OpenPosition]:
        """Return the open positions."""
        return self._call(lambda: self._clients.strategy.positions(timeout_s=timeout_s), timeout_s)

    def recent_decisions(self, count: int, *, timeout_s: float = TIMEOUT_S) -> Sequence[StrategyDecision]:
        """Return up to `count` decisions made so far, the oldest first."""
        return self._call(
            lambda: self._clients.strategy.recent_decisions(count, timeout_s=timeout_s), timeout_s
        )

    def follow(
        self, recent_count: int = 0, *, reconnect: bool = False, wait_s: float = 3600.0
    ) -> Generator[StrategyDecision, None, None]:
        """Yield decisions as they are made; see StrategyClient.follow.

        Raises:
            TooLateError: None was made within wait_s.
        """

        async def begin() -> AsyncGenerator[StrategyDecision, None]:
            return self._clients.strategy.follow(recent_count, reconnect=reconnect)

        decisions = self._thread.call(begin, TIMEOUT_S)

        taking: set[asyncio.Task[Any]] = set()

        async def take() -> StrategyDecision | None:
            taking.update(filter(None, [asyncio.current_task()]))
            try:
                async with asyncio.timeout(wait_s):
                    return await anext(decisions, None)
            except TimeoutError as error:
                raise TooLateError("strategy", f"no decision within {wait_s:g} s") from error
            finally:
                taking.clear()

        async def end() -> None:
            if taking:  # an interrupt from the keyboard is still on its way in
                await asyncio.wait(taking, timeout=TIMEOUT_S)
            await decisions.aclose()

        try:
            while (decision := self._thread.call(take, wait_s + _GRACE_S)) is not None:
                yield decision
        finally:
            with contextlib.suppress(TradeserveError):  # closed already: it ended with the loop
                self._thread.call(end, TIMEOUT_S + _GRACE_S)

    def pause(self, reason: str, *, timeout_s: float = TIMEOUT_S) -> TradingState:
        """Stop new entries."""
        return self._call(lambda: self._clients.strategy.pause(reason, timeout_s=timeout_s), timeout_s)

    def resume(self, reason: str, *, timeout_s: float = TIMEOUT_S) -> TradingState:
        """Allow entries again."""
        return self._call(lambda: self._clients.strategy.resume(reason, timeout_s=timeout_s), timeout_s)

    def kill(self, reason: str, *, timeout_s: float = TIMEOUT_S) -> KillResult:
        """Cancel every working order and stop trading until a person resets it."""
        return self._call(lambda: self._clients.strategy.kill(reason, timeout_s=timeout_s), timeout_s)

    def reset_kill(self, reason: str, *, timeout_s: float = TIMEOUT_S) -> TradingState:
        """Reset the kill switch."""
        return self._call(lambda: self._clients.strategy.reset_kill(reason, timeout_s=timeout_s), timeout_s)

    def _call(self, ask: Callable[[], Coroutine[Any, Any, T]], timeout_s: float) -> T:
        async def run() -> T:
            return await ask()  # the client is made on the loop's thread

        return self._thread.call(run, timeout_s + _GRACE_S)


class BlockingClients:
    """The clients of one configuration, for code without asyncio. Use as a context manager.

    Attributes:
        triton: Triton.
        similarity: The similarity servers.
        charts: The vision server.
        strategy: The running strategy.
    """

    def __init__(
        self,
        config: ClientConfig,
        *,
        expected: Sequence[ExpectedModel] = (),
        on_late: OnLate | None = None,
        on_outcome: OnOutcome | None = None,
    ) -> None:
        """Start the thread; nothing is connected yet.

        Args:
            config: Where the services are.
            expected: Contracts of models; a server whose model differs is not asked for it.
            on_late: Told, on the clients' thread, of every answer that came after its deadline.
            on_outcome: Told there of what every call gave back, e.g. CallMetrics.observe.
        """
        clients = Clients(config, expected=expected, on_late=on_late, on_outcome=on_outcome)
        self._clients = clients
        self._thread = LoopThread()
        self.triton = BlockingTriton(self._thread, clients)
        self.similarity = BlockingSimilarity(self._thread, clients)
        self.charts = BlockingChartReading(self._thread, clients)
        self.strategy = BlockingStrategy(self._thread, clients)

    @classmethod
    def from_toml(
        cls,
        path: Path | str,
        *,
        environment: Mapping[str, str] | None = None,
        expected: Sequence[ExpectedModel] = (),
        on_late: OnLate | None = None,
        on_outcome: OnOutcome | None = None,
    ) -> BlockingClients:
        """Return the clients of a file.

        Raises:
            ConfigError: Something in it can't be used; the message names file, key, value and remedy.
        """
        return cls(
            load_config(path, environment=environment),
            expected=expected,
            on_late=on_late,
            on_outcome=on_outcome,
        )

    def close(self) -> None:
        """Close every client and end the thread. Can be called twice."""
        self._thread.close(self._clients.close)

    def __enter__(self) -> BlockingClients:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _wait_s(deadline: Deadline) -> float:
    return deadline.remaining_ns(time.monotonic_ns()) / 1e9 + _GRACE_S
