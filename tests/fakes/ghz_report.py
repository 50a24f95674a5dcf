"""Reports as ghz writes them, and a program that takes ghz's place on PATH."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MS = 1_000_000


def ghz_report(
    calls: Sequence[tuple[float, str]],
    *,
    rps: int = 100,
    duration_s: float = 0,
    late_ms: Mapping[int, float] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Return a report in the format of ghz v0.121 (runner/reporter.go).

    Args:
        calls: (latency in ms, status) of every call.
        rps: What was asked for.
        duration_s: The same; 0: the calls were asked for as a total.
        late_ms: How much later than at that rate a call was sent, by its number; the others were not.
        changes: Keys to replace; options' keys with the prefix "options_".
    """
    ok = sorted(latency for latency, status in calls if status == "OK")
    errors = Counter(f"rpc error: code = {status} desc = it failed" for _, status in calls if status != "OK")
    report: dict[str, Any] = {
        "endReason": "timeout" if duration_s else "normal",
        "date": "2026-01-02T03:04:05Z",
        "options": {
            "call": "package.Service.Method",
            "host": "127.0.0.1:1",
            "insecure": True,
            "rps": rps,
            "load-schedule": "const",
            "load-start": 0,
            "load-end": 0,
            "load-step": 0,
            "load-step-duration": 0,
            "load-max-duration": 0,
            "concurrency": 50,
            "concurrency-schedule": "const",
            "total": 2**31 - 1 if duration_s else len(calls),
            "async": True,
            "connections": 1,
            "duration": round(duration_s * 1e9),
            "timeout": 100 * MS,
            "binary": True,
            "CPUs": 2,
        },
        "count": len(calls),
        "total": round(1e9 * (duration_s or len(calls) / rps)),
        "average": round(MS * sum(latency for latency, _ in calls) / max(len(calls), 1)),
        "fastest": round(MS * ok[0]) if ok else 0,
        "slowest": round(MS * ok[-1]) if ok else 0,
        "rps": float(rps),
        "errorDistribution": dict(errors),
        "statusCodeDistribution": dict(Counter(status for _, status in calls)),
        "latencyDistribution": [
            {"percentage": part, "latency": round(MS * ok[min(int(part / 100 * len(ok)), len(ok) - 1)])}
            for part in (10, 25, 50, 75, 90, 95, 99)
        ]
        if ok
        else None,
        "histogram": None,
        "details": [
            {
                "timestamp": _timestamp(
                    (number + 1) * 10**9 // rps + round(MS * ((late_ms or {}).get(number, 0) + latency))
                ),
                "latency": round(MS * latency),
                "error": "" if status == "OK" else f"rpc error: code = {status} desc = it failed",
                "status": status,
            }
            for number, (latency, status) in enumerate(calls)
        ]
        or None,
    }
    for key, value in changes.items():
        if key.startswith("options_"):
            report["options"][key.removeprefix("options_").replace("_", "-")] = value
        else:
            report[key] = value
    return report


def _timestamp(since_start_ns: int) -> str:
    """Return when a call ended, as Go writes it."""
    seconds, ns = divmod(since_start_ns, 10**9)
    return f"2026-01-02T03:{4 + seconds // 60:02d}:{seconds % 60:02d}.{ns:09d}+01:00"


def install_fake_ghz(folder: Path, report: dict[str, Any] | None, exit_status: int = 0) -> None:
    """Write an executable `ghz` that takes --config FILE and writes one report to the config's output.

    Args:
        folder: To be put on PATH.
        report: What it writes; None: nothing.
        exit_status: Its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report))
    program = folder / "ghz"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, pathlib, sys\n"
        "assert sys.argv[1] == '--config', sys.argv\n"
        "config = json.loads(pathlib.Path(sys.argv[2]).read_text())\n"
        f"report = pathlib.Path({str(folder / 'report.json')!r}).read_text()\n"
        "if report != 'null':\n"
        "    pathlib.Path(config['output']).write_text(report)\n"
        "print('ghz says something')\n"
        f"sys.exit({exit_status})\n"
    )
    program.chmod(0o755)
