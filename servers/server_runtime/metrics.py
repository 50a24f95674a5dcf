"""Count calls and where their time goes, for Prometheus."""

import threading
from functools import lru_cache
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from server_runtime.errors import StartError

# From 50 us, a search in a small index, to seconds, a vision-language model.
_BUCKETS_S = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip


class ServerMetrics:
    """The figures of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._calls = Counter(
            "tradeserve_calls", "Calls that ended, by method and gRPC code.", ["method", "code"],
            registry=self.registry,
        )  # fmt: skip
        self._stages = Histogram(
            "tradeserve_stage_seconds", "Time of one stage of a call.", ["method", "stage"],
            buckets=_BUCKETS_S, registry=self.registry,
        )  # fmt: skip
        self.in_flight = Gauge("tradeserve_calls_in_flight", "Calls in flight.", registry=self.registry)
        # Looking a series up takes longer than counting; there are few: methods by codes and stages.
        self._ended = lru_cache(maxsize=1024)(self._calls.labels)
        self._stage = lru_cache(maxsize=1024)(self._stages.labels)
        self._http: tuple[WSGIServer, threading.Thread] | None = None

    def count_call(self, method: str, code: str) -> None:
        """Count one call that ended, or one message of a stream that was answered."""
        self._ended(method, code).inc()

    def observe_stage(self, method: str, stage: str, duration_ns: int) -> None:
        """Record the time of one stage ("queue", "compute", "total") of a call."""
        self._stage(method, stage).observe(duration_ns / 1e9)

    def start_http(self, host: str, port: int) -> int:
        """Serve the figures on http://host:port/metrics.

        Returns:
            The port, which the system chose when `port` was 0.

        Raises:
            StartError: The port is in use.
        """
        try:
            self._http = start_http_server(port, addr=host, registry=self.registry)
        except OSError as e:
            raise StartError(
                f"metrics cannot be served on {host}:{port} ({e.strerror or e}): choose another --metrics-port"
            ) from e
        return int(self._http[0].server_port)

    def stop_http(self) -> None:
        """Stop serving, if it was started."""
        if self._http is not None:
            server, thread = self._http
            server.shutdown()
            server.server_close()
            thread.join(timeout=5.0)
            self._http = None
