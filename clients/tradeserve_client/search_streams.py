"""Searches over a stream to each of several similarity servers, which outlive the loss of one of them.

When a stream breaks, its searches go to another server at once; when an answer takes longer than 95 %
did, the search is sent to a second one and the first answer counts. At most two sendings per search,
under one request id and within its one deadline, never both for a lost connection and for slowness.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from uuid_utils import uuid7

from tradeserve_client.alarm import Alarm
from tradeserve_client.answers import Attempt, CallRecord, Cause, NoAnswer, Outcome, Reason
from tradeserve_client.breaker import BreakerState
from tradeserve_client.budget import ClockNs
from tradeserve_client.hedging import Hedging
from tradeserve_client.lane import MIN_CALL_NS
from tradeserve_client.resilience import PROBE_NS, CallCounts, Resilience
from tradeserve_client.search_stream import PendingSearch, SearchStream
from tradeserve_client.similarity import SERVICE, Matches, SearchQuery


@dataclass(slots=True)
class _Sent:
    stream: SearchStream
    cause: Cause
    pending: PendingSearch
    outcome: Outcome[Matches] | None = None


class ReplicatedSearch(PendingSearch):
    """A search that may be sent to a second server; await `outcome()` once."""

    __slots__ = ("_alarm", "_deadline_ns", "_may_ask", "_query", "_sent", "_started_ns")

    def __init__(
        self,
        request_id: str,
        future: asyncio.Future[Outcome[Matches]],
        query: SearchQuery,
        started_ns: int,
        deadline_ns: int,
        may_ask: Callable[[SearchStream], bool],
        alarm: Alarm[ReplicatedSearch],
    ) -> None:
        super().__init__(request_id, future)
        self._query = query
        self._started_ns = started_ns
        self._deadline_ns = deadline_ns
        self._may_ask = may_ask
        self._sent: list[_Sent] = []
        self._alarm = alarm

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Where it was sent so far, and what came of that."""
        return tuple(Attempt(sent.stream.target, sent.cause, sent.outcome) for sent in self._sent)

    def cancel(self) -> None:
        """Stop waiting; late answers are still reported."""
        super().cancel()
        self._stop()

    def _stop(self) -> None:
        self._alarm.clear(self)
        for sent in self._sent:
            sent.pending.cancel()


class SearchStreams:
    """The streams to the servers of one index; whoever made the streams opens and closes them.

    Attributes:
        streams: In the order given.
        counts: What was done so far.
    """

    def __init__(
        self,
        streams: Sequence[SearchStream],
        *,
        resilience: Resilience | None = None,
        clock_ns: ClockNs = time.monotonic_ns,
    ) -> None:
        self.streams = tuple(streams)
        self.counts = CallCounts()
        self._resilience = resilience or Resilience()
        self._clock_ns = clock_ns
        self._hedging = Hedging(self._resilience.hedge_share, is_on=self._resilience.hedge)
        self._alarm: Alarm[ReplicatedSearch] = Alarm(self._hedge)
        self._next = 0

    def start(
        self, query: SearchQuery, deadline_ns: int, may_ask: Callable[[SearchStream], bool] | None = None
    ) -> ReplicatedSearch:
        """Send one search to the best server now.

        Args:
            query: What to look for.
            deadline_ns: Monotonic.
            may_ask: Whose servers count; all when None.
        """
        future, now_ns = asyncio.get_running_loop().create_future(), self._clock_ns()
        search = ReplicatedSearch(
            str(uuid7()), future, query, now_ns, deadline_ns, may_ask or _anyone, self._alarm
        )
        self.counts.calls += 1
        self._hedging.budget.earn()
        self._probe(search)
        stream = self._pick(search)
        if stream is None:
            record = CallRecord(SERVICE, "", 0, deadline_ns, 0)
            search._future.set_result(NoAnswer(Reason.DOWN, "no server may be asked", record))
            return search
        self._send(search, stream, Cause.FIRST)
        delay_ns = self._hedging.delay_ns(SERVICE, deadline_ns - now_ns)
        if delay_ns:
            self._alarm.set(search, delay_ns / 1e9)
        return search

    def _pick(self, search: ReplicatedSearch, without: SearchStream | None = None) -> SearchStream | None:
        """Return the stream to use: well, the fewest in flight; None when none may be used."""
        count = len(self.streams)
        self._next = (self._next + 1) % count
        in_turn = (self.streams[(self._next + offset) % count] for offset in range(count))
        allowed = [stream for stream in in_turn if stream is not without and search._may_ask(stream)]
        return min(allowed, key=lambda stream: (not stream.is_well, stream.in_flight), default=None)

    def _other(self, search: ReplicatedSearch) -> SearchStream | None:
        """Return a second stream that is well, where the time allows one."""
        if search._deadline_ns - self._clock_ns() < 2 * MIN_CALL_NS:
            return None
        stream = self._pick(search, without=search._sent[0].stream)
        return stream if stream is not None and stream.is_well else None

    def _send(self, search: ReplicatedSearch, stream: SearchStream, cause: Cause) -> None:
        pending = stream.start(search._query, search._deadline_ns, search.request_id)
        sent = _Sent(stream, cause, pending)
        search._sent.append(sent)
        pending.when_done(partial(self._ended, search, sent))

    def _ended(self, search: ReplicatedSearch, sent: _Sent, outcome: Outcome[Matches]) -> None:
        if search._future.done():
            return
        sent.outcome = outcome
        if isinstance(outcome, NoAnswer):
            if len(search._sent) == 1 and self._retry(search, outcome):
                return
            if any(other.outcome is None for other in search._sent):
                return  # the other server may still answer
            first = search._sent[0].outcome
            if search._sent[-1].cause is Cause.HEDGE and first is not None:
                outcome = first
        elif sent.cause is Cause.HEDGE:
            self.counts.hedge_wins += 1
        self._hedging.note(outcome, search._started_ns)
        search._future.set_result(outcome)
        search._stop()

    def _retry(self, search: ReplicatedSearch, outcome: NoAnswer) -> bool:
        """Send a search whose connection was lost to another server; return whether that was done."""
        if not self._resilience.retry or outcome.reason is not Reason.DOWN:
            return False
        other = self._other(search)
        if other is None:
            return False
        self.counts.retries += 1
        self._send(search, other, Cause.RETRY)
        return True

    def _hedge(self, search: ReplicatedSearch) -> None:
        if search._future.done() or len(search._sent) > 1:
            return
        other = self._other(search)
        if other is not None and self._hedging.budget.spend():
            self.counts.hedges += 1
            self._send(search, other, Cause.HEDGE)

    def _probe(self, search: ReplicatedSearch) -> None:
        """Send a copy to who is half open: the search itself must not find out whether it is well."""
        waiting = [
            stream
            for stream in self.streams
            if stream.breaker.state is BreakerState.HALF_OPEN and stream.is_open and search._may_ask(stream)
        ]
        if waiting and any(stream.is_well and search._may_ask(stream) for stream in self.streams):
            for stream in waiting:
                self.counts.probes += 1
                stream.start(search._query, self._clock_ns() + PROBE_NS)


def _anyone(_stream: SearchStream) -> bool:
    return True
