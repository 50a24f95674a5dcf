"""Calls in parallel under one deadline: start all, then take each answer, or the reason why not.

What was measured and is kept: all calls are started before any is awaited (no gather, no tasks of
our own); an alarm cancels what is still running shortly before the deadline, because a timer
of asyncio is about a millisecond late; the deadline on the wire is only the backstop, because
grpc delivers answers as OK for milliseconds after it. So the clock is checked for every answer: one
that came off the wire after its deadline is reported to `on_late` and never returned.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from operator import methodcaller
from types import TracebackType
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import grpc
import grpc.aio

from tradeserve_client.alarm import ALARM_LEAD_NS, Alarm
from tradeserve_client.answers import Answer, CallRecord, NoAnswer, Outcome, Reason, Timing
from tradeserve_client.budget import ClockNs
from tradeserve_client.errors import CallError, reason_of
from tradeserve_client.lane import Lane
from tradeserve_client.metadata import Headers

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

OnLate: TypeAlias = Callable[[str, str, int], None]
"""Called with (service, request_id, late_ns) for an answer that came after its deadline."""

RUN_OUT_S = 5.0
"""How long a call to Triton may run after its caller gave it up."""

# The loop keeps only weak references to tasks; these end by themselves, at once.
_late_calls: set[asyncio.Task[None]] = set()


class Request(Protocol[T_co]):
    """One call, ready to go: its bytes, and how to read the answer."""

    @property
    def request_id(self) -> str:
        """UUIDv7, made before the call."""

    @property
    def body(self) -> bytes:
        """The serialized message."""

    def decode(self, body: bytes, call: Timing) -> tuple[T_co, CallRecord]:
        """Read the answer, and complete what is known of the call with what answered.

        Raises:
            CallError: The answer is malformed.
        """


class PendingCall(Generic[T]):
    """A call that was started, or was not for a reason; await `outcome()` once.

    Attributes:
        service: Who is asked.
        sent_ns: Monotonic time of sending; 0 when it was not sent.
        deadline_ns: Monotonic time until which the answer counts.
        received_ns: Monotonic time of its end on the wire; 0 before that.
    """

    __slots__ = (
        "_call",
        "_counted",
        "_ended",
        "_fan_out",
        "_given_up",
        "_lane",
        "_refusal",
        "_request",
        "_settled",
        "_waiter",
        "deadline_ns",
        "received_ns",
        "sent_ns",
        "service",
    )

    def __init__(self, lane: Lane, request: Request[T], deadline_ns: int, fan_out: FanOut) -> None:
        """Make the call ready; `send` starts it."""
        self.service = lane.service
        self.sent_ns = 0
        self.deadline_ns = deadline_ns
        self.received_ns = 0
        self._lane = lane
        self._request = request
        self._fan_out = fan_out
        self._refusal: NoAnswer | None = None
        self._call: Any = None
        self._counted = self._ended = self._given_up = self._settled = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def request_id(self) -> str:
        """Id of the request, also when it was not sent."""
        return self._request.request_id

    def send(self, headers: Headers = ()) -> int:
        """Start the call, or refuse it; return how many nanoseconds it has, 0 when it was not sent."""
        lane = self._lane
        now_ns = self._fan_out.clock_ns()
        left_ns = self.deadline_ns - now_ns
        if not lane.takes(left_ns):
            self._settled = True
            record = CallRecord(lane.service, "", 0, self.deadline_ns, 0)
            self._refusal = NoAnswer(*lane.refusal(left_ns), record)
            return 0
        self.sent_ns = now_ns
        lane.in_flight += 1
        lane.unfinished += 1
        self._counted = True
        timeout_s = left_ns / 1e9 + (RUN_OUT_S if lane.lets_run else 0.0)
        body = self._request.body
        call = (
            lane.method(body, timeout=timeout_s, metadata=headers)
            if headers
            else lane.method(body, timeout=timeout_s)
        )
        # The callback runs when the status comes off the wire, however late the caller looks at it.
        call.add_done_callback(self._on_done)
        self._call = call
        return left_ns

    def cancel(self) -> None:
        """Stop waiting; the outcome is then LATE or DOWN."""
        if self._call is None or self._ended:
            return
        if not self._lane.lets_run:
            self._call.cancel()
            return
        self._given_up = True
        self._free()
        self.wake()

    async def ends_within(self, wait_ns: int) -> bool:
        """Wait for the call's end, no longer than this; return whether there is nothing to wait for."""
        if not (self._ended or self._settled or self._given_up):
            waits = self._fan_out.waits
            self._waiter = asyncio.get_running_loop().create_future()
            waits.set(self, wait_ns / 1e9)
            try:
                await self._waiter
            finally:
                waits.clear(self)
        return self._ended or self._settled or self._given_up

    def wake(self) -> None:
        """Have whoever awaits it look at it."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def outcome(self) -> Outcome[T]:
        """Return the answer in time, or why there is none."""
        if self._refusal is not None:
            return self._refusal
        try:
            if self._lane.lets_run and not (self._ended or self._given_up):
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
            if self._given_up:
                return self._cut_off()
            body: bytes = await self._call
        except grpc.aio.AioRpcError as error:
            return self._failed(error.code(), error.details() or "")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                self.cancel()
                self._settle(self._lane.breaker.abandon)
                raise
            return self._cut_off()
        return self._arrived(body)

    def abandon(self) -> None:
        """Cancel and count nothing; for callers that go away."""
        self.cancel()
        self._settle(self._lane.breaker.abandon)

    def _on_done(self, _call: object) -> None:
        self._ended = True
        self.received_ns = self._fan_out.clock_ns()
        self._lane.unfinished -= 1
        if self._given_up:
            # Nobody waits any more; a task of its own, because grpc tells the status only to who awaits it.
            task = asyncio.ensure_future(self._came_late())
            _late_calls.add(task)
            task.add_done_callback(_late_calls.discard)
            return
        self._free()
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _free(self) -> None:
        self._fan_out.alarm.clear(self)
        if self._counted:
            self._counted = False
            self._lane.in_flight -= 1

    async def _came_late(self) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            await self._call
            late_ns = max(0, self.received_ns - self.deadline_ns)
            self._fan_out.on_late(self.service, self.request_id, late_ns)

    def _arrived(self, body: bytes) -> Outcome[T]:
        late_ns = self.received_ns - self.deadline_ns
        if late_ns > 0:
            self._settle(self._lane.breaker.fail)
            self._fan_out.on_late(self.service, self.request_id, late_ns)
            detail = f"arrived {late_ns / 1e6:.1f} ms after the deadline"
            return NoAnswer(Reason.LATE, detail, CallRecord.of(self))
        try:
            value, record = self._request.decode(body, self)
        except CallError as error:
            self._settle(self._lane.breaker.fail)
            return NoAnswer(error.reason, error.detail, CallRecord.of(self))
        except Exception:
            self._settle(self._lane.breaker.fail)  # else a probe's place would stay taken
            raise
        if not self._settled:
            self._settled = True
            self._lane.breaker.succeed()
        return Answer(value, record)

    def _cut_off(self) -> NoAnswer:
        # What the alarm cut off has no answer, so the time of its cancellation is not one either.
        self._settle(self._lane.breaker.fail)
        record = replace(CallRecord.of(self), received_ns=0)
        state = self._lane.channel.get_state()
        if state is not grpc.ChannelConnectivity.READY:
            return NoAnswer(Reason.DOWN, f"no connection ({state.name.lower().replace('_', ' ')})", record)
        return NoAnswer(Reason.LATE, "no answer at the deadline", record)

    def _failed(self, code: grpc.StatusCode, detail: str) -> NoAnswer:
        reason = reason_of(code, detail)
        if reason in (Reason.DOWN, Reason.FAILED, Reason.LATE):
            self._settle(self._lane.breaker.fail)
        else:
            self._settle(self._lane.breaker.abandon)
        record = CallRecord.of(self)
        if reason is Reason.LATE:
            return NoAnswer(reason, "no answer at the deadline", replace(record, received_ns=0))
        return NoAnswer(reason, f"{code.name}: {detail}", record)

    def _settle(self, report: Callable[[], None]) -> None:
        if not self._settled:
            self._settled = True
            report()


class CallGroup:
    """Calls that share a deadline and an alarm. Use as a context manager, so that nothing outlives it."""

    __slots__ = ("_fan_out", "_pending", "deadline_ns")

    def __init__(self, fan_out: FanOut, deadline_ns: int) -> None:
        self.deadline_ns = deadline_ns
        self._fan_out = fan_out
        self._pending: list[PendingCall[Any]] = []

    def __enter__(self) -> CallGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, lane: Lane, request: Request[T], headers: Headers = ()) -> PendingCall[T]:
        """Send one request now, or refuse at once: no budget, too many in flight, breaker open.

        Args:
            lane: The way to the service.
            request: What to send.
            headers: (name, value) pairs of this call.
        """
        pending = PendingCall(lane, request, self.deadline_ns, self._fan_out)
        left_ns = pending.send(headers)
        if left_ns:
            if not self._pending:
                self._fan_out.alarm.set_before(self, left_ns)
            self._pending.append(pending)
        return pending

    def cancel(self) -> None:
        """Stop waiting for all of them, as the alarm does."""
        for pending in self._pending:
            pending.cancel()

    def close(self) -> None:
        """Clear the alarm, and cancel what nobody waited for."""
        self._fan_out.alarm.clear(self)
        for pending in self._pending:
            if not pending._settled:
                pending.abandon()


class FanOut:
    """Makes groups of calls.

    Attributes:
        clock_ns: Monotonic clock.
        on_late: Told of every answer that came after its deadline.
        alarm: Cancels calls shortly before their deadline.
        waits: Wakes who waits for a call, but not until its deadline.
    """

    __slots__ = ("alarm", "clock_ns", "on_late", "waits")

    def __init__(
        self,
        *,
        on_late: OnLate | None = None,
        clock_ns: ClockNs = time.monotonic_ns,
        alarm_lead_ns: int = ALARM_LEAD_NS,
    ) -> None:
        self.clock_ns = clock_ns
        self.on_late: OnLate = on_late or _ignore_late
        self.alarm: Alarm[PendingCall[Any] | CallGroup] = Alarm(methodcaller("cancel"), lead_ns=alarm_lead_ns)
        self.waits: Alarm[PendingCall[Any]] = Alarm(PendingCall.wake)

    def group(self, deadline_ns: int) -> CallGroup:
        """Return a group of calls that must be answered by then (monotonic)."""
        return CallGroup(self, deadline_ns)

    def ask(
        self, lane: Lane, request: Request[T], deadline_ns: int, headers: Headers = ()
    ) -> Coroutine[Any, Any, Outcome[T]]:
        """Make one call by itself, now; return its outcome, which must be awaited."""
        pending = PendingCall(lane, request, deadline_ns, self)
        left_ns = pending.send(headers)
        if left_ns and not pending._ended:
            self.alarm.set_before(pending, left_ns)
        return pending.outcome()


def _ignore_late(service: str, request_id: str, late_ns: int) -> None:
    """Do nothing: the caller sees NoAnswer(LATE) anyway."""
