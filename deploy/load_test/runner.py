"""Runs one load test as a process: ghz when it is installed, else our generator, on the same config file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from journal.child_process import dies_with_parent
from load_test import config, report
from load_test.errors import ConfigError, RunError
from load_test.report import Report
from load_test.schedule import KINDS

STEPS = 5
_SLACK_S = 30.0  # beyond the run itself: start of the tool, its report
_LAST_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Load:
    """How a target's config is changed for one run; None and "" leave the config's own.

    Attributes:
        rps: Calls per second; of a step or line schedule the highest.
        duration: A Go duration.
        schedule: "const", "step" or "line".
    """

    rps: int | None = None
    duration: str = ""
    schedule: str = ""


class Tool:
    """The load tool of this machine.

    Attributes:
        name: For people.
    """

    def __init__(self, *, own: bool = False) -> None:
        """Look for ghz.

        Args:
            own: Take our generator even when ghz is there.
        """
        ghz = None if own else shutil.which("ghz")
        self.name = f"ghz ({ghz})" if ghz else "our open-loop generator"
        if not ghz and not own:
            self.name += " (ghz is not on PATH)"
        self._command = [ghz] if ghz else [sys.executable, "-m", "load_test", "generate"]

    async def run(self, document: dict[str, Any], folder: Path, name: str) -> Report:
        """Run one load test.

        Args:
            document: Keys of a ghz config; its output is replaced.
            folder: Where config and report go.
            name: Of those files.

        Returns:
            The report; whether the calls succeeded is in there, not in an exit status.

        Raises:
            ConfigError: The config can't be used.
            RunError: The tool failed or did not end.
            ReportError: What it wrote is no report.
        """
        config_path, report_path = folder / f"{name}.json", folder / f"{name}.report.json"
        document = {**document, "output": str(report_path)}
        checked = config.parse(document, str(config_path))
        config_path.write_text(json.dumps(document, indent=2))
        report_path.unlink(missing_ok=True)
        limit_s = (
            checked.schedule.length_s * 2 + checked.connect_timeout_s + checked.timeout_s + _SLACK_S
        )  # a closed loop takes longer than asked
        process = await asyncio.create_subprocess_exec(
            *self._command,
            "--config",
            str(config_path),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            **dies_with_parent(),
        )
        try:
            said, _ = await asyncio.wait_for(process.communicate(), limit_s)
        except TimeoutError as e:
            raise RunError(f"{self.name}: did not end within {limit_s:.0f} s; it was stopped") from e
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL)
                await process.wait()
        if process.returncode:
            words = said.decode(errors="replace").strip()[-_LAST_CHARACTERS:] or "it said nothing"
            raise RunError(f"{self.name}: {words.removeprefix('error: ')} (exit status {process.returncode})")
        return report.read(report_path)


def resolved(document: dict[str, Any], load: Load, host: str) -> dict[str, Any]:
    """Return a config changed for one run.

    A step schedule climbs to the rate in five steps; a line climbs from a tenth of it, each second.

    Raises:
        ConfigError: A value can't be used.
    """
    changed = {**document, "host": host}
    if load.schedule:
        if load.schedule not in KINDS:
            raise ConfigError(f"schedule {load.schedule!r}: give one of {', '.join(KINDS)}")
        changed["load-schedule"] = load.schedule
    if load.duration:
        changed["duration"] = load.duration
    if load.rps is None:
        return changed
    if load.rps < 1:
        raise ConfigError(f"rps {load.rps}: give 1 or more calls per second")
    kind = changed.get("load-schedule", "const")
    seconds = config.duration_s(changed.get("duration", "30s"), "duration")
    changed["rps"] = load.rps
    if kind == "step":
        start = -(-load.rps // STEPS)
        changed |= {
            "load-start": start,
            "load-step": start,
            "load-end": max(load.rps, start + 1),
            "load-step-duration": f"{max(round(1000 * seconds / STEPS), 10)}ms",
        }
    elif kind == "line":
        start = max(load.rps // 10, 1)
        end = max(load.rps, start + 1)
        changed |= {
            "load-start": start,
            "load-end": end,
            "load-step": max(math.ceil((end - start) / max(seconds - 1, 1)), 1),
        }
    return changed
