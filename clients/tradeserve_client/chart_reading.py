"""Readings of charts by the vision server: slow, off the order path, and not to be used once expired."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import grpc.aio
from google.protobuf.message import DecodeError
from uuid_utils import uuid7

from tradeserve.vision.v1 import chart_reading_service_pb2 as pb
from tradeserve.vision.v1 import chart_reading_service_pb2_grpc as rpc
from tradeserve_client.answers import Answer, CallRecord, NoAnswer, Outcome, Reason, Timing
from tradeserve_client.budget import Budget, ClockNs, end_ns_of
from tradeserve_client.channel import MAX_MESSAGE_BYTES, Link, TlsFiles, Transport
from tradeserve_client.chart_messages import (
    MAX_REASONING_CHARACTERS,
    SERVICE,
    ChartContext,
    ChartExtent,
    ChartQuery,
    ChartReading,
    Contradiction,
    PastOutcome,
    ReaderInfo,
    ReadingRecord,
    read_answer,
    read_message,
    reader_info,
)
from tradeserve_client.errors import (
    MalformedResponseError,
    ServerDownError,
    TooLateError,
    WrongRequestError,
    error_of,
)
from tradeserve_client.fan_out import FanOut, OnLate
from tradeserve_client.metadata import Metadata, MetadataChannel, MetadataSource
from tradeserve_client.replicas import ReplicaLimits, ReplicaSet, Targets
from tradeserve_client.resilience import CallCounts, Caller, OnOutcome, Resilience, ignore_outcome

__all__ = [
    "MAX_PNG_BYTES",
    "MAX_REASONING_CHARACTERS",
    "READ_METHOD",
    "SERVICE",
    "ChartContext",
    "ChartExtent",
    "ChartQuery",
    "ChartReading",
    "ChartReadingClient",
    "Contradiction",
    "PastOutcome",
    "ReaderInfo",
    "ReadingRecord",
]

READ_METHOD = "/tradeserve.vision.v1.ChartReadingService/ReadChart"
MAX_PNG_BYTES = MAX_MESSAGE_BYTES - 65_536
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class _ReadRequest:
    request_id: str
    body: bytes

    def decode(self, body: bytes, call: Timing) -> tuple[ChartReading, CallRecord]:
        try:
            response = pb.ReadChartResponse.FromString(body)
        except DecodeError as error:
            raise MalformedResponseError(SERVICE, f"not a ReadChartResponse: {error}") from error
        reading = read_answer(response, self.request_id)
        timing = response.timing
        record = replace(
            CallRecord.of(call),
            queue_ns=timing.queue_duration.ToNanoseconds() if timing.HasField("queue_duration") else -1,
            compute_ns=timing.compute_duration.ToNanoseconds() if timing.HasField("compute_duration") else -1,
            model_name=reading.model.name,
            model_version=reading.model.version,
            artifact_sha256=reading.model.artifact_sha256,
        )
        return reading, record


class ChartReadingClient:
    """The vision server, or several replicas of it.

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
        metadata: MetadataSource | None = None,
        transport: Transport = Transport.GRPC,
        on_late: OnLate | None = None,
        on_outcome: OnOutcome | None = None,
        clock_ns: ClockNs = time.monotonic_ns,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Make a client; it connects with the first call, or with `ready`.

        Args:
            target: host:port or unix:/path; several separated by commas, or a sequence.
            tls: Files for encrypted connections; None for plain text.
            limits: Calls in flight and failures in a row per replica.
            resilience: Retries; hedges of a model this slow are not worth their cost.
            metadata: Headers of every call, or what gives them.
            transport: What carries the calls.
            on_late: Told of every answer that came after its deadline; it is never returned.
            on_outcome: Told of what every call gave back, e.g. CallMetrics.observe.
            clock_ns: Monotonic clock.
            wall_ns: Nanoseconds UTC, for the expiry.

        Raises:
            TradeserveError: A target, a TLS file or a header is unusable.
        """
        self.replicas = ReplicaSet(
            target, tls=tls, metadata=metadata, limits=limits, transport=transport, clock_ns=clock_ns
        )
        self._caller = Caller(
            self.replicas, READ_METHOD, FanOut(on_late=on_late, clock_ns=clock_ns), resilience
        )
        self._tls = tls
        self._metadata = metadata
        self._links: dict[str, Link] = {}
        self._clock_ns = clock_ns
        self._on_outcome = on_outcome or ignore_outcome
        self._wall_ns = wall_ns

    @property
    def counts(self) -> CallCounts:
        """Calls and retries so far."""
        return self._caller.counts

    async def ready(self, timeout_s: float) -> bool:
        """Connect, bounded; return whether any replica is connected."""
        return await self.replicas.ready(timeout_s)

    async def read_chart(
        self, query: ChartQuery, *, budget: Budget, metadata: Metadata | None = None
    ) -> Outcome[ChartReading]:
        """Have a chart read; return the reading in time, or why there is none.

        A reading that has expired when it arrives is no answer: STALE.

        Args:
            query: The chart.
            budget: Seconds from now, a Deadline, or the LatencyBudget that the call is part of.
            metadata: Headers of this call, beside the client's.

        Raises:
            WrongRequestError: The image is no PNG or too large.
            ValueError: The budget is no time.
        """
        deadline_ns = end_ns_of(budget, self._clock_ns)
        called = await self._caller.call(SERVICE, _request(query), deadline_ns, metadata=metadata)
        outcome = called.outcome
        if isinstance(outcome, Answer) and outcome.value.expire_ns <= self._wall_ns():
            outcome = NoAnswer(Reason.STALE, "the reading had expired when it arrived", outcome.call)
        self._on_outcome(outcome)
        return outcome

    async def reader(self, *, timeout_s: float) -> ReaderInfo:
        """Return the model and prompts of the first server that answers, and what it takes.

        Raises:
            CallError: No answer.
        """
        targets = [replica.target for replica in self.replicas.replicas]
        share_s = timeout_s / len(targets)
        for target in targets[:-1]:
            with contextlib.suppress(ServerDownError, TooLateError):
                return await self._reader_at(target, share_s)
        return await self._reader_at(targets[-1], share_s)

    async def close(self) -> None:
        """Close the channels; nothing of this object runs afterwards."""
        await self._caller.close()
        await self.replicas.close()
        for link in self._links.values():
            await link.close()

    async def _reader_at(self, target: str, timeout_s: float) -> ReaderInfo:
        if target not in self._links:
            self._links[target] = Link(target, tls=self._tls)
        channel = self._links[target].channel
        stub = rpc.ChartReadingServiceStub(
            channel if self._metadata is None else MetadataChannel(channel, self._metadata)
        )
        try:
            response = await stub.GetReader(pb.GetReaderRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise error_of(SERVICE, error) from error
        return reader_info(response)


def _request(query: ChartQuery) -> _ReadRequest:
    if not query.chart_png.startswith(_PNG):
        raise WrongRequestError(SERVICE, "chart_png is not a PNG image")
    if len(query.chart_png) > MAX_PNG_BYTES:
        raise WrongRequestError(
            SERVICE, f"chart_png has {len(query.chart_png)} bytes, the limit is {MAX_PNG_BYTES}"
        )
    request_id = query.request_id or str(uuid7())
    return _ReadRequest(request_id, read_message(query, request_id).SerializeToString())
