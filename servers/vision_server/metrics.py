"""Figures of the vision server beside those that every server has."""

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class VisionMetrics:
    """What is counted of readings and of the engine."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.readings = Counter(
            "tradeserve_vision_readings", "Charts that were read, by signal.", ["signal"], registry=registry
        )
        self.unreadable = Counter(
            "tradeserve_vision_unreadable_answers", "Answers of the model that are not what the schema asks for.",
            registry=registry,
        )  # fmt: skip
        self.refused_charts = Counter(
            "tradeserve_vision_refused_charts",
            "Images that were refused before inference.",
            registry=registry,
        )
        self.contradictions = Counter(
            "tradeserve_vision_contradictions", "Statements that a chart's own data contradicts, by field.",
            ["field"], registry=registry,
        )  # fmt: skip
        self.tokens = Counter(
            "tradeserve_vision_tokens", "Tokens, by kind: prompt or output.", ["kind"], registry=registry
        )
        self.first_token = Histogram(
            "tradeserve_vision_first_token_seconds", "From the start of the work to the first token.",
            buckets=_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.engine_up = Gauge(
            "tradeserve_vision_engine_up", "1 while the engine is there.", registry=registry
        )

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Show a figure that is asked for when it is looked at."""
        Gauge(name, help_text, registry=self._registry).set_function(value)

    def include(self, source: CollectorRegistry) -> None:
        """Show another registry's figures too: vLLM's own, in this process."""
        self._registry.register(_Included(source))


class _Included:
    def __init__(self, source: CollectorRegistry) -> None:
        self._source = source

    def collect(self) -> Iterable[Any]:
        return (metric for metric in self._source.collect() if metric.name.startswith("vllm"))
