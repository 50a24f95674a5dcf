"""The gate: a report of either tool against the limits of its target. Pure but for reading the limits.

It does not trust what misleads in ghz: its exit status (0 when every call failed), its percentiles
(without failed calls unless count-errors is set), and the rate it was asked for (workers that wait
for answers send less).
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from load_test.errors import ConfigError
from load_test.report import GHZ, NOT_SENT, OK, Report

LAG_SHARE = 0.25  # of the p99 limit: beyond it the generator itself is part of what was measured


@dataclass(frozen=True, slots=True)
class Limits:
    """What one target must hold.

    Attributes:
        min_ok_ratio: Share of the calls that must be answered OK, 0 to 1.
        min_achieved_ratio: Rate sent against rate asked for, 0 to 1.
        max_p99_ms: Latency that 99 % of all calls keep, failed ones counted as infinitely late.
        max_p999_ms: The same for 99.9 %.
    """

    min_ok_ratio: float
    min_achieved_ratio: float
    max_p99_ms: float
    max_p999_ms: float


def load(path: Path, target: str) -> Limits:
    """Read the limits of a target.

    Raises:
        ConfigError: The file or the table is missing, or a key is missing, unknown or out of range.
    """
    try:
        document = tomllib.loads(path.read_text())
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}: the limits are kept in deploy/slo.toml") from e
    except ValueError as e:
        raise ConfigError(f"{path}: {e}") from e
    table = document.get(target)
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: no limits for {target}: add a table [{target}]")
    names = [field.name for field in fields(Limits)]
    for key in table:
        if key not in names:
            raise ConfigError(f"{path}: [{target}] {key} is unknown; known are {', '.join(names)}")
    values = {}
    for name in names:
        value = table.get(name)
        most = 1.0 if name.endswith("ratio") else math.inf
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= most:
            raise ConfigError(
                f"{path}: [{target}] {name}: {value!r} is no number above 0"
                + (" and up to 1" if most == 1.0 else "")
            )
        values[name] = float(value)
    return Limits(**values)


@dataclass(frozen=True, slots=True)
class Check:
    """One limit against what was measured.

    Attributes:
        name: What is limited.
        measured: For people.
        limit: For people.
        violation: One line when the limit is violated; "" when it is kept.
    """

    name: str
    measured: str
    limit: str
    violation: str = ""


def judge(report: Report, limits: Limits) -> list[Check]:
    """Return every check; the run passes when no violation is among them."""
    return [
        _complete(report),
        _ok(report, limits),
        _rate(report, limits),
        _latency(report, "p99", 0.99, limits.max_p99_ms),
        _latency(report, "p99.9", 0.999, limits.max_p999_ms),
    ]


def passed(checks: Sequence[Check]) -> bool:
    """Return whether every limit is kept."""
    return not any(check.violation for check in checks)


def _complete(report: Report) -> Check:
    measured, limit, violation = f"{report.count:,} calls", "a whole run", ""
    if report.count == 0:
        violation = "no call was made: nothing was measured"
    elif report.end_reason == "cancel":
        violation = "the run was interrupted: what came before is no measurement"
    elif len(report.latency_ms) < report.count:
        violation = (
            f"only {len(report.latency_ms):,} of {report.count:,} calls have details, so percentiles are not "
            'known: shorten the run, and set format = "json"'
        )
    elif sum(report.statuses.values()) != report.count:
        violation = f"statusCodeDistribution does not add up to {report.count:,} calls"
    return Check("run", measured, limit, violation)


def _ok(report: Report, limits: Limits) -> Check:
    measured, limit = f"{report.ok_ratio:.4%}", f">= {limits.min_ok_ratio:.4%}"
    if report.ok_ratio >= limits.min_ok_ratio:
        return Check("answered OK", measured, limit)
    failed = ", ".join(
        f"{count:,} {status or 'without a status'}"
        for status, count in sorted(report.statuses.items(), key=lambda item: -item[1])
        if status != OK
    )
    violation = f"answered OK: {measured} of the calls, the limit is {limit}: {failed or 'no call'}"
    if common := max(report.errors, key=lambda text: report.errors[text], default=""):
        violation += f"; most often: {common[:200]}"
    return Check("answered OK", measured, limit, violation)


def _rate(report: Report, limits: Limits) -> Check:
    name, limit = "rate sent / asked for", f">= {limits.min_achieved_ratio:.1%}"
    if report.schedule.call_count == 0:
        return Check(name, "unknown", limit, f"{name}: the report names no rate: set rps, or a load-schedule")
    measured = f"{report.achieved_ratio:.1%} of {report.schedule.mean_rate:.1f}/s"
    if report.achieved_ratio >= limits.min_achieved_ratio:
        return Check(name, measured, limit)
    if report.statuses.get(NOT_SENT):
        why = f"{report.statuses[NOT_SENT]:,} calls could not be sent in time"
    elif report.tool == GHZ and not report.is_async:
        why = "ghz's workers wait for answers: set async = true, or raise concurrency"
    else:
        why = "the load tool could not keep up: give it a machine of its own, or ask for less"
    return Check(name, measured, limit, f"{name}: {measured}, the limit is {limit}: {why}")


def _latency(report: Report, name: str, share: float, limit_ms: float) -> Check:
    value, limit = report.percentile_ms(share), f"<= {limit_ms:g} ms"
    measured = f"{value:.2f} ms" if math.isfinite(value) else "no answer"
    if value <= limit_ms:
        return Check(name, measured, limit)
    detail = "" if math.isfinite(value) else f": {1 - report.ok_ratio:.2%} of the calls failed"
    return Check(name, measured, limit, f"{name}: {measured}, the limit is {limit}{detail}")


def notes(report: Report, limits: Limits) -> Iterator[str]:
    """Yield what a reader of the table should know."""
    if report.tool == GHZ and not report.is_async:
        yield "ghz's workers waited for answers: its latencies count from sending, not from when a call was due"
    if report.ok_ratio < 1 and report.shown_p99_ms is not None and report.percentile_ms(0.99) == math.inf:
        yield f"the report's own p99 of {report.shown_p99_ms:.2f} ms looks past the failed calls"
    if any("closing" in text for text in report.errors):
        yield 'calls were cut off at the end of the run: set duration-stop = "wait"'
    if 0 < report.count < 1000:
        yield f"{report.count} calls are few: their p99.9 is the slowest of them"
    lag_ms = report.send_lag_p99_ms
    if lag_ms is not None and lag_ms > LAG_SHARE * limits.max_p99_ms:
        effect = (
            "ghz itself was late by {:.1f} ms (p99), which its latencies leave out, as they count from sending"
            if report.tool == GHZ
            else "our generator itself was late by {:.1f} ms (p99), which is in the latencies"
        )
        yield f"{effect.format(lag_ms)}: this machine is too busy for this rate"


def table(checks: Sequence[Check]) -> str:
    """Return the checks as lines for people."""
    width = max(len(check.name) for check in checks)
    return "\n".join(
        f"  {'VIOLATED' if check.violation else 'kept':<8}  {check.name:<{width}}  {check.measured:>18}  "
        f"{check.limit}"
        for check in checks
    )
