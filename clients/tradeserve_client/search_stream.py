"""Neighbour searches over one long-lived stream: about half the latency of a call per search.

Answers are matched by request id. The stream has no deadline per message, so each search carries the
time it has left, and the client keeps the clock: an answer that comes too late is dropped and
reported. A broken or stalled stream is opened again by itself, with a bounded pause between tries.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import grpc.aio
from google.protobuf.message import DecodeError
from uuid_utils import uuid7

from tradeserve.similarity.v1 import similarity_service_pb2 as pb
from tradeserve_client.alarm import Alarm
from tradeserve_client.answers import Answer, CallRecord, NoAnswer, Outcome, Reason
from tradeserve_client.breaker import BreakerState, CircuitBreaker
from tradeserve_client.budget import ClockNs
from tradeserve_client.errors import CallError, reason_of_number
from tradeserve_client.fan_out import OnLate
from tradeserve_client.lane import MIN_CALL_NS
from tradeserve_client.message_stream import MessageStream
from tradeserve_client.similarity import (
    SERVICE,
    Matches,
    SearchQuery,
    SimilarityClient,
    read_matches,
    search_message,
)

_FIRST_PAUSE_S = 0.05
_MAX_PAUSE_S = 1.0
_STALL_NS = 2_000_000_000

_METHOD = "/tradeserve.similarity.v1.SimilarityService/StreamSearchNeighbors"


@dataclass(slots=True)
class _Waiting:
    """A search that was sent and not answered yet; stays after its deadline until the answer comes."""

    query: SearchQuery
    call: CallRecord
    future: asyncio.Future[Outcome[Matches]]
    settled: bool = False


class PendingSearch:
    """A search that was started, or was not for a reason; await `outcome()` once."""

    __slots__ = ("_future", "request_id")

    def __init__(self, request_id: str, future: asyncio.Future[Outcome[Matches]]) -> None:
        self.request_id = request_id
        self._future = future

    async def outcome(self) -> Outcome[Matches]:
        """Return the answer in time, or why there is none."""
        return await self._future

    def when_done(self, callback: Callable[[Outcome[Matches]], None]) -> None:
        """Call back with the outcome; not after `cancel()`."""
        self._future.add_done_callback(lambda done: None if done.cancelled() else callback(done.result()))

    def cancel(self) -> None:
        """Stop waiting; a late answer is still reported."""
        self._future.cancel()


class SearchStream:
    """The stream of one client. `open()` it, then `start()` searches; `close()` it in the end.

    Attributes:
        max_in_flight: Searches without an answer yet; more are shed as BUSY.
        breaker: Stops searches to a server that does not answer.

    A search that is still unanswered `stall_ns` after its deadline has the stream opened anew.
    """

    def __init__(
        self,
        client: SimilarityClient,
        *,
        on_late: OnLate | None = None,
        clock_ns: ClockNs = time.monotonic_ns,
        max_in_flight: int = 32,
        breaker: CircuitBreaker | None = None,
        stall_ns: int = _STALL_NS,
    ) -> None:
        if max_in_flight < 1:
            raise ValueError("max_in_flight must be at least 1")
        self.max_in_flight = max_in_flight
        self.breaker = breaker or CircuitBreaker(clock_ns)
        self._stall_ns = stall_ns
        self._client = client
        self._clock_ns = clock_ns
        self._on_late = on_late
        self._waiting: dict[str, _Waiting] = {}
        self._alarm: Alarm[str] = Alarm(self._give_up)
        self._stream: MessageStream | None = None
        self._opened = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._answered = False
        self._trouble = "the stream is not open yet"

    @property
    def target(self) -> str:
        """Where the server is."""
        return self._client.target

    @property
    def is_well(self) -> bool:
        """Whether a search would be sent now, and its server answered lately."""
        return (
            self._stream is not None
            and self._client.link.is_ready
            and self.breaker.state is BreakerState.CLOSED
            and len(self._waiting) < self.max_in_flight
        )

    @property
    def is_open(self) -> bool:
        """Whether a search would be sent now."""
        return self._stream is not None

    @property
    def in_flight(self) -> int:
        """Searches without an answer yet, given up or not."""
        return len(self._waiting)

    def open(self) -> None:
        """Start the stream and keep it open. Needs a running loop."""
        if self._task is None:
            self._client.link.open()
            self._task = asyncio.get_running_loop().create_task(self._run(), name="search stream")

    async def ready(self, timeout_s: float) -> bool:
        """Wait until a search would be sent, bounded; return whether it would."""
        self.open()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._opened.wait()
        return self.is_open

    def start(self, query: SearchQuery, deadline_ns: int, request_id: str = "") -> PendingSearch:
        """Send one search now, or refuse at once: no budget, no stream, too many in flight, breaker open.

        Args:
            query: What to look for.
            deadline_ns: Monotonic.
            request_id: Of a search that was sent to another server before; "" makes one.
        """
        request_id = request_id or str(uuid7())
        now_ns = self._clock_ns()
        left_ns = deadline_ns - now_ns
        future: asyncio.Future[Outcome[Matches]] = asyncio.get_running_loop().create_future()
        refusal = self._refusal(now_ns, left_ns)
        stream = self._stream
        if refusal is not None or stream is None:
            reason, detail = refusal or (Reason.DOWN, self._trouble)
            future.set_result(NoAnswer(reason, detail, CallRecord(SERVICE, "", 0, deadline_ns, 0)))
            return PendingSearch(request_id, future)
        call = CallRecord(SERVICE, request_id, now_ns, deadline_ns, 0)
        self._waiting[request_id] = _Waiting(query, call, future)
        self._alarm.set_before(request_id, left_ns)
        message = pb.StreamSearchNeighborsRequest(search=search_message(query, request_id))
        message.remaining_duration.FromNanoseconds(left_ns)
        stream.send(message.SerializeToString())
        return PendingSearch(request_id, future)

    async def close(self) -> None:
        """Close the stream and wait for it; searches without an answer end as DOWN. The client stays open."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def _refusal(self, now_ns: int, left_ns: int) -> tuple[Reason, str] | None:
        if left_ns < MIN_CALL_NS:
            return Reason.NO_BUDGET, f"{max(0, left_ns) / 1e6:.2f} ms left, nothing was sent"
        if self._stream is None or not self._client.link.is_ready:
            return Reason.DOWN, self._trouble or f"no connection ({self._client.link.state})"
        self._reset_if_stalled(now_ns)
        if len(self._waiting) >= self.max_in_flight:
            return Reason.BUSY, f"{len(self._waiting)} searches in flight, the limit of this client"
        if not self.breaker.allow():
            return (
                Reason.DOWN,
                f"too many answers in a row were late or failed (breaker {self.breaker.state.value})",
            )
        return None

    def _reset_if_stalled(self, now_ns: int) -> None:
        oldest = next(iter(self._waiting.values()), None)
        if (
            oldest is not None
            and now_ns - oldest.call.deadline_ns > self._stall_ns
            and self._stream is not None
        ):
            self._stream.cancel()

    def _give_up(self, request_id: str) -> None:
        waiting = self._waiting.get(request_id)
        if waiting is not None:
            self._end(waiting, NoAnswer(Reason.LATE, "no answer at the deadline", waiting.call))

    def _end(self, waiting: _Waiting, no_answer: NoAnswer) -> None:
        if waiting.settled:
            return
        waiting.settled = True
        if waiting.future.cancelled():
            self.breaker.abandon()
            return
        waiting.future.set_result(no_answer)
        self.breaker.fail()

    # --- the stream ------------------------------------------------------------------------------

    async def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            self._answered = False
            stream = self._client.link.open_stream(_METHOD, self._take, max_unsent=self.max_in_flight)
            try:
                await stream.connected()
                self._stream, self._trouble = stream, ""
                self._opened.set()
                await stream.finished()
                self._trouble = "the server ended the stream"
            except grpc.aio.AioRpcError as error:
                self._trouble = f"the stream broke: {error.code().name}: {error.details()}"
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                self._trouble = self._trouble or "the stream stalled and was reset"
            finally:
                self._stream = None
                self._opened.clear()
                stream.cancel()
                self._fail_all()
            pause_s = _FIRST_PAUSE_S if self._answered else min(pause_s * 2, _MAX_PAUSE_S)
            await asyncio.sleep(pause_s)

    def _take(self, body: bytes) -> None:
        received_ns = self._clock_ns()
        try:
            response = pb.StreamSearchNeighborsResponse.FromString(body)
        except DecodeError as error:
            self._trouble = f"the stream was reset: malformed answer: {error}"
            if self._stream is not None:
                self._stream.cancel()
            return
        self._answered = True
        request_id = response.search.request_id
        waiting = self._waiting.pop(request_id, None)
        if waiting is None:
            return  # answers a search of another stream's life; nobody waits for it
        self._alarm.clear(request_id)
        call = replace(waiting.call, received_ns=received_ns)
        late_ns = received_ns - call.deadline_ns
        # Given up just before the deadline and answered just after the alarm: not used either way.
        if late_ns > 0 or waiting.future.done():
            self._drop_late(waiting, call, late_ns)
            return
        waiting.settled = True
        waiting.future.set_result(self._read(response, waiting, call))

    def _drop_late(self, waiting: _Waiting, call: CallRecord, late_ns: int) -> None:
        detail = f"arrived {late_ns / 1e6:.1f} ms after the deadline"
        self._end(waiting, NoAnswer(Reason.LATE, detail, call))
        if self._on_late is not None:
            self._on_late(call.service, call.request_id, max(0, late_ns))

    def _read(
        self, response: pb.StreamSearchNeighborsResponse, waiting: _Waiting, call: CallRecord
    ) -> Outcome[Matches]:
        if response.status_code:
            reason = reason_of_number(response.status_code, response.status_message)
            self._report(reason)
            return NoAnswer(reason, response.status_message or f"status {response.status_code}", call)
        try:
            matches, call = read_matches(response.search, waiting.query, call.request_id, call)
        except CallError as error:
            self._report(error.reason)
            return NoAnswer(error.reason, error.detail, call)
        self.breaker.succeed()
        return Answer(matches, call)

    def _report(self, reason: Reason) -> None:
        report: Callable[[], None] = self.breaker.abandon
        if reason in (Reason.DOWN, Reason.FAILED, Reason.LATE):
            report = self.breaker.fail
        report()

    def _fail_all(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for search in waiting.values():
            self._alarm.clear(search.call.request_id)
            self._end(search, NoAnswer(Reason.DOWN, self._trouble or "the stream was closed", search.call))
