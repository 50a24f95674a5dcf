"""Calls to the similarity server: what its index holds, and one search at a time.

`search_stream.SearchStream` is the fast way for a caller that searches on every bar.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite

import grpc.aio
import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray
from uuid_utils import uuid7

from tradeserve.common.v1 import provenance_pb2
from tradeserve.similarity.v1 import similarity_service_pb2 as pb
from tradeserve.similarity.v1 import similarity_service_pb2_grpc as rpc
from tradeserve_client.answers import Answer, CallRecord
from tradeserve_client.budget import ClockNs
from tradeserve_client.channel import Link, TlsFiles, Transport
from tradeserve_client.errors import MalformedResponseError, TooLateError, error_of

SERVICE = "similarity"
_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Served:
    """A model or an index, as the server names it."""

    name: str
    version: int
    artifact_sha256: str
    export_commit: str = ""


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What a loaded index holds.

    Attributes:
        index: The index itself.
        embedding_model: Whose embeddings it holds; queries must come from the same bytes.
        dimension: Length of every embedding.
        state_count: States in it.
        as_of_ns: Latest state, nanoseconds UTC.
        horizon_bars: How many bars ahead the forward returns look.
        statement: What its card says on skill.
        index_kind: How the main part is searched, a FAISS factory string; "Flat" is exact.
        recall_at_10: Share of the ten nearest that a search finds, measured when it was built.
        recall_query_count: Queries behind that; 0 when it is exact.
        unmerged_count: States that were added and are not merged into the main part yet.
        deleted_count: States that were deleted.
        durable: Whether added and deleted states outlive the server.
    """

    index: Served
    embedding_model: Served
    dimension: int
    state_count: int
    as_of_ns: int
    horizon_bars: int
    statement: str = ""
    index_kind: str = ""
    recall_at_10: float = 0.0
    recall_query_count: int = 0
    unmerged_count: int = 0
    deleted_count: int = 0
    durable: bool = False


