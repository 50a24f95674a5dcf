"""What a call under a deadline gives back: an answer in time, or the reason why there is none.

Lateness is a value here, not an exception, because it is normal and must be decided upon.
This module imports nothing, so that pure code may use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Protocol, TypeAlias, TypeVar

T_co = TypeVar("T_co", covariant=True)


class Reason(StrEnum):
    """Why there is no answer."""

    LATE = "late"
    """Not there at the deadline, or arrived after it."""
    BUSY = "busy"
    """Refused for load: the client's in-flight bound, RESOURCE_EXHAUSTED, or Triton's queue."""
    DOWN = "down"
    """The server can't be reached, or the breaker is open."""
    REFUSED = "refused"
    """The server rejected the request as wrong; a bug on our side."""
    STALE = "stale"
    """The answer, or the data it needs, is too old to act on."""
    CONTRACT_MISMATCH = "contract mismatch"
    """The server does not serve what the strategy was tested with."""
    FAILED = "failed"
    """The server broke while working on it, or answered something malformed."""
    NO_BUDGET = "no budget"
    """Nothing was sent: too little of the budget was left."""
    OFF = "off"
    """Not configured."""
    NO_INPUT = "no input"
    """Nothing was sent: an earlier call that it needs had no answer."""


class Timing(Protocol):
    """A call as its client knows it by itself; the fields are those of a CallRecord."""

    @property
    def service(self) -> str:
        """Who was asked."""

    @property
    def request_id(self) -> str:
        """UUIDv7 made before the call."""

    @property
    def sent_ns(self) -> int:
        """Monotonic time of sending."""

    @property
    def deadline_ns(self) -> int:
        """Monotonic time until which the answer counted."""

    @property
    def received_ns(self) -> int:
        """Monotonic time of the answer."""


@dataclass(frozen=True, slots=True)
class CallRecord:
    """Where the time of one call went; written to the journal.

    Attributes:
        service: Who was asked. Example: "lstm_cnn".
        request_id: UUIDv7 made before the call; empty when nothing was sent.
        sent_ns: Monotonic time of sending; 0 when nothing was sent.
        deadline_ns: Monotonic time until which the answer counted.
        received_ns: Monotonic time of the answer or the error; 0 when none came before the hard end.
        queue_ns: Server's time before the work, -1 when unknown.
        compute_ns: Server's time of the work, -1 when unknown.
        model_name: What answered, "" when unknown.
        model_version: Version that answered, 0 when unknown.
        artifact_sha256: Hex digest of what answered, "" when unknown.
    """

    service: str
    request_id: str
    sent_ns: int
    deadline_ns: int
    received_ns: int
    queue_ns: int = -1
    compute_ns: int = -1
    model_name: str = ""
    model_version: int = 0
    artifact_sha256: str = ""

    @classmethod
    def of(cls, call: Timing) -> CallRecord:
        """Return what the client knows of a call by itself."""
        return cls(call.service, call.request_id, call.sent_ns, call.deadline_ns, call.received_ns)

    @property
    def round_trip_ns(self) -> int:
        """Time from sending to receiving; -1 when either did not happen."""
        return self.received_ns - self.sent_ns if self.sent_ns and self.received_ns else -1

    @property
    def network_ns(self) -> int:
        """Round trip less the server's own time; -1 when unknown."""
        if self.round_trip_ns < 0 or self.queue_ns < 0 or self.compute_ns < 0:
            return -1
        return max(0, self.round_trip_ns - self.queue_ns - self.compute_ns)


@dataclass(frozen=True, slots=True)
class Answer(Generic[T_co]):
    """A value that arrived before its deadline."""

    value: T_co
    call: CallRecord


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """No value in time, and why, in a few words for the screen and the journal."""

    reason: Reason
    detail: str
    call: CallRecord


Outcome: TypeAlias = "Answer[T_co] | NoAnswer"


class Cause(StrEnum):
    """Why a call was sent to a server."""

    FIRST = "first"
    RETRY = "retry"
    """The connection to the server before was lost."""
    HEDGE = "hedge"
    """The server before took longer than 95 % of the recent calls."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One sending of a call that several servers could answer.

    Attributes:
        target: Who was asked.
        cause: Why.
        outcome: What came of it; None when another one's answer was used first.
    """

    target: str
    cause: Cause
    outcome: Outcome[object] | None
