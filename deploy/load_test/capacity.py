"""The highest rate that a server holds within its limits, and the replicas that a rate needs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from load_test import chart, slo
from load_test.report import Report
from load_test.runner import Load, Tool, resolved
from load_test.slo import Limits

UTILISATION = 0.7
"""Share of its capacity that a replica is planned for: bursts and noisy neighbours take the rest."""

MAX_RATE = 50_000
MIN_CALLS = 300
"""Of one run: with fewer, p99 is nothing but the slowest call."""

_MAX_STRETCH = 4
_CHANCES = 2
_QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


@dataclass(frozen=True, slots=True)
class Effort:
    """How thoroughly is searched.

    Attributes:
        first_rate: Where the search begins, calls per second.
        measure_s: Measured time of one run; up to four times as long at low rates, for MIN_CALLS.
        warm_up_s: Before it in every run, left out of the figures.
        repeats: Runs per rate at most; most of them must keep the limits.
        resolution: The search ends when the lowest rate that failed is at most this much above the
            highest that passed, as a share.
    """

    first_rate: int = 50
    measure_s: int = 5
    warm_up_s: int = 1
    repeats: int = 3
    resolution: float = 0.1


@dataclass(frozen=True, slots=True)
class Probe:
    """One run of the search.

    Attributes:
        rate: Calls per second asked for.
        ok_ratio: As in the gate; achieved_ratio and the latencies too.
        latency_ms: p50, p99, p99.9 by name.
        send_lag_p99_ms: How late the load generator was; None where it is not known.
        violations: What broke; empty when every limit was kept.
    """

    rate: int
    ok_ratio: float
    achieved_ratio: float
    latency_ms: dict[str, float]
    send_lag_p99_ms: float | None
    violations: tuple[str, ...]


@dataclass(slots=True)
class Capacity:
    """What was found of one target.

    Attributes:
        target: A file of deploy/ghz.
        limits: Its limits.
        rate: Highest rate that kept them, calls per second; 0 when none did.
        probes: Every run, in order.
    """

    target: str
    limits: Limits
    rate: int = 0
    probes: list[Probe] = field(default_factory=list)

    def at_rate_ms(self, name: str) -> float:
        """Return the median over the runs at the rate found; nan when there are none."""
        values = [probe.latency_ms[name] for probe in self.probes if probe.rate == self.rate]
        return float(np.median(values)) if values else math.nan

    @property
    def limited_by(self) -> str:
        """Say what kept it from a higher rate."""
        failed = [probe for probe in self.probes if probe.rate > self.rate and probe.violations]
        if not failed:
            return "the search's end"
        nearest = min(failed, key=lambda probe: probe.rate)
        lag_ms = nearest.send_lag_p99_ms
        if lag_ms is not None and lag_ms > slo.LAG_SHARE * self.limits.max_p99_ms:
            return f"the load generator at {nearest.rate}/s: {lag_ms:.0f} ms late"
        return f"at {nearest.rate}/s: {nearest.violations[0]}"


async def highest(passes: Callable[[int], Awaitable[bool]], first: int, resolution: float) -> int:
    """Search the highest rate that passes, as if every lower one did.

    A machine has bad seconds; so the lowest rate that failed gets another chance before it counts.

    Args:
        passes: Tries a rate.
        first: The first rate to try; doubled while it passes, halved while it does not.
        resolution: See Effort.

    Returns:
        0 when not even one call per second passes; MAX_RATE when everything does.
    """
    low, high = await _bracket(passes, 0, first)
    for chances_left in reversed(range(_CHANCES + 1)):
        while low and high > low * (1 + resolution) and high - low > 1:
            middle = min(max(round(math.sqrt(low * high)), low + 1), high - 1)
            if await passes(middle):
                low = middle
            else:
                high = middle
        if not low or not high or not chances_left or not await passes(high):
            break
        low, high = await _bracket(passes, high, min(2 * high, MAX_RATE))
    return low


async def _bracket(passes: Callable[[int], Awaitable[bool]], low: int, rate: int) -> tuple[int, int]:
    """Return the highest rate that passed and the lowest that failed, one doubling apart; 0 for none."""
    high = 0
    while low < MAX_RATE and not (low and high):
        if await passes(rate):
            low, rate = rate, min(2 * rate, MAX_RATE)
        else:
            high, rate = rate, rate // 2
        if not rate:
            break
    return low, high


def replicas(need: float, rate: int) -> int | None:
    """Return how many replicas a rate needs; None when one can't hold any rate.

    Each runs at UTILISATION of its capacity at most, and the others hold the rate when one is lost.
    """
    if rate <= 0:
        return None
    return max(math.ceil(need / (UTILISATION * rate)), math.ceil(need / rate) + 1)


class Search:
    """Measures one target.

    Args:
        tool: What makes the load.
        document: Keys of the target's ghz config.
        host: Of the server.
        folder: For configs and reports of the runs.
        say: Called with a line for the screen.
    """

    def __init__(
        self, tool: Tool, document: dict[str, Any], host: str, folder: Path, say: Callable[[str], None]
    ) -> None:
        self._tool = tool
        self._document = document
        self._host = host
        self._folder = folder
        self._say = say

    async def find(self, target: str, limits: Limits, effort: Effort) -> Capacity:
        """Search the highest rate within the limits.

        Raises:
            LoadTestError: A run could not be made.
        """
        found = Capacity(target, limits)

        async def passes(rate: int) -> bool:
            wanted = effort.repeats // 2 + 1
            kept = broken = 0
            while kept < wanted and broken < wanted:
                probe = await self._probe(target, rate, limits, effort)
                found.probes.append(probe)
                kept, broken = (kept, broken + 1) if probe.violations else (kept + 1, broken)
                self._say(_line(target, probe))
            return kept >= wanted

        found.rate = await highest(passes, effort.first_rate, effort.resolution)
        return found

    async def _probe(self, target: str, rate: int, limits: Limits, effort: Effort) -> Probe:
        measure_s = min(max(effort.measure_s, -(-MIN_CALLS // rate)), _MAX_STRETCH * effort.measure_s)
        load = Load(rate, f"{effort.warm_up_s + measure_s}s", "const")
        document = {**resolved(self._document, load, self._host), "skipFirst": rate * effort.warm_up_s}
        report: Report = await self._tool.run(document, self._folder, f"{target}.probe")
        return Probe(
            rate,
            round(report.ok_ratio, 6),
            round(report.achieved_ratio, 6),
            {name: report.percentile_ms(share) for name, share in _QUANTILES.items()},
            report.send_lag_p99_ms,
            tuple(check.violation for check in slo.judge(report, limits) if check.violation),
        )


def _line(target: str, probe: Probe) -> str:
    latency = "  ".join(f"{name} {_ms(value)}" for name, value in probe.latency_ms.items())
    return f"{target}: {probe.rate:>6}/s  {latency}  {probe.violations[0] if probe.violations else 'kept'}"


def _ms(value: float) -> str:
    return f"{value:.2f} ms" if math.isfinite(value) else "no answer"


def table(found: Sequence[Capacity], need: int) -> str:
    """Return what was found as lines for people."""
    lines = [
        f"  {'target':<12} {'capacity':>10} {'p50':>10} {'p99':>10} {'p99.9':>10} {f'for {need}/s':>12}  limited by"
    ]
    for one in found:
        count = replicas(need, one.rate)
        latencies = " ".join(f"{_ms(one.at_rate_ms(name)) if one.rate else '-':>10}" for name in _QUANTILES)
        lines.append(
            f"  {one.target:<12} {f'{one.rate}/s':>10} {latencies} "
            f"{f'{count} replicas' if count else 'not possible':>12}  {one.limited_by}"
        )
    return "\n".join(lines)


def write(found: Sequence[Capacity], need: int, tool: str, data: Path, plot: Path) -> None:
    """Write the figures as JSON and the plot as SVG."""
    document = {
        "tool": tool,
        "cores": os.cpu_count(),
        "need_per_s": need,
        "utilisation": UTILISATION,
        "targets": {
            one.target: {
                "capacity_per_s": one.rate,
                "replicas": replicas(need, one.rate),
                "limited_by": one.limited_by,
                "limits": asdict(one.limits),
                "probes": [_finite(asdict(probe)) for probe in one.probes],
            }
            for one in found
        },
    }
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")
    panels = [
        chart.Panel(
            one.target,
            [chart.Point(probe.rate, probe.latency_ms, not probe.violations) for probe in one.probes],
            one.limits.max_p99_ms,
            one.rate,
        )
        for one in found
    ]
    plot.write_text(
        chart.svg(panels, f"{tool}; {os.cpu_count()} cores; hollow: a limit was broken; lines: medians")
    )


def _finite(probe: dict[str, Any]) -> dict[str, Any]:
    """Return a probe for JSON, which has no infinity: null is "no answer"."""
    latency = {name: value if math.isfinite(value) else None for name, value in probe["latency_ms"].items()}
    return {**probe, "latency_ms": latency}
