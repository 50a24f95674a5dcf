"""Exceptions that servers raise, and the one table that turns them into gRPC statuses.

    ServeError
    ├── InvalidFieldError   INVALID_ARGUMENT     the caller's bug; the field is named
    ├── NotFoundError       NOT_FOUND            nothing of that name is served
    ├── WrongVersionError   FAILED_PRECONDITION  another version is served than the caller pinned
    ├── RefusedError        FAILED_PRECONDITION  the server's state forbids it
    ├── OverloadedError     RESOURCE_EXHAUSTED   full: drop, or retry after RetryInfo
    ├── TooLateError        DEADLINE_EXCEEDED    the answer could not be ready in time
    ├── DrainingError       UNAVAILABLE          the server is shutting down: reconnect
    ├── UnavailableError    UNAVAILABLE          something it depends on is away: retry after RetryInfo
    └── InternalError       INTERNAL             ours; the server's log has the cause
    StartError              not a status: why a server cannot start, and what to do

Every status carries google.rpc.ErrorInfo {reason, domain "tradeserve", metadata}.
Source: https://google.aip.dev/193
"""

from typing import NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

DOMAIN = "tradeserve"


class StartError(Exception):
    """A server cannot start. The message says what is wrong and what to do.

    Args:
        exit_code: 2 when the input or configuration is bad, 1 when the machine is.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ServeError(Exception):
    """Base of what a servicer raises to refuse a call.

    Args:
        message: What was wrong and what to do.
        field: The request's field that was wrong; empty when none was.
        retry_after_s: When to try again; None when trying again is no use.
        metadata: More for ErrorInfo.
    """

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        retry_after_s: float | None = None,
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.retry_after_s = retry_after_s
        self.metadata = {**({"field": field} if field else {}), **(metadata or {})}


class InvalidFieldError(ServeError):
    """A field is malformed."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message, field=field)


class NotFoundError(ServeError):
    """Nothing of that name is served."""


class WrongVersionError(ServeError):
    """Another version is served than the one the caller was tested with."""


class RefusedError(ServeError):
    """The server's state forbids what was asked."""


class OverloadedError(ServeError):
    """The server is full."""


class TooLateError(ServeError):
    """The answer could not be ready within the caller's deadline."""


class DrainingError(ServeError):
    """The server is shutting down."""


class UnavailableError(ServeError):
    """Something that the server depends on is away."""


class InternalError(ServeError):
    """A fault of ours."""


_TABLE: dict[type[ServeError], tuple[grpc.StatusCode, str]] = {
    InvalidFieldError: (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
    NotFoundError: (grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
    WrongVersionError: (grpc.StatusCode.FAILED_PRECONDITION, "WRONG_VERSION"),
    RefusedError: (grpc.StatusCode.FAILED_PRECONDITION, "REFUSED"),
    OverloadedError: (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
    TooLateError: (grpc.StatusCode.DEADLINE_EXCEEDED, "TOO_LATE"),
    DrainingError: (grpc.StatusCode.UNAVAILABLE, "DRAINING"),
    UnavailableError: (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"),
    InternalError: (grpc.StatusCode.INTERNAL, "INTERNAL"),
}


def code_of(error: ServeError) -> grpc.StatusCode:
    """Return the gRPC code of an error."""
    return _TABLE[type(error)][0]


def code_number(error: ServeError) -> int:
    """Return the google.rpc.Code number of an error, for messages on a stream."""
    number: int = code_of(error).value[0]
    return number


def rich_status(error: ServeError) -> status_pb2.Status:
    """Return the google.rpc.Status of an error, with its details."""
    details = [
        _packed(
            error_details_pb2.ErrorInfo(reason=_TABLE[type(error)][1], domain=DOMAIN, metadata=error.metadata)
        )
    ]
    if error.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        details.append(_packed(retry))
    return status_pb2.Status(code=code_number(error), message=str(error), details=details)


def status_of(error: ServeError) -> grpc.Status:
    """Return the status of an error as grpc takes it."""
    return rpc_status.to_status(rich_status(error))


async def abort(context: grpc.aio.ServicerContext, error: ServeError) -> NoReturn:
    """End a call with the status of an error.

    Raises:
        grpc.aio.AbortError: Always; it is how grpc.aio ends a call.
    """
    status = status_of(error)
    await context.abort(status.code, status.details, status.trailing_metadata)
    raise AssertionError("abort() returns only by raising")


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
