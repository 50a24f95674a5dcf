"""One supervised child process: started, waited for, restarted, stopped."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from journal.child_process import dies_with_parent

_POLL_S = 0.02
_LAST_LINES = 5
_ERROR_LINE = re.compile(r"(?:[\w. -]+: )?error: *(.*)")  # ours, or argparse's with the program's name


class StackError(Exception):
    """Something that keeps the stack from running; the message says what to do."""


@dataclass(slots=True)
class Service:
    """A server process of the local stack.

    Attributes:
        name: For people.
        command: Argument list for a start on any free port.
        folder: Where its ready file and log go.
        start_timeout_s: Longest time until it must be healthy.
        stop_timeout_s: Longest time from SIGTERM to SIGKILL.
        restart_command: Makes the argument list of a restart from the ready file of the first
            start, so that it comes back at the same address; None: it is not restarted.
        environment: Added to this process's environment.
    """

    name: str
    command: Sequence[str]
    folder: Path
    start_timeout_s: float = 60.0
    stop_timeout_s: float = 15.0
    restart_command: Callable[[Mapping[str, Any]], Sequence[str]] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    ready: dict[str, Any] = field(default_factory=dict)
    _process: asyncio.subprocess.Process | None = None
    _log_start: int = 0

    @property
    def ready_file(self) -> Path:
        """Written by the server once it is healthy."""
        return self.folder / f"{self.name}.ready.json"

    @property
    def log_file(self) -> Path:
        """Standard output and error of the server."""
        return self.folder / f"{self.name}.log"

    @property
    def address(self) -> str:
        """host:port it listens on."""
        return str(self.ready["address"])

    async def start(self) -> float:
        """Start it and wait until it is healthy.

        Returns:
            Seconds it took.

        Raises:
            StackError: It exited or was not healthy in time; its last words are in the message.
        """
        began = time.monotonic()
        command = self.command
        if self.ready and self.restart_command is not None:
            command = self.restart_command(self.ready)
        try:
            await self._launch(command)
        except OSError as error:
            raise StackError(f"{self.name} cannot be started: {error}") from error
        assert self._process is not None
        while not self.ready_file.exists():
            if self._process.returncode is not None:
                raise StackError(f"{self.name} did not start: {self.last_words()} (log: {self.log_file})")
            if time.monotonic() - began > self.start_timeout_s:
                await self.stop()
                raise StackError(
                    f"{self.name} was not healthy after {self.start_timeout_s:.0f} s: "
                    f"{self.last_words()} (log: {self.log_file})"
                )
            await asyncio.sleep(_POLL_S)
        self.ready = json.loads(self.ready_file.read_text())
        return time.monotonic() - began

    async def _launch(self, command: Sequence[str]) -> None:
        self.ready_file.unlink(missing_ok=True)
        with self.log_file.open("ab") as log:
            self._log_start = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                *command,
                "--ready-file",
                str(self.ready_file),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,  # Ctrl-C must reach the strategy first, not everyone at once
                **dies_with_parent(),
            )

    async def wait(self) -> int:
        """Wait until it ends; return its exit status."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self) -> None:
        """Stop it: SIGTERM, then SIGKILL for its whole process group."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self.stop_timeout_s)
        except TimeoutError:
            if process.returncode is None:  # else its id, which is the group's, may be another's by now
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    def last_words(self) -> str:
        """Return the `error:` line that its latest start logged, or else its last lines."""
        if not self.log_file.exists():
            return "it wrote nothing"
        with self.log_file.open(errors="replace") as log:
            log.seek(self._log_start)
            lines = deque((line.strip() for line in log if line.strip()), maxlen=200)
        for line in reversed(lines):
            if found := _ERROR_LINE.match(line):
                return found[1]
        return " | ".join(list(lines)[-_LAST_LINES:]) or "it wrote nothing"
