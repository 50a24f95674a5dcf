"""Reports in ghz's JSON format: written by our generator, read from either tool.

Source: ghz v0.121, runner/reporter.go. Durations are nanoseconds, percentages nearest-rank, statuses Go's
names of gRPC codes. A report of ours has two keys more: `generator` and `sendLag`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from load_test.config import LoadConfig
from load_test.errors import ReportError
from load_test.schedule import KINDS, Kind, Schedule

OK = "OK"
NOT_SENT = "NotSent"
"""Status of a call that was due and could not be sent; not among gRPC's."""

GENERATOR = "tradeserve open loop"
GHZ = "ghz"

_PERCENTAGES = (10, 25, 50, 75, 90, 95, 99)
_NS = 1_000_000_000
_BUCKETS = 10


def go_name(code: grpc.StatusCode) -> str:
    """Return ghz's name of a code: DEADLINE_EXCEEDED is DeadlineExceeded."""
    return OK if code is grpc.StatusCode.OK else "".join(word.title() for word in code.name.split("_"))


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What became of every call of a run of ours, in the order in which they were due.

    Attributes:
        ended_ns: (calls,) int64, nanoseconds UTC.
        latency_ns: (calls,) int64, from when it was due until it ended.
        lag_ns: (calls,) int64, from when it was due until it was sent; -1 where it was not.
        status: One per call.
        error: One per call; "" for OK.
        took_ns: The whole run.
        end_reason: "normal" or "cancel".
    """

    ended_ns: NDArray[np.int64]
    latency_ns: NDArray[np.int64]
    lag_ns: NDArray[np.int64]
    status: Sequence[str]
    error: Sequence[str]
    took_ns: int
    end_reason: str = "normal"


def document(config: LoadConfig, outcome: Outcome) -> dict[str, Any]:
    """Return the report of a run of ours, for JSON."""
    kept = slice(min(config.skip_first, len(outcome.status)), None)
    latency, status, error = outcome.latency_ns[kept], outcome.status[kept], outcome.error[kept]
    counted = np.array([config.count_errors or name == OK for name in status], dtype=bool)
    shown = np.sort(latency[counted]) if len(status) else np.empty(0, np.int64)
    sent = outcome.lag_ns[kept][outcome.lag_ns[kept] >= 0]
    return {
        "name": config.name,
        "endReason": outcome.end_reason,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "options": _options(config),
        "count": len(status),
        "total": outcome.took_ns,
        "average": int(latency.mean()) if len(status) else 0,
        "fastest": int(shown[0]) if len(shown) else 0,
        "slowest": int(shown[-1]) if len(shown) else 0,
        "rps": len(status) / (outcome.took_ns / _NS) if outcome.took_ns else 0.0,
        "errorDistribution": dict(Counter(text for text in error if text)),
        "statusCodeDistribution": dict(Counter(status)),
        "latencyDistribution": [
            {"percentage": part, "latency": int(nearest_rank(shown, part / 100))} for part in _PERCENTAGES
        ]
        if len(shown)
        else None,
        "histogram": _histogram(shown),
        "details": [
            {"timestamp": _rfc3339(ended), "latency": took, "error": text, "status": name}
            for ended, took, text, name in zip(
                outcome.ended_ns[kept].tolist(), latency.tolist(), error, status, strict=True
            )
        ],
        "tags": dict(config.tags),
        "generator": GENERATOR,
        "sendLag": {
            name: int(nearest_rank(np.sort(sent), share)) for name, share in (("p50", 0.5), ("p99", 0.99))
        }
        if len(sent)
        else None,
    }


def nearest_rank(ascending: NDArray[Any], share: float) -> float:
    """Return a percentile of sorted values as ghz counts it: the value at rank ceil(share * n)."""
    rank = int(np.ceil(round(share * len(ascending), 6)))
    return float(ascending[max(rank, 1) - 1])


def _options(config: LoadConfig) -> dict[str, Any]:
    schedule = config.schedule
    return {
        "call": config.call,
        "host": config.host,
        "protoset": config.protoset,
        "insecure": config.insecure,
        "rps": int(schedule.rps),
        "load-schedule": schedule.kind,
        "load-start": int(schedule.start),
        "load-end": int(schedule.end),
        "load-step": int(schedule.step),
        "load-step-duration": round((1.0 if schedule.kind == "line" else schedule.step_duration_s) * _NS),
        "load-max-duration": round(schedule.max_duration_s * _NS),
        "concurrency": config.concurrency,
        "concurrency-schedule": "const",
        "total": 2**31 - 1 if schedule.duration_s else schedule.total,  # as ghz does
        "async": True,
        "connections": config.connections,
        "duration": round(schedule.duration_s * _NS),
        "timeout": round(config.timeout_s * _NS),
        "dial-timeout": round(config.connect_timeout_s * _NS),
        "binary": bool(config.binary_file),
        "metadata": dict(config.metadata) or None,
        "CPUs": 1,
        "skipFirst": config.skip_first,
        "count-errors": config.count_errors,
    }


def _histogram(ascending: NDArray[np.int64]) -> list[dict[str, Any]] | None:
    if not len(ascending):
        return None
    marks = np.linspace(ascending[0], ascending[-1], _BUCKETS + 1)
    counts = np.diff(np.searchsorted(ascending, marks, side="right"), prepend=0)
    return [
        {"mark": mark / _NS, "count": count, "frequency": count / len(ascending)}
        for mark, count in zip(marks.tolist(), counts.tolist(), strict=True)
    ]


def _rfc3339(time_ns: int) -> str:
    seconds, ns = divmod(time_ns, _NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ns:09d}Z"


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What the gate needs of a report of either tool.

    Attributes:
        tool: "ghz" or "our generator".
        end_reason: "normal", "timeout" (ghz: the duration is over) or "cancel".
        count: Calls in it.
        took_s: The whole run.
        schedule: What was asked for.
        skip_first: Calls left out of it.
        is_async: Whether sending waited for answers or not.
        statuses: Calls by status, of all calls.
        errors: Calls by error text, of all calls.
        latency_ms: (details,) float64 from due (ghz: from sent) to end; infinite where the status is not OK.
        due_s: (details,) float64, seconds UTC: end less latency, so of ghz when a call was sent; empty when
            a timestamp can't be read.
        shown_p99_ms: latencyDistribution's, which may leave failed calls out; None when there is none.
        send_lag_p99_ms: How late calls were sent; of ghz at least so late, by its timestamps, and only of
            constant rates. None where it is not known.
    """

    tool: str
    end_reason: str
    count: int
    took_s: float
    schedule: Schedule
    skip_first: int
    is_async: bool
    statuses: Mapping[str, int]
    errors: Mapping[str, int]
    latency_ms: NDArray[np.float64]
    due_s: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    shown_p99_ms: float | None = None
    send_lag_p99_ms: float | None = None

    @property
    def ok_ratio(self) -> float:
        """Share of the calls that were answered OK; 0 without calls."""
        return self.statuses.get(OK, 0) / self.count if self.count else 0.0

    @property
    def sent_count(self) -> int:
        """Calls that went out, the ones left out of the report too."""
        return self.count - self.statuses.get(NOT_SENT, 0) + self.skip_first

    @property
    def achieved_ratio(self) -> float:
        """Calls sent against calls asked for; where only a total was given, time asked for against time taken."""
        schedule = self.schedule
        if schedule.duration_s:
            # Half a call: a schedule is rounded to whole ones. ghz's last one is due just as the run ends.
            spare = 1.0 if self.tool == GHZ else 0.5
            return min((self.sent_count + spare) / schedule.call_count, 1.0) if schedule.call_count else 0.0
        sent = self.sent_count / schedule.total if schedule.total else 0.0
        return sent * min(schedule.length_s / self.took_s, 1.0) if self.took_s else 0.0

    def percentile_ms(self, share: float) -> float:
        """Return a latency percentile over all calls, failed ones infinitely late; infinite without calls."""
        if not len(self.latency_ms):
            return float("inf")
        return nearest_rank(np.sort(self.latency_ms), share)


