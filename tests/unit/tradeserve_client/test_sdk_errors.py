from __future__ import annotations

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from tradeserve_client.answers import Reason
from tradeserve_client.errors import (
    CallError,
    ServerBusyError,
    ServerDownError,
    TooLateError,
    TradeserveError,
    error_of,
    reason_of,
    reason_of_number,
)

Code = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "detail", "reason"),
    [
        (Code.DEADLINE_EXCEEDED, "Deadline Exceeded", Reason.LATE),
        (Code.CANCELLED, "", Reason.LATE),
        (Code.RESOURCE_EXHAUSTED, "full", Reason.BUSY),
        (Code.UNAVAILABLE, "failed to connect to all addresses", Reason.DOWN),
        (Code.UNAVAILABLE, "Socket closed", Reason.DOWN),
        (Code.UNAVAILABLE, "Request timeout expired", Reason.BUSY),
        (Code.UNAVAILABLE, "[request id: 7] Exceeds maximum queue size", Reason.BUSY),
        (Code.UNAVAILABLE, "Request for unknown model: 'x' has no available versions", Reason.DOWN),
        (Code.NOT_FOUND, "Request for unknown model: 'x' is not found", Reason.DOWN),
        (Code.NOT_FOUND, "no index 'x' is loaded", Reason.CONTRACT_MISMATCH),
        (Code.FAILED_PRECONDITION, "index_version 3 is not loaded", Reason.CONTRACT_MISMATCH),
        (Code.INVALID_ARGUMENT, "unexpected shape for input", Reason.REFUSED),
        (Code.INTERNAL, "Stub process is not healthy", Reason.FAILED),
        (Code.UNKNOWN, "", Reason.FAILED),
    ],
)
def test_a_status_becomes_a_reason(code: grpc.StatusCode, detail: str, reason: Reason) -> None:
    assert reason_of(code, detail) is reason


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_every_status_has_a_reason_and_an_exception(code: grpc.StatusCode) -> None:
    error = error_of("lstm_cnn", AioRpcError(code, Metadata(), Metadata(), "what the server said"))
    assert isinstance(error, CallError)
    assert isinstance(error, TradeserveError)
    assert error.reason is reason_of(code)
    assert code.name in str(error)
    assert "lstm_cnn: " in str(error)
    assert "what the server said" in str(error)


def test_the_exception_says_the_same_as_the_reason() -> None:
    def kind(code: grpc.StatusCode, detail: str = "") -> type[CallError]:
        return type(error_of("x", AioRpcError(code, Metadata(), Metadata(), detail)))

    assert kind(Code.UNAVAILABLE) is ServerDownError
    assert kind(Code.UNAVAILABLE, "Exceeds maximum queue size") is ServerBusyError
    assert kind(Code.DEADLINE_EXCEEDED) is TooLateError


def test_a_status_inside_a_message_reads_like_one_on_the_wire() -> None:
    assert reason_of_number(4) is Reason.LATE
    assert reason_of_number(8) is Reason.BUSY
    assert reason_of_number(999) is Reason.FAILED
