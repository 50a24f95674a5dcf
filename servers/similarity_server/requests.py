"""Parse requests: foreign bytes to values, or an error that names the field. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from server_runtime.errors import InvalidFieldError
from similarity_server.filters import Filter
from similarity_server.states import State
from tradeserve.similarity.v1 import similarity_service_pb2 as pb

MAX_NEIGHBORS = 256
MAX_STATES_PER_CALL = 1000
MAX_CON_IDS = 256
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
        wanted: Which states count.
    """

    query: NDArray[np.float32]
    count: int
    wanted: Filter


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
        wanted=_parse_filter(request),
    )


def _parse_filter(request: pb.SearchNeighborsRequest) -> Filter:
    if len(request.con_ids) > MAX_CON_IDS:
        raise InvalidFieldError("con_ids", f"holds {len(request.con_ids)} ids: send at most {MAX_CON_IDS}")
    con_ids = frozenset(request.con_ids)
    if con_ids and min(con_ids) < 1:
        raise InvalidFieldError("con_ids", f"holds {min(con_ids)}: contract ids start at 1")
    return Filter(
        before_ns=parse_time(request.before_time, "before_time") if request.HasField("before_time") else None,
        con_ids=con_ids,
        bar_ns=_parse_bar(request.bar_duration, "bar_duration") if request.HasField("bar_duration") else None,
    )


def _parse_bar(bar: _SecondsAndNanos, field: str) -> int:
    if not (0 <= bar.seconds <= _MAX_BAR_S and 0 <= bar.nanos < _NS and bar.seconds + bar.nanos > 0):
        raise InvalidFieldError(field, "is not between 1 ns and 366 days")
    return bar.seconds * _NS + bar.nanos


def parse_state_ids(state_ids: Sequence[int]) -> list[int]:
    """Parse ids of states to delete.

    Raises:
        InvalidFieldError: There are too many, or one is no id.
    """
    if len(state_ids) > MAX_STATES_PER_CALL:
        raise InvalidFieldError(
            "state_ids", f"holds {len(state_ids)} ids: send at most {MAX_STATES_PER_CALL} per call"
        )
    for position, state_id in enumerate(state_ids):
        if state_id < 1:
            raise InvalidFieldError(f"state_ids[{position}]", f"is {state_id}: ids start at 1")
    return list(state_ids)


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
    if "\0" in state.instrument.symbol:
        raise InvalidFieldError(f"{at}instrument.symbol", "holds a NUL character")
    for field in ("event_time", "outcome_time"):
        if not state.HasField(field):
            raise InvalidFieldError(f"{at}{field}", "is missing")
    event_ns = parse_time(state.event_time, f"{at}event_time")
    outcome_ns = parse_time(state.outcome_time, f"{at}outcome_time")
    if outcome_ns < event_ns:
        raise InvalidFieldError(f"{at}outcome_time", "is before event_time: an outcome follows its state")
    bar_ns = _parse_bar(state.bar_duration, f"{at}bar_duration")
    if not np.isfinite(state.forward_return_bps):
        raise InvalidFieldError(f"{at}forward_return_bps", "is not finite")
    parsed = State(
        state_id=state.state_id,
        con_id=state.instrument.con_id,
        symbol=state.instrument.symbol,
        event_ns=event_ns,
        outcome_ns=outcome_ns,
        bar_ns=bar_ns,
        forward_return_bps=state.forward_return_bps,
    )
    return parsed, parse_embedding(state.embedding_f32, dimension, f"{at}embedding_f32")
