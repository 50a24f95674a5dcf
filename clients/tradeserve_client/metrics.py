"""Prometheus figures of the calls of a process: how many, with what outcome, and where their time went."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from tradeserve_client.answers import Answer, CallRecord, Outcome

_BUCKETS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0, 5.0)
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
        self._calls = Counter(
            "tradeserve_client_calls", "Calls by outcome.", ["service", "outcome"], registry=registry
        )
        self._seconds = Histogram(
            "tradeserve_client_call_seconds",
            "Time of a call by stage.",
            ["service", "stage"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._services: set[str] = set()

    def observe(self, outcome: Outcome[object]) -> None:
        """Count one call."""
        call = outcome.call
        service = self._bounded(call.service)
        ended = "answer" if isinstance(outcome, Answer) else outcome.reason.value
        self._calls.labels(service, ended).inc()
        for stage, duration_ns in _stages(call):
            if duration_ns >= 0:
                self._seconds.labels(service, stage).observe(duration_ns / 1e9)

    def _bounded(self, service: str) -> str:
        """Return the label: models are named by callers, and a scrape must not grow without end."""
        if service not in self._services:
            if len(self._services) >= _MAX_SERVICES:
                return _OTHER
            self._services.add(service)
        return service


def _stages(call: CallRecord) -> tuple[tuple[str, int], ...]:
    return (
        ("round trip", call.round_trip_ns),
        ("queue", call.queue_ns),
        ("compute", call.compute_ns),
        ("network", call.network_ns),
    )
