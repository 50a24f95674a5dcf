from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from server_runtime.errors import InvalidFieldError
from similarity_server.requests import (
    parse_embedding,
    parse_request_id,
    parse_search,
    parse_state,
    parse_time,
)
from tradeserve.similarity.v1 import similarity_service_pb2 as pb

DIMENSION = 4
UNIT = np.array([0.5, 0.5, 0.5, 0.5], dtype="<f4")


def search(**changes: object) -> pb.SearchNeighborsRequest:
    request = pb.SearchNeighborsRequest(embedding_f32=UNIT.tobytes(), neighbor_count=3)
    for key, value in changes.items():
        setattr(request, key, value)
    return request


def state(**changes: object) -> pb.State:
    message = pb.State(state_id=1, embedding_f32=UNIT.tobytes(), forward_return_bps=1.5)
    message.instrument.con_id = 7
    message.instrument.symbol = "AAA"
    message.event_time.FromSeconds(1000)
    message.outcome_time.FromSeconds(2000)
    message.bar_duration.FromSeconds(60)
    for key, value in changes.items():
        setattr(message, key, value)
    return message


def field_of(function: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(InvalidFieldError) as caught:
        function(*arguments)
    assert str(caught.value).startswith(f"{caught.value.field}: ")
    return caught.value.field


@pytest.mark.parametrize("count", [-1, 0, 257, 2**31 - 1])
def test_a_neighbor_count_outside_1_to_256_is_refused(count: int) -> None:
    assert field_of(parse_search, search(neighbor_count=count), DIMENSION) == "neighbor_count"


@pytest.mark.parametrize("count", [1, 256])
def test_the_bounds_of_neighbor_count_are_allowed(count: int) -> None:
    assert parse_search(search(neighbor_count=count), DIMENSION).count == count


@pytest.mark.parametrize(
    "vector",
    [
        UNIT[:3],
        np.append(UNIT, np.float32(0)),
        UNIT * np.float32(1.02),
        UNIT * np.float32(0.98),
        UNIT * 0,
        np.array([np.nan, 0, 0, 1], dtype="<f4"),
        np.array([np.inf, 0, 0, 0], dtype="<f4"),
        np.array([3e38, 3e38, 3e38, 3e38], dtype="<f4"),
    ],
    ids=["short", "long", "above", "below", "zero", "nan", "inf", "huge"],
)
def test_an_embedding_that_is_no_unit_vector_is_refused(vector: NDArray[np.float32]) -> None:
    assert field_of(parse_search, search(embedding_f32=vector.tobytes()), DIMENSION) == "embedding_f32"


@pytest.mark.parametrize("raw", [b"", b"\x00" * 15])
def test_bytes_that_are_no_float32_vector_are_refused(raw: bytes) -> None:
    assert field_of(parse_search, search(embedding_f32=raw), DIMENSION) == "embedding_f32"


def test_an_embedding_within_the_tolerance_is_normalised() -> None:
    vector = parse_embedding((UNIT * np.float32(1.009)).tobytes(), DIMENSION, "x")
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-6)


def test_without_before_time_every_state_counts() -> None:
    assert parse_search(search(), DIMENSION).wanted.before_ns is None


def test_before_time_at_the_epoch_is_not_unset() -> None:
    request = search()
    request.before_time.FromSeconds(0)
    assert parse_search(request, DIMENSION).wanted.before_ns == 0


@pytest.mark.parametrize(("seconds", "nanos"), [(2**62, 0), (-(2**62), 0), (0, -1), (0, 10**9)])
def test_an_impossible_timestamp_is_refused(seconds: int, nanos: int) -> None:
    request = search()
    request.before_time.seconds, request.before_time.nanos = seconds, nanos
    assert field_of(parse_search, request, DIMENSION) == "before_time"


def test_a_timestamp_beyond_int64_nanoseconds_is_clamped() -> None:
    request = search()
    request.before_time.seconds = 253_402_300_799
    assert parse_time(request.before_time, "x") == 2**63 - 1
    request.before_time.seconds = -62_135_596_800
    assert parse_time(request.before_time, "x") == -(2**63)


@pytest.mark.parametrize("request_id", ["", "x" * 65])
def test_a_request_id_is_required_and_bounded(request_id: str) -> None:
    assert field_of(parse_request_id, request_id) == "request_id"


def test_a_request_id_need_not_be_a_uuid() -> None:
    parse_request_id("from-grpcurl")


def test_a_state_is_parsed_to_nanoseconds() -> None:
    parsed, vector = parse_state(state(), DIMENSION, 0)
    assert (parsed.event_ns, parsed.outcome_ns, parsed.bar_ns) == (1000 * 10**9, 2000 * 10**9, 60 * 10**9)
    assert (parsed.con_id, parsed.symbol) == (7, "AAA")
    assert vector.tolist() == pytest.approx(UNIT.tolist())


def without(field: Literal["instrument", "event_time", "outcome_time", "bar_duration"]) -> pb.State:
    message = state()
    message.ClearField(field)
    return message


def early_outcome() -> pb.State:
    message = state()
    message.outcome_time.FromSeconds(999)
    return message


def negative_bar() -> pb.State:
    message = state()
    message.bar_duration.seconds = -60
    return message


def long_symbol() -> pb.State:
    message = state()
    message.instrument.symbol = "X" * 65
    return message


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (state(state_id=0), "state_id"),
        (state(state_id=-3), "state_id"),
        (without("instrument"), "instrument.con_id"),
        (long_symbol(), "instrument.symbol"),
        (without("event_time"), "event_time"),
        (without("outcome_time"), "outcome_time"),
        (early_outcome(), "outcome_time"),
        (without("bar_duration"), "bar_duration"),
        (negative_bar(), "bar_duration"),
        (state(forward_return_bps=float("nan")), "forward_return_bps"),
        (state(embedding_f32=b"abc"), "embedding_f32"),
    ],
)
def test_a_bad_state_names_its_position_and_field(message: pb.State, field: str) -> None:
    assert field_of(parse_state, message, DIMENSION, 17) == f"states[17].{field}"