@dataclass(frozen=True, slots=True)
class NewState:
    """A market state with its outcome, to add to an index.

    Attributes:
        state_id: Unique in the index, from 1; made by the caller.
        con_id: What was traded.
        symbol: The same, for people.
        event_ns: Close of the last bar, nanoseconds UTC.
        outcome_ns: When its outcome was known, nanoseconds UTC.
        bar_size_s: Length of one bar.
        forward_return_bps: Return of the close over the index's horizon.
        embedding: (dimension,) float32, L2-normalised.
    """

    state_id: int
    con_id: int
    symbol: str
    event_ns: int
    outcome_ns: int
    bar_size_s: int
    forward_return_bps: float
    embedding: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What the neighbours' forward returns r say together, weighted with their similarity w > 0.

    Attributes:
        neighbor_count: Neighbours that count.
        mean_return_bps: sum(w r) / sum(w).
        hit_rate: sum(w [r > 0]) / sum(w), 0 to 1.
        dispersion_bps: sqrt(sum(w (r - mean)^2) / sum(w)).
        effective_count: sum(w)^2 / sum(w^2).
    """

    neighbor_count: int
    mean_return_bps: float
    hit_rate: float
    dispersion_bps: float
    effective_count: float


@dataclass(frozen=True, slots=True)
class Match:
    """One past market state near the query."""

    state_id: int
    con_id: int
    symbol: str
    event_ns: int
    bar_size_s: int
    similarity: float
    forward_return_bps: float


@dataclass(frozen=True, slots=True)
class Matches:
    """An answer of the index, nearest first.

    Attributes:
        matches: The neighbours: the evidence.
        index: What answered.
        outcomes: What they say together, computed by the server; None when no neighbour counts.
    """

    matches: Sequence[Match]
    index: Served
    outcomes: Outcomes | None = None


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """One search.

    Attributes:
        index_name: Which index.
        embedding: (dimension,) float32, L2-normalised.
        neighbor_count: 1 to 256.
        before_ns: Only states whose outcome was known before this instant; 0 for all.
        index_version: 0 accepts whichever is loaded.
        con_ids: Only states of these instruments, at most 256; empty for all.
        bar_size_s: Only states of this length of a bar; 0 for all.
    """

    index_name: str
    embedding: NDArray[np.float32]
    neighbor_count: int
    before_ns: int = 0
    index_version: int = 0
    con_ids: tuple[int, ...] = ()
    bar_size_s: int = 0


def search_message(query: SearchQuery, request_id: str) -> pb.SearchNeighborsRequest:
    """Return a query as its protobuf message."""
    message = pb.SearchNeighborsRequest(
        request_id=request_id,
        index_name=query.index_name,
        index_version=query.index_version,
        embedding_f32=query.embedding.astype("<f4", copy=False).tobytes(),
        neighbor_count=query.neighbor_count,
    )
    if query.before_ns:
        seconds, nanos = divmod(query.before_ns, _NS_PER_S)
        message.before_time.seconds = seconds
        message.before_time.nanos = nanos
    if query.con_ids:
        message.con_ids.extend(query.con_ids)
    if query.bar_size_s:
        message.bar_duration.seconds = query.bar_size_s
    return message


def read_matches(
    response: pb.SearchNeighborsResponse, query: SearchQuery, request_id: str, call: CallRecord
) -> tuple[Matches, CallRecord]:
    """Read an answer, and complete the record with what answered and where its time went.

    Raises:
        MalformedResponseError: It is not what was asked for.
    """
    served = _served(response.provenance)
    if response.request_id != request_id:
        raise _malformed(f"answers request {response.request_id!r}, asked was {request_id!r}")
    if served.name != query.index_name:
        raise _malformed(f"comes from index {served.name!r}, asked was {query.index_name!r}")
    if query.index_version and served.version != query.index_version:
        raise _malformed(f"comes from index version {served.version}, asked was {query.index_version}")
    if len(response.neighbors) > query.neighbor_count:
        raise _malformed(f"has {len(response.neighbors)} neighbours, asked were {query.neighbor_count}")
    matches = tuple(
        Match(
            neighbor.state_id,
            neighbor.instrument.con_id,
            neighbor.instrument.symbol,
            _ns(neighbor.event_time),
            neighbor.bar_duration.seconds,
            neighbor.similarity,
            neighbor.forward_return_bps,
        )
        for neighbor in response.neighbors
    )
    if query.before_ns and any(match.event_ns >= query.before_ns for match in matches):
        raise _malformed("has a neighbour from the future of the query")
    if query.con_ids and any(match.con_id not in query.con_ids for match in matches):
        raise _malformed("has a neighbour of another instrument than asked")
    if query.bar_size_s and any(match.bar_size_s != query.bar_size_s for match in matches):
        raise _malformed("has a neighbour of another length of a bar than asked")
    if not all(isfinite(match.similarity) and isfinite(match.forward_return_bps) for match in matches):
        raise _malformed("has a neighbour whose similarity or return is not a number")
    timing = response.timing
    record = replace(
        call,
        queue_ns=timing.queue_duration.ToNanoseconds() if timing.HasField("queue_duration") else -1,
        compute_ns=timing.compute_duration.ToNanoseconds() if timing.HasField("compute_duration") else -1,
        model_name=served.name,
        model_version=served.version,
        artifact_sha256=served.artifact_sha256,
    )
    return Matches(matches, served, _outcomes(response)), record


class SimilarityClient:
    """One similarity server, called one request at a time.

    Attributes:
        link: Its channel, watched.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: TlsFiles | None = None,
        transport: Transport = Transport.GRPC,
        clock_ns: ClockNs = time.monotonic_ns,
    ) -> None:
        self.link = Link(target, tls=tls, transport=transport)
        self.stub = rpc.SimilarityServiceStub(self.link.channel)
        self._clock_ns = clock_ns

    @property
    def target(self) -> str:
        """Where it is."""
        return self.link.target

    async def get_index(self, index_name: str, *, timeout_s: float) -> IndexInfo:
        """Return what the index holds.

        Raises:
            CallError: No answer; its reason is CONTRACT_MISMATCH when no such index is loaded.
        """
        try:
            response = await self.stub.GetIndex(pb.GetIndexRequest(index_name=index_name), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise error_of(SERVICE, error) from error
        return IndexInfo(
            index=_served(response.provenance),
            embedding_model=_served(response.embedding_model),
            dimension=response.dimension,
            state_count=response.state_count,
            as_of_ns=_ns(response.as_of_time),
            horizon_bars=response.horizon_bars,
            statement=response.statement,
            index_kind=response.index_kind,
            recall_at_10=response.recall_at_10,
            recall_query_count=response.recall_query_count,
            unmerged_count=response.unmerged_count,
            deleted_count=response.deleted_count,
            durable=response.durable,
        )

    async def search(self, query: SearchQuery, *, timeout_s: float) -> Answer[Matches]:
        """Search with a call of its own.

        Raises:
            CallError: No answer in time.
        """
        request_id = str(uuid7())
        sent_ns = self._clock_ns()
        deadline_ns = sent_ns + int(timeout_s * 1e9)
        try:
            response = await self.stub.SearchNeighbors(search_message(query, request_id), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise error_of(SERVICE, error) from error
        call = CallRecord(SERVICE, request_id, sent_ns, deadline_ns, self._clock_ns())
        if call.received_ns > deadline_ns:
            raise TooLateError(SERVICE, f"arrived {(call.received_ns - deadline_ns) / 1e6:.1f} ms late")
        return Answer(*read_matches(response, query, request_id, call))

    async def add_states(self, index_name: str, states: Sequence[NewState], *, timeout_s: float) -> int:
        """Add states to an index, all or none. Adding one that is there changes nothing.

        Args:
            index_name: Which index.
            states: At most 1,000.
            timeout_s: Time for the call.

        Returns:
            How many were new.

        Raises:
            CallError: They were not added, or it is not known; adding them again is safe.
        """
        request = pb.AddStatesRequest(request_id=str(uuid7()), index_name=index_name)
        for state in states:
            message = request.states.add(
                state_id=state.state_id,
                embedding_f32=state.embedding.astype("<f4", copy=False).tobytes(),
                forward_return_bps=state.forward_return_bps,
            )
            message.instrument.con_id = state.con_id
            message.instrument.symbol = state.symbol
            message.event_time.seconds, message.event_time.nanos = divmod(state.event_ns, _NS_PER_S)
            message.outcome_time.seconds, message.outcome_time.nanos = divmod(state.outcome_ns, _NS_PER_S)
            message.bar_duration.seconds = state.bar_size_s
        try:
            response = await self.stub.AddStates(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise error_of(SERVICE, error) from error
        return int(response.added_count)

    async def delete_states(self, index_name: str, state_ids: Sequence[int], *, timeout_s: float) -> int:
        """Delete states from an index, all or none. An id that is not there changes nothing.

        Args:
            index_name: Which index.
            state_ids: At most 1,000.
            timeout_s: Time for the call.

        Returns:
            How many were there.

        Raises:
            CallError: They were not deleted, or it is not known; deleting them again is safe.
        """
        request = pb.DeleteStatesRequest(
            request_id=str(uuid7()), index_name=index_name, state_ids=list(state_ids)
        )
        try:
            response = await self.stub.DeleteStates(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise error_of(SERVICE, error) from error
        return int(response.deleted_count)

    async def close(self) -> None:
        """Close the channel."""
        await self.link.close()


def _outcomes(response: pb.SearchNeighborsResponse) -> Outcomes | None:
    if not response.HasField("outcomes"):
        return None
    of = response.outcomes
    figures = (of.mean_return_bps, of.hit_rate, of.dispersion_bps, of.effective_count)
    if not all(map(isfinite, figures)):
        raise _malformed("has outcome statistics that are not numbers")
    return Outcomes(of.neighbor_count, *figures)


def _served(provenance: provenance_pb2.ModelProvenance) -> Served:
    return Served(
        provenance.model_name,
        provenance.model_version,
        provenance.artifact_sha256.hex(),
        provenance.export_commit,
    )


def _ns(timestamp: Timestamp) -> int:
    return timestamp.seconds * _NS_PER_S + timestamp.nanos


def _malformed(what: str) -> MalformedResponseError:
    return MalformedResponseError(SERVICE, f"malformed answer: it {what}")
