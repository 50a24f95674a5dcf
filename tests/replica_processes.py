"""Servers as processes that a test may kill."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fakes.waiting import wait_for_file
from served_models import ROOT


@contextlib.contextmanager
def servers(folder: Path, *commands: list[str]) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Start several servers, each a process group of its own; yield (address, ready file) of each."""
    processes: list[subprocess.Popen[bytes]] = []
    ready_files: list[Path] = []
    try:
        for number, command in enumerate(commands):
            home = folder / str(number)
            home.mkdir(parents=True)
            ready = home / "ready.json"
            with (home / "server.log").open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", *command, "--ready-file", str(ready)],
                        stdout=log,
                        stderr=log,
                        env={**os.environ, "PYTHONPATH": _path()},
                        start_new_session=True,
                    )
                )
            ready_files.append(ready)
        for ready, process in zip(ready_files, processes, strict=True):
            wait_for_file(ready, process, timeout_s=90)
        contents = [json.loads(ready.read_text()) for ready in ready_files]
        yield [(content["address"], content) for content in contents]
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _path() -> str:
    """Return a search path that has the fakes, which are run as modules too."""
    return os.pathsep.join(part for part in (str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")) if part)