def read(path: Path) -> Report:
    """Read a report of either tool.

    Raises:
        ReportError: It can't be read, or is no report; file and field are named.
    """
    try:
        found = json.loads(path.read_bytes())
    except OSError as e:
        raise ReportError(f"{path}: {e.strerror}: the load tool wrote no report") from e
    except ValueError as e:
        raise ReportError(f'{path}: no JSON ({e}): set format = "json"') from e
    return parse(found, str(path))


def parse(found: Any, where: str) -> Report:
    """Read a decoded report.

    Raises:
        ReportError: A field is missing or of another type; it is named.
    """
    fields = _Fields(found, where)
    options = _Fields(fields.get("options", dict), f"{where}: options")
    details = fields.get("details", list, [])
    try:
        latency_ms = np.array(
            [entry["latency"] / 1e6 if entry["status"] == OK else np.inf for entry in details], np.float64
        )
    except (KeyError, TypeError) as e:
        raise ReportError(f"{where}: details: an entry lacks latency or status ({e!r})") from e
    by_us = bool(fields.get("generator", str, ""))
    lag = fields.get("sendLag", dict, {})
    schedule, due_s = _schedule(options), _due_times(details)
    shown = {
        entry["percentage"]: entry["latency"]
        for entry in fields.get("latencyDistribution", list, [])
        if entry
    }
    return Report(
        tool="our generator" if by_us else GHZ,
        end_reason=fields.get("endReason", str, ""),
        count=fields.get("count", int),
        took_s=fields.get("total", int) / _NS,
        schedule=schedule,
        skip_first=options.get("skipFirst", int, 0),
        is_async=options.get("async", bool, False),
        statuses=fields.get("statusCodeDistribution", dict, {}),
        errors=fields.get("errorDistribution", dict, {}),
        latency_ms=latency_ms,
        due_s=due_s,
        shown_p99_ms=shown[99] / 1e6 if 99 in shown else None,
        send_lag_p99_ms=(lag["p99"] / 1e6 if "p99" in lag else None)
        if by_us
        else _ghz_lag_p99_ms(due_s, schedule),
    )


