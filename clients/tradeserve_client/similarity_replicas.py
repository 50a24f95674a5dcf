"""Searches over several similarity servers: an outcome as a value, retried or hedged on another one."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from uuid_utils import uuid7

from tradeserve.similarity.v1 import similarity_service_pb2 as pb
from tradeserve_client.answers import CallRecord, Outcome, Reason, Timing
from tradeserve_client.budget import Budget, ClockNs, end_ns_of
from tradeserve_client.channel import TlsFiles, Transport
from tradeserve_client.contract import digest_differences
from tradeserve_client.errors import CallError, MalformedResponseError, ServerDownError, TooLateError
from tradeserve_client.fan_out import FanOut, OnLate
from tradeserve_client.metadata import Metadata, MetadataSource
from tradeserve_client.replicas import ReplicaLimits, ReplicaSet, Targets
from tradeserve_client.resilience import CallCounts, Caller, OnOutcome, Resilience, ignore_outcome
from tradeserve_client.similarity import (
    SERVICE,
    IndexInfo,
    Matches,
    SearchQuery,
    SimilarityClient,
    read_matches,
    search_message,
)

SEARCH_METHOD = "/tradeserve.similarity.v1.SimilarityService/SearchNeighbors"


@dataclass(frozen=True, slots=True)
class _SearchRequest:
    request_id: str
    body: bytes
    query: SearchQuery
    index_sha256: str

    def decode(self, body: bytes, call: Timing) -> tuple[Matches, CallRecord]:
        try:
            response = pb.SearchNeighborsResponse.FromString(body)
        except DecodeError as error:
            raise MalformedResponseError(SERVICE, f"not a SearchNeighborsResponse: {error}") from error
        matches, record = read_matches(response, self.query, self.request_id, CallRecord.of(call))
        found = digest_differences(
            f"index {self.query.index_name}", self.index_sha256, matches.index.artifact_sha256
        )
        if found:
            raise CallError(SERVICE, found[0], Reason.CONTRACT_MISMATCH)
        return matches, record


class SimilarityReplicas:
    """Several servers of the same index.

    Attributes:
        replicas: The servers.
    """

    def __init__(
        self,
        target: Targets,
        *,
        tls: TlsFiles | None = None,
        limits: ReplicaLimits | None = None,
        resilience: Resilience | None = None,
        index_sha256: str = "",
        metadata: MetadataSource | None = None,
        transport: Transport = Transport.GRPC,
        on_late: OnLate | None = None,
        on_outcome: OnOutcome | None = None,
        clock_ns: ClockNs = time.monotonic_ns,
    ) -> None:
        """Make a client; it connects with the first call, or with `ready`.

        Args:
            target: host:port or unix:/path; several separated by commas, or a sequence.
            tls: Files for encrypted connections; None for plain text.
            limits: Calls in flight and failures in a row per replica.
            resilience: Retries and hedges.
            index_sha256: Digest that every answer's index must have; "" accepts any.
            metadata: Headers of every call, or what gives them.
            transport: What carries the calls.
            on_late: Told of every answer that came after its deadline; it is never returned.
            on_outcome: Told of what every call gave back, e.g. CallMetrics.observe.
            clock_ns: Monotonic clock.

        Raises:
            TradeserveError: A target, a TLS file or a header is unusable.
        """
        self.replicas = ReplicaSet(
            target, tls=tls, metadata=metadata, limits=limits, transport=transport, clock_ns=clock_ns
        )
        self._caller = Caller(
            self.replicas, SEARCH_METHOD, FanOut(on_late=on_late, clock_ns=clock_ns), resilience
        )
        self._clients: tuple[SimilarityClient, ...] = ()
        self._tls = tls
        self._index_sha256 = index_sha256
        self._clock_ns = clock_ns
        self._on_outcome = on_outcome or ignore_outcome

    @property
    def counts(self) -> CallCounts:
        """Calls, retries and hedges so far."""
        return self._caller.counts

    async def ready(self, timeout_s: float) -> bool:
        """Connect, bounded; return whether any replica is connected."""
        return await self.replicas.ready(timeout_s)

    async def search(
        self, query: SearchQuery, *, budget: Budget, metadata: Metadata | None = None
    ) -> Outcome[Matches]:
        """Search; return the neighbours in time, or why there are none.

        Args:
            query: What to look for.
            budget: Seconds from now, a Deadline, or the LatencyBudget that the call is part of.
            metadata: Headers of this call, beside the client's.

        Raises:
            ValueError: The budget is no time.
        """
        deadline_ns = end_ns_of(budget, self._clock_ns)
        request_id = str(uuid7())
        body = search_message(query, request_id).SerializeToString()
        request = _SearchRequest(request_id, body, query, self._index_sha256)
        outcome = (await self._caller.call(SERVICE, request, deadline_ns, metadata=metadata)).outcome
        self._on_outcome(outcome)
        return outcome

    async def get_index(self, index_name: str, *, timeout_s: float) -> IndexInfo:
        """Return what the first server that answers holds.

        Raises:
            CallError: No answer; its reason is CONTRACT_MISMATCH when no such index is loaded.
        """
        if not self._clients:
            self._clients = tuple(
                SimilarityClient(replica.target, tls=self._tls) for replica in self.replicas.replicas
            )
        for client in self._clients[:-1]:
            with contextlib.suppress(ServerDownError, TooLateError):
                return await client.get_index(index_name, timeout_s=timeout_s / len(self._clients))
        return await self._clients[-1].get_index(index_name, timeout_s=timeout_s / len(self._clients))

    async def close(self) -> None:
        """Close the channels; nothing of this object runs afterwards."""
        await self._caller.close()
        await self.replicas.close()
        for client in self._clients:
            await client.close()
