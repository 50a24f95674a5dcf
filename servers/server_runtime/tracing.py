"""Send finished spans to an OpenTelemetry collector (OTLP over gRPC).

A span is made when its work is over, from the times that were taken anyway: nothing is added to
the work itself. Spans wait in a bounded queue for a thread that sends them; when it is full, or no
collector listens, they are dropped. Ids are given, not made: a decision's UUID is its trace's id.
Needs the extra `telemetry`. Source: the W3C Trace Context and OpenTelemetry specifications.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, TypeAlias

from server_runtime.errors import StartError

Attributes: TypeAlias = Mapping[str, str | bool | int | float]

_HEADER = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_QUEUED_SPANS = 4096
_SEND_EVERY_MS = 1000
_SEND_TIMEOUT_S = 5


@dataclass(frozen=True, slots=True)
class TraceParent:
    """Whose child a span is, as header `traceparent` says it.

    Attributes:
        trace_id: 128 bits, not 0.
        span_id: Of the parent, 64 bits, not 0.
        sampled: Whether the caller records its own spans.
    """

    trace_id: int
    span_id: int
    sampled: bool = True

    @property
    def header(self) -> str:
        """The value of `traceparent`."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.sampled):02x}"


def parse_traceparent(header: str) -> TraceParent | None:
    """Read the header `traceparent`; None for what the specification calls invalid."""
    found = _HEADER.fullmatch(header)
    if found is None or header.startswith("ff") or (header.startswith("00") and found[4]):
        return None
    trace_id, span_id = int(found[1], 16), int(found[2], 16)
    if not trace_id or not span_id:
        return None
    return TraceParent(trace_id, span_id, bool(int(found[3], 16) & 1))


@dataclass(frozen=True, slots=True)
class Span:
    """One piece of work that is over.

    Attributes:
        name: Of the work; a method, a stage.
        start_ns: time.monotonic_ns() at its start.
        end_ns: At its end.
        trace_id: 128 bits.
        span_id: 64 bits; 0 makes one.
        parent_id: Of the span it belongs to; 0 for none.
        attributes: What else is known.
        problem: What went wrong; "" when nothing did.
        kind: "internal", "client" or "server".
    """

    name: str
    start_ns: int
    end_ns: int
    trace_id: int
    span_id: int = 0
    parent_id: int = 0
    attributes: Attributes | None = None
    problem: str = ""
    kind: str = "internal"


class SpanSender:
    """Sends the spans of one process."""

    def __init__(self, service: str, endpoint: str) -> None:
        """Open a connection in the background; a collector that is away is no error.

        Args:
            service: Name of the process for the collector. Example: "similarity".
            endpoint: host:port of an OTLP receiver, without TLS; https://host:port with.

        Raises:
            StartError: The extra `telemetry` is not installed.
        """
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk import trace as sdk
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        except ImportError as error:
            raise StartError("tracing needs OpenTelemetry: pip install 'tradeserve[telemetry]'", 2) from error
        # It repeats in the log what it can't deliver, a stack trace each time.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        version = metadata.version("tradeserve")
        self._trace, self._sdk = trace, sdk
        self._resource = Resource({"service.name": f"tradeserve.{service}", "service.version": version})
        self._scope = InstrumentationScope("tradeserve", version)
        self._processor: Any = BatchSpanProcessor(
            OTLPSpanExporter(
                endpoint=endpoint, insecure=not endpoint.startswith("https://"), timeout=_SEND_TIMEOUT_S
            ),
            max_queue_size=_QUEUED_SPANS,
            schedule_delay_millis=_SEND_EVERY_MS,
        )
        self._kinds = {
            "internal": trace.SpanKind.INTERNAL,
            "client": trace.SpanKind.CLIENT,
            "server": trace.SpanKind.SERVER,
        }
        self._flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)

    def send(self, span: Span) -> None:
        """Queue a span; returns at once."""
        # Taken anew for each: the wall clock is corrected now and then.
        offset_ns = time.time_ns() - time.monotonic_ns()
        status = self._trace.StatusCode.ERROR if span.problem else self._trace.StatusCode.UNSET
        self._processor.on_end(
            self._sdk.ReadableSpan(
                span.name,
                context=self._context(span.trace_id, span.span_id or secrets.randbits(63) + 1),
                parent=self._context(span.trace_id, span.parent_id) if span.parent_id else None,
                resource=self._resource,
                attributes=dict(span.attributes or {}),
                kind=self._kinds[span.kind],
                status=self._trace.Status(status, span.problem or None),
                start_time=span.start_ns + offset_ns,
                end_time=span.end_ns + offset_ns,
                instrumentation_scope=self._scope,
            )
        )

    def close(self) -> None:
        """Send what is queued, at most for some seconds, and end the thread."""
        self._processor.shutdown()

    def _context(self, trace_id: int, span_id: int) -> Any:
        return self._trace.SpanContext(trace_id, span_id, is_remote=False, trace_flags=self._flags)
