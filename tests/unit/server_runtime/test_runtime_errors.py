import argparse

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2

from server_runtime import errors
from server_runtime.admission import Admission
from server_runtime.cli import Parser, add_server_options, report, server_options
from server_runtime.deadlines import refuse_late
from server_runtime.metrics import ServerMetrics


def test_every_error_has_a_status_and_a_reason() -> None:
    for kind in errors.ServeError.__subclasses__():
        error = kind("field", "is bad") if kind is errors.InvalidFieldError else kind("is bad")
        status = errors.rich_status(error)
        assert (
            status.code == errors.code_of(error).value[0] == code_pb2.Code.Value(errors.code_of(error).name)
        )
        info = error_details_pb2.ErrorInfo.FromString(status.details[0].value)
        assert info.domain == "tradeserve"
        assert info.reason.isupper()


def test_a_time_to_retry_travels_as_retry_info() -> None:
    status = errors.rich_status(errors.OverloadedError("full", retry_after_s=1.25))
    retry = error_details_pb2.RetryInfo.FromString(status.details[1].value)
    assert retry.retry_delay.ToMilliseconds() == 1250
    assert len(errors.rich_status(errors.OverloadedError("full")).details) == 1


def test_an_invalid_field_is_named_in_message_and_metadata() -> None:
    error = errors.InvalidFieldError("neighbor_count", "is 0")
    assert str(error) == "neighbor_count: is 0"
    assert error.metadata == {"field": "neighbor_count"}
    assert errors.code_of(error) is grpc.StatusCode.INVALID_ARGUMENT


def test_what_cannot_be_answered_within_the_margin_is_refused() -> None:
    refuse_late(None, 0.001)
    refuse_late(0.0011, 0.001)
    for left_s in (0.0009, 0.0, -5.0):
        with pytest.raises(errors.TooLateError, match="ms are left of the deadline"):
            refuse_late(left_s, 0.001)


def test_admission_counts_up_to_its_limit_and_down_again() -> None:
    admission = Admission(2)
    assert [admission.try_enter() for _ in range(3)] == [True, True, False]
    admission.leave()
    assert admission.try_enter()
    assert admission.in_flight == 2


def test_an_admission_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Admission(0)


def test_two_servers_in_one_process_count_apart() -> None:
    first, second = ServerMetrics(), ServerMetrics()
    first.count_call("/a/B", "OK")
    labels = {"method": "/a/B", "code": "OK"}
    assert first.registry.get_sample_value("tradeserve_calls_total", labels) == 1.0
    assert second.registry.get_sample_value("tradeserve_calls_total", labels) is None


def parsed(*arguments: str) -> argparse.Namespace:
    parser = Parser(prog="x")
    add_server_options(parser)
    return parser.parse_args(arguments)


def test_the_defaults_of_the_command_line_are_those_of_the_options() -> None:
    options = server_options(parsed())
    assert (options.host, options.port, options.tls, options.metrics_port) == ("127.0.0.1", 0, None, None)
    assert options.answer_margin_s == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "'70000' is no port"),
        (["--port", "http"], "'http' is no port"),
        (["--max-in-flight", "0"], "'0' is no count"),
        (["--grace-s", "nan"], "'nan' is out of range"),
        (["--answer-margin-ms", "-1"], "'-1' is out of range"),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_a_bad_option_is_one_line_and_exit_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed(*arguments)
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert message in printed
    assert printed.count("\n") == 1


def test_half_a_pair_of_tls_files_is_refused() -> None:
    with pytest.raises(errors.StartError, match="come together"):
        server_options(parsed("--tls-key", "k"))
    with pytest.raises(errors.StartError, match="--tls-client-ca needs"):
        server_options(parsed("--tls-client-ca", "c"))


def test_a_start_error_is_reported_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(errors.StartError("two\nlines", 2)) == 2
    assert capsys.readouterr().err == "error: two lines\n"
