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
    """

    index: Served
    embedding_model: Served
    dimension: int
    state_count: int
    as_of_ns: int
    horizon_bars: int
    statement: str = ""


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
    """An answer of the index, nearest first."""

    matches: Sequence[Match]
    index: Served


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """One search.

    Attributes:
        index_name: Which index.
        embedding: (dimension,) float32, L2-normalised.
        neighbor_count: 1 to 256.
        before_ns: Only states whose outcome was known before this instant; 0 for all.
        index_version: 0 accepts whichever is loaded.
    """

    index_name: str
    embedding: NDArray[np.float32]
    neighbor_count: int
    before_ns: int = 0
    index_version: int = 0


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
    return Matches(matches, served), record


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

    async def close(self) -> None:
        """Close the channel."""
        await self.link.close()


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
