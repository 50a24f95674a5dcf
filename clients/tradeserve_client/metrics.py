"""Prometheus figures of the calls of a process: how many, with what outcome, and where their time went.

Calls are counted in plain numbers, and made into figures when they are asked for: whoever waits for an
answer would pay for the labels and locks of prometheus_client's own counters on every call.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from tradeserve_client.answers import Answer, CallRecord, Outcome

_BUCKETS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0, 5.0)
_BUCKETS_NS = tuple(round(bound_s * 1e9) for bound_s in _BUCKETS_S)
_BUCKET_NAMES = (*map(floatToGoString, _BUCKETS_S), "+Inf")
_MAX_SERVICES = 256
_OTHER = "other"


class CallMetrics:
    """Counts outcomes; give its `observe` to the clients as `on_outcome`.

    tradeserve_client_calls_total{service, outcome}: outcome is "answer" or the reason why there is none.
    tradeserve_client_call_seconds{service, stage}: stage is "round trip", and "queue", "compute" and
    "network" where the server tells its times. Only calls that came back are in it.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        """Register the figures.

        Args:
            registry: What is scraped.

        Raises:
            ValueError: They are registered there already; share one CallMetrics.
        """
        self._services: dict[str, _Tally] = {}
        # Clients may live in several threads, and the scrape lives in another.
        self._lock = threading.Lock()
        registry.register(_Figures(self))

    def observe(self, outcome: Outcome[object]) -> None:
        """Count one call."""
        call = outcome.call
        ended = "answer" if isinstance(outcome, Answer) else outcome.reason.value
        with self._lock:
            tally = self._services.get(call.service) or self._new(call.service)
            tally.add(ended, call)

    def figures(self) -> Sequence[Metric]:
        """Return what was counted so far."""
        calls = CounterMetricFamily(
            "tradeserve_client_calls", "Calls by outcome.", labels=["service", "outcome"]
        )
        seconds = HistogramMetricFamily(
            "tradeserve_client_call_seconds", "Time of a call by stage.", labels=["service", "stage"]
        )
        with self._lock:
            for service, tally in self._services.items():
                for ended, count in tally.outcomes.items():
                    calls.add_metric([service, ended], count)
                for stage, spans in tally.stages.items():
                    buckets = list(zip(_BUCKET_NAMES, accumulate(spans.counts), strict=True))
                    seconds.add_metric([service, stage], buckets, spans.sum_ns / 1e9)
        return calls, seconds

    def _new(self, service: str) -> _Tally:
        """Begin with a service: models are named by callers, and a scrape must not grow without end."""
        if len(self._services) >= _MAX_SERVICES:
            service = _OTHER
        return self._services.setdefault(service, _Tally())


class _Figures(Collector):
    """What a registry asks."""

    def __init__(self, metrics: CallMetrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterable[Metric]:
        """Name the figures, so that the registry refuses to have them twice."""
        return self._metrics.figures()

    def collect(self) -> Iterable[Metric]:
        return self._metrics.figures()


class _Spans:
    """How often a span of time fell into each bucket."""

    __slots__ = ("counts", "sum_ns")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS_NS) + 1)
        self.sum_ns = 0

    def add(self, span_ns: int) -> None:
        self.counts[bisect_left(_BUCKETS_NS, span_ns)] += 1
        self.sum_ns += span_ns


class _Tally:
    """What was counted of one service."""

    __slots__ = ("outcomes", "stages")

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.stages: dict[str, _Spans] = {}

    def add(self, ended: str, call: CallRecord) -> None:
        self.outcomes[ended] += 1
        round_trip_ns = call.round_trip_ns
        if round_trip_ns < 0:
            return
        self._span("round trip").add(round_trip_ns)
        if call.queue_ns >= 0:
            self._span("queue").add(call.queue_ns)
        if call.compute_ns >= 0:
            self._span("compute").add(call.compute_ns)
        if call.queue_ns >= 0 and call.compute_ns >= 0:
            self._span("network").add(call.network_ns)

    def _span(self, stage: str) -> _Spans:
        spans = self.stages.get(stage)
        if spans is None:
            spans = self.stages[stage] = _Spans()
        return spans
