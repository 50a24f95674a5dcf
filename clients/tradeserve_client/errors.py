"""Every exception of the SDK, and the one table from gRPC status to reason.

    TradeserveError
    ├── ConfigError              a configuration can't be used
    ├── ContractError            the server serves something else than the caller was tested with
    └── CallError                a call gave no answer; `.reason` is what the hot path would return
        ├── TooLateError             DEADLINE_EXCEEDED, CANCELLED
        ├── ServerBusyError          RESOURCE_EXHAUSTED, Triton's queue
        ├── ServerDownError          UNAVAILABLE, a model that is not loaded
        ├── WrongRequestError        INVALID_ARGUMENT and its kin: a bug of the caller
        ├── ServerFailedError        INTERNAL, UNKNOWN, …
        └── MalformedResponseError   OK, but not what the API promises

The hot path turns the same statuses into NoAnswer values and raises nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import grpc
import grpc.aio

from tradeserve_client.answers import Reason


class TradeserveError(Exception):
    """Base of everything the SDK raises."""


class ConfigError(TradeserveError, ValueError):
    """A configuration can't be used; the message is one line that says what to change."""


class ContractError(TradeserveError):
    """A server is there and serves something else than the caller was tested with.

    Attributes:
        differences: One sentence each.
    """

    def __init__(self, differences: Sequence[str]) -> None:
        super().__init__("; ".join(differences))
        self.differences = tuple(differences)


class CallError(TradeserveError):
    """A call gave no answer.

    Attributes:
        reason: The same as in a NoAnswer.
        service: Who was asked.
        detail: What the server, or gRPC, said.
    """

    reason: Reason = Reason.FAILED

    def __init__(self, service: str, detail: str, reason: Reason | None = None) -> None:
        super().__init__(f"{service}: {detail}")
        self.service = service
        self.detail = detail
        if reason is not None:
            self.reason = reason


class TooLateError(CallError):
    """No answer before the deadline."""

    reason = Reason.LATE


class ServerBusyError(CallError):
    """The server, or its queue, is full: drop, do not retry."""

    reason = Reason.BUSY


class ServerDownError(CallError):
    """No connection, or the model or index is not loaded."""

    reason = Reason.DOWN


class WrongRequestError(CallError):
    """The server rejected the request as wrong."""

    reason = Reason.REFUSED


class ServerFailedError(CallError):
    """The server broke while working on it."""

    reason = Reason.FAILED


class MalformedResponseError(CallError):
    """The server answered OK with something the API does not allow."""

    reason = Reason.FAILED


_STATUS_REASONS: Mapping[grpc.StatusCode, Reason] = MappingProxyType(
    {
        grpc.StatusCode.DEADLINE_EXCEEDED: Reason.LATE,
        grpc.StatusCode.CANCELLED: Reason.LATE,
        grpc.StatusCode.RESOURCE_EXHAUSTED: Reason.BUSY,
        grpc.StatusCode.UNAVAILABLE: Reason.DOWN,
        grpc.StatusCode.NOT_FOUND: Reason.CONTRACT_MISMATCH,
        grpc.StatusCode.FAILED_PRECONDITION: Reason.CONTRACT_MISMATCH,
        grpc.StatusCode.UNIMPLEMENTED: Reason.CONTRACT_MISMATCH,
        grpc.StatusCode.INVALID_ARGUMENT: Reason.REFUSED,
        grpc.StatusCode.OUT_OF_RANGE: Reason.REFUSED,
        grpc.StatusCode.ALREADY_EXISTS: Reason.REFUSED,
        grpc.StatusCode.UNAUTHENTICATED: Reason.REFUSED,
        grpc.StatusCode.PERMISSION_DENIED: Reason.REFUSED,
        grpc.StatusCode.ABORTED: Reason.FAILED,
        grpc.StatusCode.DATA_LOSS: Reason.FAILED,
        grpc.StatusCode.INTERNAL: Reason.FAILED,
        grpc.StatusCode.UNKNOWN: Reason.FAILED,
    }
)

# Triton reports its queue and its model states under statuses that elsewhere mean something else;
# only the words tell them apart. Matched in lower case, first hit wins.
_TRITON_WORDS: Sequence[tuple[grpc.StatusCode, str, Reason]] = (
    (grpc.StatusCode.UNAVAILABLE, "request timeout expired", Reason.BUSY),
    (grpc.StatusCode.UNAVAILABLE, "exceeds maximum queue size", Reason.BUSY),
    (grpc.StatusCode.NOT_FOUND, "unknown model", Reason.DOWN),
    (grpc.StatusCode.NOT_FOUND, "not at ready state", Reason.DOWN),
    (grpc.StatusCode.FAILED_PRECONDITION, "not ready", Reason.DOWN),
    (grpc.StatusCode.FAILED_PRECONDITION, "not at ready state", Reason.DOWN),
    (grpc.StatusCode.INVALID_ARGUMENT, "unknown model", Reason.DOWN),
    (grpc.StatusCode.INTERNAL, "stub process", Reason.FAILED),
)

_ERRORS: Mapping[Reason, type[CallError]] = MappingProxyType(
    {
        Reason.LATE: TooLateError,
        Reason.BUSY: ServerBusyError,
        Reason.DOWN: ServerDownError,
        Reason.REFUSED: WrongRequestError,
        Reason.FAILED: ServerFailedError,
    }
)

_CODES_BY_NUMBER: Mapping[int, grpc.StatusCode] = MappingProxyType(
    {code.value[0]: code for code in grpc.StatusCode}
)


def reason_of(code: grpc.StatusCode, detail: str = "") -> Reason:
    """Return why there is no answer, from the status and the words of the server."""
    words = detail.lower()
    for word_code, word, reason in _TRITON_WORDS:
        if code is word_code and word in words:
            return reason
    return _STATUS_REASONS.get(code, Reason.FAILED)


def reason_of_number(status_code: int, detail: str = "") -> Reason:
    """Return the same for a google.rpc.Code inside a message; unknown numbers are failures."""
    code = _CODES_BY_NUMBER.get(status_code)
    return Reason.FAILED if code is None else reason_of(code, detail)


def error_of(service: str, error: grpc.aio.AioRpcError) -> CallError:
    """Return the exception for what grpc raised."""
    code, detail = error.code(), error.details() or "no details"
    reason = reason_of(code, detail)
    return _ERRORS.get(reason, CallError)(service, f"{code.name}: {detail}", reason)
