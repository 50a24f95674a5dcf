"""Where the time of the decisions went, and what the services answered; kept for the whole run."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from strategy.ports import ShadowVersion

STAGES = ("window", "forecasts", "decide", "intent", "order")
"""Stages of a decision, in order: bar to window; calls; ensemble, policy and risk; the intent made
durable; the order on the socket. The last two only where an order was sent."""

BUCKETS_S = (
    0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.25,
)  # fmt: skip
"""Upper bounds of the histograms, seconds: dense up to the default budget of 50 ms."""

_BUCKETS_NS = tuple(round(bound * 1e9) for bound in BUCKETS_S)
_KEPT_SAMPLES = 100_000


@dataclass(slots=True)
class StageClock:
    """Marks the end of each stage of one decision on the monotonic clock.

    Attributes:
        start_ns: When the bar came off the socket.
        spans: Stage -> nanoseconds.
    """

    start_ns: int
    spans: dict[str, int] = field(default_factory=dict)
    _last_ns: int = 0

    def mark(self, stage: str, now_ns: int) -> None:
        """End a stage now."""
        self.spans[stage] = now_ns - (self._last_ns or self.start_ns)
        self._last_ns = now_ns

    @property
    def total_ns(self) -> int:
        """From the bar to the latest mark."""
        return self._last_ns - self.start_ns if self._last_ns else 0


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the smallest sample that at least `share` (0 to 1) of all do not exceed; nan without any."""
    if not samples:
        return float("nan")
    ordered = sorted(samples)
    rank = max(1, -(-len(ordered) * share // 1))
    return ordered[int(rank) - 1]


class Spans:
    """Durations of one kind: a histogram of all of them, and the latest themselves for percentiles.

    Attributes:
        counts: How many were at most each bound of BUCKETS_S and above the one before; then those beyond.
        sum_ns: Of all.
        latest: The last 100,000, nanoseconds.
    """

    __slots__ = ("counts", "latest", "sum_ns")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS_NS) + 1)
        self.sum_ns = 0
        self.latest: deque[int] = deque(maxlen=_KEPT_SAMPLES)

    def add(self, span_ns: int) -> None:
        """Count one."""
        self.counts[bisect_left(_BUCKETS_NS, span_ns)] += 1
        self.sum_ns += span_ns
        self.latest.append(span_ns)


@dataclass(slots=True)
class ServiceTally:
    """What one service did in this run.

    Attributes:
        in_time: Answers that counted.
        missing: Why others are missing.
        last_missing: The latest of these, in words.
        late_reported: Answers that came when they did not count any more.
        again: Calls that were sent to a second server, by cause: "retry" or "hedge".
        round_trip: Of the answers that counted.
    """

    in_time: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    last_missing: str = ""
    late_reported: int = 0
    again: Counter[str] = field(default_factory=Counter)
    round_trip: Spans = field(default_factory=Spans)


@dataclass(slots=True)
class ShadowTally:
    """What a version that is tried did in this run.

    Attributes:
        asked: Questions that were sent.
        answered: Those that it answered by its deadline.
        dropped: Questions that were not sent, because the strategy or the server had too much to do.
        missing: Why the others have no answer.
        agreed: Answers that lead to the decision that was made.
        max_difference: Largest distance of a probability from the voter's own; nan without a pair.
    """

    asked: int = 0
    answered: int = 0
    dropped: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    agreed: int = 0
    max_difference: float = float("nan")


@dataclass(slots=True)
class VisionTally:
    """What the reader of charts did in this run.

    Attributes:
        asked: Charts that were drawn to be read.
        answered: Those that were read by their deadline.
        dropped: Charts that a newer one replaced before they were drawn, and the last ones of the run.
        missing: Why the others have no reading.
        contradicted: Readings that the chart's own data contradict.
        vetoes: Entries that a reading forbade.
        shrinks: Entries that a reading made smaller.
        round_trip: Of the answers.
    """

    asked: int = 0
    answered: int = 0
    dropped: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    contradicted: int = 0
    vetoes: int = 0
    shrinks: int = 0
    round_trip: Spans = field(default_factory=Spans)


class RunLedger:
    """Collects the figures of a run for the screen, the report and the status RPC."""

    def __init__(self) -> None:
        self.decisions: Counter[str] = Counter()
        self.without_quorum = 0
        self.over_budget = 0
        self.orders = 0
        self.fills = 0
        self.services: dict[str, ServiceTally] = {}
        self.stages: dict[str, Spans] = {}
        self.shadows: dict[ShadowVersion, ShadowTally] = {}
        self.vision = VisionTally()

    def add_decision(self, side: str, clock: StageClock, *, quorum: bool, budget_ns: int) -> None:
        """Count a decision and its spans."""
        self.decisions[side] += 1
        self.without_quorum += not quorum
        self.over_budget += clock.total_ns > budget_ns
        for stage, span_ns in clock.spans.items():
            self._spans(stage).add(span_ns)
        self._spans("bar to decision").add(sum(clock.spans.get(stage, 0) for stage in STAGES[:3]))
        if "order" in clock.spans:
            self._spans("bar to order").add(clock.total_ns)

    def add_answer(self, service: str, round_trip_ns: int) -> None:
        """Count an answer that came in time."""
        tally = self.service(service)
        tally.in_time += 1
        if round_trip_ns >= 0:
            tally.round_trip.add(round_trip_ns)

    def add_missing(self, service: str, reason: str, detail: str) -> None:
        """Count an answer that did not."""
        tally = self.service(service)
        tally.missing[reason] += 1
        tally.last_missing = f"{reason}: {detail}" if detail else reason

    def service(self, name: str) -> ServiceTally:
        """Return the tally of one service."""
        return self.services.setdefault(name, ServiceTally())

    def stage_rows(self) -> Iterable[tuple[str, int, float, float, float]]:
        """Yield (stage, samples, p50, p90, p99) in milliseconds, in the order of the path."""
        for name in (*STAGES, "bar to decision", "bar to order"):
            spans = self.stages.get(name)
            if spans is not None:
                values = [value / 1e6 for value in spans.latest]
                yield (
                    name,
                    len(values),
                    percentile(values, 0.5),
                    percentile(values, 0.9),
                    percentile(values, 0.99),
                )

    def _spans(self, name: str) -> Spans:
        return self.stages.setdefault(name, Spans())


def shares(spans: Mapping[str, int]) -> dict[str, float]:
    """Return each stage's share of the sum."""
    total = sum(spans.values())
    return {stage: span / total for stage, span in spans.items()} if total else {}