def by_stage(report: Report) -> str:
    """Return a line per stage of a step or line schedule, for people; a short text when times are missing."""
    if not len(report.due_s):
        return "  the report has no timestamps: not shown by stage"
    since_s = report.due_s - report.due_s.min() + _first_due_s(report)
    lines = []
    for stage in report.schedule.stages:
        inside = report.latency_ms[(since_s >= stage.start_s) & (since_s < stage.end_s)]
        if not len(inside):
            continue
        ordered = np.sort(inside)
        shares = [nearest_rank(ordered, share) for share in (0.5, 0.99)]
        p50, p99 = (f"{value:.2f} ms" if np.isfinite(value) else "no answer" for value in shares)
        lines.append(
            f"  {stage.start_s:5g} to {stage.end_s:g} s  {stage.rate:6g}/s  "
            f"OK {np.isfinite(inside).mean():.2%}  p50 {p50}  p99 {p99}"
        )
    return "\n".join(lines)


def _first_due_s(report: Report) -> float:
    """Return when the first call of a report was due, since the start; ghz waits one interval before its first."""
    number = report.skip_first + (report.tool == GHZ)
    return float(report.schedule.due_at_s(np.array([number], np.float64))[0])


def _ghz_lag_p99_ms(sent_s: NDArray[np.float64], schedule: Schedule) -> float | None:
    """Return how late ghz sent, against the call that was least late.

    Constant rates only: when the rate changes while ghz waits, its next call still comes at the old one.
    """
    if schedule.kind != "const" or not schedule.rps or not len(sent_s):
        return None
    late_s = np.sort(sent_s) - np.arange(len(sent_s)) / schedule.rps
    return 1e3 * nearest_rank(np.sort(late_s - late_s.min()), 0.99)


def _schedule(options: _Fields) -> Schedule:
    kinds: dict[str, Kind] = {kind: kind for kind in KINDS}
    given = options.get("load-schedule", str, "const") or "const"
    if given not in kinds:
        raise ReportError(f"{options.where}: load-schedule: {given!r} is none of {', '.join(KINDS)}")
    return Schedule(
        kind=kinds[given],
        rps=options.get("rps", int, 0),
        start=options.get("load-start", int, 0),
        step=options.get("load-step", int, 0),
        end=options.get("load-end", int, 0),
        step_duration_s=options.get("load-step-duration", int, 0) / _NS,
        max_duration_s=options.get("load-max-duration", int, 0) / _NS,
        duration_s=options.get("duration", int, 0) / _NS,
        total=options.get("total", int, 0),
    )


def _due_times(details: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    try:
        return np.array(
            [
                datetime.fromisoformat(entry["timestamp"]).timestamp() - entry["latency"] / _NS
                for entry in details
            ]
        )
    except (KeyError, TypeError, ValueError):
        return np.empty(0)


class _Fields:
    """Typed access; every complaint names file and field. null counts as missing, as Go writes it."""

    def __init__(self, found: Any, where: str) -> None:
        if not isinstance(found, dict):
            raise ReportError(f"{where}: no object: not a report of ghz in JSON")
        self._found = found
        self.where = where

    def get(self, name: str, kind: type, default: Any = None) -> Any:
        value = self._found.get(name)
        if value is None:
            if default is None:
                raise ReportError(f"{self.where}: {name} is missing: not a report of ghz in JSON")
            return default
        if not isinstance(value, kind):
            raise ReportError(f"{self.where}: {name}: {value!r} is no {kind.__name__}")
        return value
