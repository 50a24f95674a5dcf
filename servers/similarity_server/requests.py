"""Parse requests: foreign bytes to values, or an error that names the field. Pure."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from server_runtime.errors import InvalidFieldError
from similarity_server.added import State
from tradeserve.similarity.v1 import similarity_service_pb2 as pb

MAX_NEIGHBORS = 256
MAX_STATES_PER_CALL = 1000
_MAX_REQUEST_ID = 64
_MAX_SYMBOL = 64
_NORM_TOLERANCE = 1e-2
_INT64 = 2**63
_NS = 1_000_000_000
# What google.protobuf.Timestamp allows: the years 1 to 9999.
_MIN_SECONDS, _MAX_SECONDS = -62_135_596_800, 253_402_300_799
_MAX_BAR_S = 366 * 86_400


@dataclass(frozen=True, slots=True)
class Search:
    """A valid search.

    Attributes:
        query: (dimension,) float32, length 1.
        count: Most neighbours to return.
        before_ns: Only states whose outcome was known before count; None for all.
    """

    query: NDArray[np.float32]
    count: int
    before_ns: int | None


class _SecondsAndNanos(Protocol):
    seconds: int
    nanos: int


def parse_request_id(request_id: str) -> None:
    """Check a request id. A UUIDv7 is what the SDK sends; people with grpcurl may send less.

    Raises:
        InvalidFieldError: It is empty or too long.
    """
    if not request_id:
        raise InvalidFieldError("request_id", "is empty: send a UUIDv7")
    if len(request_id) > _MAX_REQUEST_ID:
        raise InvalidFieldError("request_id", f"has {len(request_id)} characters, at most {_MAX_REQUEST_ID}")


def parse_search(request: pb.SearchNeighborsRequest, dimension: int) -> Search:
    """Parse a search for an index of the given dimension.

    Raises:
        InvalidFieldError: A field is malformed.
    """
    if not 1 <= request.neighbor_count <= MAX_NEIGHBORS:
        raise InvalidFieldError(
            "neighbor_count", f"is {request.neighbor_count}: ask for 1 to {MAX_NEIGHBORS}"
        )
    return Search(
        query=parse_embedding(request.embedding_f32, dimension, "embedding_f32"),
        count=request.neighbor_count,
        before_ns=parse_time(request.before_time, "before_time") if request.HasField("before_time") else None,
    )


def parse_embedding(raw: bytes, dimension: int, field: str) -> NDArray[np.float32]:
    """Parse little-endian float32 bytes into a vector of length 1.

    Raises:
        InvalidFieldError: Wrong dimension, not finite, or not normalised.
    """
    if len(raw) != 4 * dimension:
        raise InvalidFieldError(
            field,
            f"has {len(raw)} bytes: the index has {dimension} dimensions, {4 * dimension} bytes of float32",
        )
    vector = np.frombuffer(raw, dtype="<f4").astype(np.float32, copy=False)
    # In float64: squares of large float32 values overflow, and a NaN or infinity ends up in the norm.
    norm = float(np.sqrt(np.dot(vector, vector.astype(np.float64))))
    if not np.isfinite(norm):
        raise InvalidFieldError(field, "holds a NaN or an infinite value")
    if abs(norm - 1.0) > _NORM_TOLERANCE:
        raise InvalidFieldError(field, f"has L2 norm {norm:.4g}, not 1: normalise it")
    return vector / np.float32(norm)


def parse_time(time: _SecondsAndNanos, field: str) -> int:
    """Parse a timestamp into nanoseconds UTC, clamped to what int64 holds (the years 1677 to 2262).

    Raises:
        InvalidFieldError: It is not a valid google.protobuf.Timestamp.
    """
    if not (_MIN_SECONDS <= time.seconds <= _MAX_SECONDS and 0 <= time.nanos < _NS):
        raise InvalidFieldError(field, f"is no timestamp: seconds {time.seconds}, nanos {time.nanos}")
    return max(-_INT64, min(_INT64 - 1, time.seconds * _NS + time.nanos))


def parse_state(state: pb.State, dimension: int, position: int) -> tuple[State, NDArray[np.float32]]:
    """Parse one state to add.

    Raises:
        InvalidFieldError: A field is malformed; it is named "states[position].field".
    """
    at = f"states[{position}]."
    if state.state_id < 1:
        raise InvalidFieldError(f"{at}state_id", f"is {state.state_id}: ids start at 1")
    if state.instrument.con_id < 1:
        raise InvalidFieldError(f"{at}instrument.con_id", "is missing: send the contract id")
    if len(state.instrument.symbol) > _MAX_SYMBOL:
        raise InvalidFieldError(f"{at}instrument.symbol", f"is longer than {_MAX_SYMBOL} characters")
    for field in ("event_time", "outcome_time"):
        if not state.HasField(field):
            raise InvalidFieldError(f"{at}{field}", "is missing")
    event_ns = parse_time(state.event_time, f"{at}event_time")
    outcome_ns = parse_time(state.outcome_time, f"{at}outcome_time")
    if outcome_ns < event_ns:
        raise InvalidFieldError(f"{at}outcome_time", "is before event_time: an outcome follows its state")
    bar = state.bar_duration
    if not (0 <= bar.seconds <= _MAX_BAR_S and 0 <= bar.nanos < _NS and bar.seconds + bar.nanos > 0):
        raise InvalidFieldError(f"{at}bar_duration", "is not between 1 ns and 366 days")
    if not np.isfinite(state.forward_return_bps):
        raise InvalidFieldError(f"{at}forward_return_bps", "is not finite")
    parsed = State(
        state_id=state.state_id,
        con_id=state.instrument.con_id,
        symbol=state.instrument.symbol,
        event_ns=event_ns,
        outcome_ns=outcome_ns,
        bar_ns=bar.seconds * _NS + bar.nanos,
        forward_return_bps=state.forward_return_bps,
    )
    return parsed, parse_embedding(state.embedding_f32, dimension, f"{at}embedding_f32")
