"""Readings of charts by the vision server: slow, off the order path, and not to be used once expired."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isfinite

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from uuid_utils import uuid7

from tradeserve.market.v1 import market_pb2
from tradeserve.vision.v1 import chart_reading_service_pb2 as pb
from tradeserve_client.answers import Answer, CallRecord, NoAnswer, Outcome, Reason
from tradeserve_client.budget import Budget, ClockNs, deadline_of
from tradeserve_client.channel import MAX_MESSAGE_BYTES, TlsFiles, Transport
from tradeserve_client.errors import MalformedResponseError, WrongRequestError
from tradeserve_client.fan_out import FanOut, OnLate
from tradeserve_client.metadata import Metadata, MetadataSource
from tradeserve_client.replicas import ReplicaLimits, ReplicaSet, Targets
from tradeserve_client.resilience import CallCounts, Caller, OnOutcome, Resilience, ignore_outcome
from tradeserve_client.similarity import Served
from tradeserve_client.strategy_service import Side

SERVICE = "vision"
READ_METHOD = "/tradeserve.vision.v1.ChartReadingService/ReadChart"
MAX_PNG_BYTES = MAX_MESSAGE_BYTES - 4096
MAX_REASONING_CHARACTERS = 1000
_PNG = b"\x89PNG\r\n\x1a\n"
_NS_PER_S = 1_000_000_000
_SIDES: Mapping[int, Side] = {
    market_pb2.SIDE_BUY: Side.BUY,
    market_pb2.SIDE_SELL: Side.SELL,
    market_pb2.SIDE_HOLD: Side.HOLD,
}


@dataclass(frozen=True, slots=True)
class ChartQuery:
    """One chart to read.

    Attributes:
        con_id: Interactive Brokers contract id of what it shows.
        symbol: For people and the prompt.
        chart_png: The image, PNG.
        as_of_ns: Latest market event drawn, exchange time in nanoseconds UTC.
        prompt_name: Prompt template on the server; "" for the server's own.
    """

    con_id: int
    symbol: str
    chart_png: bytes
    as_of_ns: int
    prompt_name: str = ""


@dataclass(frozen=True, slots=True)
class ChartReading:
    """What the model saw.

    Attributes:
        signal: Which way it leans.
        stated_confidence: 0 to 1 as the model states it; not calibrated.
        reasoning: Its words, at most 1,000 characters.
        expire_ns: Not to be used at or after this instant, nanoseconds UTC.
        model: What answered.
    """

    signal: Side
    stated_confidence: float
    reasoning: str
    expire_ns: int
    model: Served


@dataclass(frozen=True, slots=True)
class _ReadRequest:
    request_id: str
    body: bytes

    def decode(self, body: bytes, call: CallRecord) -> tuple[ChartReading, CallRecord]:
        try:
            response = pb.ReadChartResponse.FromString(body)
        except DecodeError as error:
            raise MalformedResponseError(SERVICE, f"not a ReadChartResponse: {error}") from error
        if response.request_id != self.request_id:
            raise _malformed(f"answers request {response.request_id!r}, asked was {self.request_id!r}")
        signal = _SIDES.get(response.signal)
        if signal is None:
            raise _malformed(f"has the unknown signal {response.signal}")
        confidence = response.stated_confidence
        if not (isfinite(confidence) and 0 <= confidence <= 1):
            raise _malformed(f"states a confidence of {confidence:g}, not 0 to 1")
        if len(response.reasoning) > MAX_REASONING_CHARACTERS:
            raise _malformed(f"has {len(response.reasoning)} characters of reasoning")
        if not response.HasField("expire_time"):
            raise _malformed("does not say when it expires")
        made_by, timing = response.provenance, response.timing
        model = Served(
            made_by.model_name, made_by.model_version, made_by.artifact_sha256.hex(), made_by.export_commit
        )
        record = replace(
            call,
            queue_ns=timing.queue_duration.ToNanoseconds() if timing.HasField("queue_duration") else -1,
            compute_ns=timing.compute_duration.ToNanoseconds() if timing.HasField("compute_duration") else -1,
            model_name=model.name,
            model_version=model.version,
            artifact_sha256=model.artifact_sha256,
        )
        reading = ChartReading(signal, confidence, response.reasoning, _ns(response.expire_time), model)
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
        deadline_ns = deadline_of(budget, self._clock_ns).at_ns
        called = await self._caller.call(SERVICE, _request(query), deadline_ns, metadata=metadata)
        outcome = called.outcome
        if isinstance(outcome, Answer) and outcome.value.expire_ns <= self._wall_ns():
            outcome = NoAnswer(Reason.STALE, "the reading had expired when it arrived", outcome.call)
        self._on_outcome(outcome)
        return outcome

    async def close(self) -> None:
        """Close the channels; nothing of this object runs afterwards."""
        await self._caller.close()
        await self.replicas.close()


def _request(query: ChartQuery) -> _ReadRequest:
    if not query.chart_png.startswith(_PNG):
        raise WrongRequestError(SERVICE, "chart_png is not a PNG image")
    if len(query.chart_png) > MAX_PNG_BYTES:
        raise WrongRequestError(
            SERVICE, f"chart_png has {len(query.chart_png)} bytes, the limit is {MAX_PNG_BYTES}"
        )
    message = pb.ReadChartRequest(
        request_id=str(uuid7()), chart_png=query.chart_png, prompt_name=query.prompt_name
    )
    message.instrument.con_id = query.con_id
    message.instrument.symbol = query.symbol
    message.as_of_time.seconds, message.as_of_time.nanos = divmod(query.as_of_ns, _NS_PER_S)
    return _ReadRequest(message.request_id, message.SerializeToString())


def _ns(timestamp: Timestamp) -> int:
    return timestamp.seconds * _NS_PER_S + timestamp.nanos


def _malformed(what: str) -> MalformedResponseError:
    return MalformedResponseError(SERVICE, f"malformed answer: it {what}")
