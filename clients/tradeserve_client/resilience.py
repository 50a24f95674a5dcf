"""Calls that outlive one server's failure: another replica on a lost connection, a hedge on a slow one.

At most two attempts per call, within the one deadline, never both a retry and a hedge. Only for
requests that may run twice; inferences and searches may. What a server refuses for load is not sent
again: that would be load too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from tradeserve_client.answers import Attempt, CallRecord, Cause, NoAnswer, Outcome, Reason
from tradeserve_client.fan_out import CallGroup, FanOut, PendingCall, Request
from tradeserve_client.hedging import Hedging
from tradeserve_client.lane import MIN_CALL_NS, Lane
from tradeserve_client.metadata import Metadata, headers_for
from tradeserve_client.replicas import Replica, ReplicaSet, any_ready

T = TypeVar("T")

OnOutcome: TypeAlias = "Callable[[Outcome[object]], None]"
"""Called with what every call gave back, e.g. CallMetrics.observe."""

PROBE_NS = 1_000_000_000
"""How long a probe may take."""


@dataclass(frozen=True, slots=True)
class Resilience:
    """What is done about a call that gets no answer, or none soon.

    Attributes:
        retry: Send once more when the connection was lost and the budget allows.
        reconnect_wait_s: How long a retry waits for a connection when there is no other replica.
        hedge: Send a second time to another replica when an answer takes longer than 95 % did.
        hedge_share: Hedges per call at most.
    """

    retry: bool = True
    reconnect_wait_s: float = 0.05
    hedge: bool = False
    hedge_share: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.reconnect_wait_s <= 10 or not 0 <= self.hedge_share <= 0.5:
            raise ValueError("resilience needs 0 <= reconnect_wait_s <= 10 and 0 <= hedge_share <= 0.5")


@dataclass(slots=True)
class CallCounts:
    """What a caller did so far, for metrics.

    Attributes:
        calls: Calls made.
        retries: Second attempts after a lost connection.
        hedges: Second attempts because of a slow answer.
        hedge_wins: Hedges whose answer was used.
        probes: Copies sent to a replica whose breaker is half open.
    """

    calls: int = 0
    retries: int = 0
    hedges: int = 0
    hedge_wins: int = 0
    probes: int = 0


@dataclass(frozen=True, slots=True)
class Called(Generic[T]):
    """An outcome, and the replica that it came from; None when nothing was sent.

    `attempts` says where it was sent; empty where there is only one replica.
    """

    outcome: Outcome[T]
    replica: Replica | None
    attempts: tuple[Attempt, ...] = ()


@dataclass(slots=True)
class _Sent(Generic[T]):
    replica: Replica
    pending: PendingCall[T]
    cause: Cause
    outcome: Outcome[T] | None = None


class Caller:
    """Calls one method of the servers of a replica set.

    Attributes:
        replicas: The servers.
        method: Full gRPC method name.
        counts: What was done so far.
    """

    def __init__(
        self, replicas: ReplicaSet, method: str, fan_out: FanOut, resilience: Resilience | None = None
    ) -> None:
        self.replicas = replicas
        self.method = method
        self.counts = CallCounts()
        self._fan_out = fan_out
        self._probing = FanOut(clock_ns=fan_out.clock_ns)
        self._resilience = resilience or Resilience()
        self._hedging = Hedging(
            self._resilience.hedge_share, is_on=self._resilience.hedge and len(replicas.replicas) > 1
        )
        self._background: set[asyncio.Task[Any]] = set()
        self._probed: set[tuple[Replica, str]] = set()

    async def call(
        self,
        service: str,
        request: Request[T],
        deadline_ns: int,
        *,
        may_ask: Callable[[Replica], bool] | None = None,
        metadata: Metadata | None = None,
        once: bool = False,
    ) -> Called[T]:
        """Ask one replica, and another one if need be; return by the deadline whatever happened.

        Args:
            service: Name for records; each has its own breaker and sample.
            request: What may run twice, unless it is sent once.
            deadline_ns: Monotonic.
            may_ask: Which replicas count; all when None.
            metadata: For this call, beside the client's.
            once: Send it to one replica, and not again whatever happens.
        """
        allowed = may_ask or _anyone
        self.replicas.open()
        self.counts.calls += 1
        if not once:
            self._hedging.budget.earn()
            self._probe(service, request, allowed, metadata)
        replica = self.replicas.pick(service, self.method, allowed)
        if replica is None:
            record = CallRecord(service, "", 0, deadline_ns, 0)
            return Called(NoAnswer(Reason.DOWN, "no server may be asked", record), None)
        with self._fan_out.group(deadline_ns) as group:
            first = self._start(group, replica, service, request, metadata)
            left_ns = deadline_ns - self._fan_out.clock_ns()
            delay_ns = 0 if once else self._hedging.delay_ns(service, left_ns)
            if delay_ns:
                called = await self._hedged(group, first, delay_ns, service, request, allowed, metadata)
            else:
                first.outcome = await first.pending.outcome()
                called = Called(first.outcome, replica, self._told(first))
            self._hedging.note(called.outcome, first.pending.sent_ns)
        return (
            called if once else await self.retried(called, service, request, deadline_ns, allowed, metadata)
        )

    def ask_only(
        self, lane: Lane, request: Request[T], deadline_ns: int, metadata: Metadata | None
    ) -> Coroutine[Any, Any, Outcome[T]]:
        """Ask the only replica, now; return its outcome, which must be awaited.

        It is the first thing that `call` does where there is nothing to choose; `retried` is the next.
        """
        headers = headers_for(self.replicas.replicas[0].metadata, metadata)
        self.counts.calls += 1
        return self._fan_out.ask(lane, request, deadline_ns, headers)

    async def close(self) -> None:
        """Wait for what was cancelled to end."""
        for task in self._background:
            task.cancel()
        if self._background:
            await asyncio.wait(self._background)

    def _start(
        self,
        group: CallGroup,
        replica: Replica,
        service: str,
        request: Request[T],
        metadata: Metadata | None,
        cause: Cause = Cause.FIRST,
    ) -> _Sent[T]:
        lane = replica.lane(service, self.method)
        headers = headers_for(replica.metadata, metadata)
        return _Sent(replica, group.start(lane, request, headers), cause)

    def _told(self, *sent: _Sent[T]) -> tuple[Attempt, ...]:
        if len(self.replicas.replicas) == 1:
            return ()
        return tuple(Attempt(each.replica.target, each.cause, each.outcome) for each in sent)

    # --- retry ------------------------------------------------------------------------------------

    async def retried(
        self,
        called: Called[T],
        service: str,
        request: Request[T],
        deadline_ns: int,
        allowed: Callable[[Replica], bool],
        metadata: Metadata | None,
    ) -> Called[T]:
        """Return what came of a second attempt, where the connection was lost and there is time for one."""
        if called.replica is None or not _is_lost_connection(called.outcome):
            return called
        again = await self._retry_at(called.replica, service, deadline_ns, allowed)
        if again is None:
            return called
        self.counts.retries += 1
        with self._fan_out.group(deadline_ns) as group:
            second = self._start(group, again, service, request, metadata, Cause.RETRY)
            second.outcome = await second.pending.outcome()
        self._hedging.note(second.outcome, second.pending.sent_ns)
        return Called(second.outcome, again, (*called.attempts, *self._told(second)))

    async def _retry_at(
        self, failed: Replica, service: str, deadline_ns: int, allowed: Callable[[Replica], bool]
    ) -> Replica | None:
        """Return where a call that lost its connection may go; None when nowhere in time."""
        left_ns = deadline_ns - self._fan_out.clock_ns()
        if not self._resilience.retry or left_ns < 2 * MIN_CALL_NS:
            return None
        other = self.replicas.pick(service, self.method, allowed, without=failed)
        if other is not None and self.replicas.is_well(other, service, self.method):
            return other
        # Behind one name there can be several servers, and a lost connection can come back at once.
        wait_s = min(self._resilience.reconnect_wait_s, left_ns / 2e9)
        if failed.link.is_ready or await any_ready([failed.link], wait_s):
            return failed if allowed(failed) else None
        return None

    # --- hedges -----------------------------------------------------------------------------------

    async def _hedged(
        self,
        group: CallGroup,
        first: _Sent[T],
        delay_ns: int,
        service: str,
        request: Request[T],
        allowed: Callable[[Replica], bool],
        metadata: Metadata | None,
    ) -> Called[T]:
        other: Replica | None = None
        if not await first.pending.ends_within(delay_ns):
            other = self.replicas.pick(service, self.method, allowed, without=first.replica)
        if (
            other is None
            or not self.replicas.is_well(other, service, self.method)
            or not self._hedging.budget.spend()
        ):
            first.outcome = await first.pending.outcome()
            return Called(first.outcome, first.replica, self._told(first))
        self.counts.hedges += 1
        hedge = self._start(group, other, service, request, metadata, Cause.HEDGE)
        attempts = {self._spawn(sent.pending.outcome()): sent for sent in (first, hedge)}
        try:
            return await self._first_answer(attempts, first)
        except asyncio.CancelledError:
            for task in attempts:
                task.cancel()
            raise

    async def _first_answer(
        self, attempts: dict[asyncio.Task[Outcome[T]], _Sent[T]], first: _Sent[T]
    ) -> Called[T]:
        """Return the first answer; without one, what became of the first attempt."""
        running = set(attempts)
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                attempt, outcome = attempts[task], task.result()
                attempt.outcome = outcome
                if isinstance(outcome, NoAnswer):
                    continue
                for loser in running:
                    attempts[loser].pending.abandon()
                if attempt is not first:
                    self.counts.hedge_wins += 1
                return Called(outcome, attempt.replica, self._told(*attempts.values()))
        assert first.outcome is not None
        # Both attempts are used up: nothing is left to be sent again.
        return Called(first.outcome, None, self._told(*attempts.values()))

    # --- probes -----------------------------------------------------------------------------------

    def _probe(
        self,
        service: str,
        request: Request[T],
        allowed: Callable[[Replica], bool],
        metadata: Metadata | None,
    ) -> None:
        """Send a copy to who is half open: a caller's own call must not find out whether it is well.

        The breaker bounds how many.
        """
        if len(self.replicas.replicas) == 1:
            return
        waiting = self.replicas.half_open(service, self.method, allowed)
        if not waiting or not self.replicas.has_well(service, self.method, allowed):
            return  # with nobody well, the call itself is the probe
        for replica in waiting:
            if (replica, service) not in self._probed:
                self.counts.probes += 1
                self._probed.add((replica, service))
                self._spawn(self._run_probe(replica, service, request, metadata))

    async def _run_probe(
        self, replica: Replica, service: str, request: Request[T], metadata: Metadata | None
    ) -> None:
        try:
            with self._probing.group(self._fan_out.clock_ns() + PROBE_NS) as group:
                await self._start(group, replica, service, request, metadata).pending.outcome()
        finally:
            self._probed.discard((replica, service))

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work, name=f"call {self.method}")
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task


def _anyone(_replica: Replica) -> bool:
    return True


def _is_lost_connection(outcome: Outcome[T]) -> bool:
    """Return whether the connection failed, or there was none: the server did not answer at all.

    Triton's words for a full queue are BUSY although their status is UNAVAILABLE (errors.py).
    """
    if not isinstance(outcome, NoAnswer) or outcome.reason is not Reason.DOWN:
        return False
    return outcome.detail.startswith("UNAVAILABLE") or not outcome.call.sent_ns


def ignore_outcome(_outcome: Outcome[object]) -> None:
    """Do nothing: the caller has the outcome anyway."""
