"""A whole local stack as real processes, watched from outside: import the fixture in a conftest.py."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pytest

from postgres_fixture import copy_template
from triton_server.launcher import unavailable_reason

ROOT = Path(__file__).parents[1]
TRITON_VENV = ROOT / "build" / "venv-triton"
_MARK = "TRADESERVE_TEST_STACK"
_START_S = 90.0
_STOP_S = 60.0
_POLL_S = 0.02
_ADDRESS = re.compile(r"127\.0\.0\.1:(\d+)")

# So much time for every answer that a busy machine does not change what the strategy decides.
PATIENT = {
    "budget.total_ms": 2000,
    "budget.forecast_ms": 900,
    "budget.search_ms": 900,
    "risk.max_quote_age_ms": 60000,
}
# Models without skill rarely have an edge; here any edge is traded, so that there are orders to look at.
EAGER = {
    "policy.entry_edge": 0.002,
    "policy.exit_edge": 0.001,
    "policy.entry_probability": 0.0,
    "policy.no_entry_last_bars": 0,
    "policy.flatten_last_bars": 0,
    "risk.max_orders_per_minute": 1000,
}


def needs_triton() -> None:
    """Skip where the local Triton can't run, in words."""
    if reason := unavailable_reason():
        pytest.skip(reason)
    if not (TRITON_VENV / ".installed").exists():
        pytest.skip("build/venv-triton is missing: `make setup` builds it")


def settings(*parts: Mapping[str, object]) -> list[str]:
    """Return the stack's arguments that override keys of the strategy's configuration."""
    return [f"--strategy-arg=--set={key}={value}" for part in parts for key, value in part.items()]


class StackProcess:
    """`python -m local_stack` in a process group of its own, as a terminal starts it.

    Attributes:
        folder: Its build folder; the database lies in folder/postgres.
        lines: Standard output so far.
        errors: Standard error so far.
    """

    def __init__(
        self, folder: Path, *arguments: str, environment: Mapping[str, str] | None = None, module: str = ""
    ) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self.errors: list[str] = []
        self.launchers: set[int] = set()
        self._mark = uuid.uuid4().hex
        self._temporary = folder / "tmp"
        self._temporary.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._ready_file = folder / "ready.json"
        command = [sys.executable, "-m", module or "local_stack", *arguments]
        if module:
            command += ["--ready-file", str(self._ready_file)]
        else:
            command += ["--build-dir", str(folder), "--triton-venv", str(TRITON_VENV)]
        outside = {key: value for key, value in os.environ.items() if key != "DATABASE_URL"}
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**outside, **(environment or {}), _MARK: self._mark, "TMPDIR": str(self._temporary)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self.lines), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, self.errors), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: IO[str] | None, lines: list[str]) -> None:
        assert stream is not None
        with contextlib.suppress(ValueError):  # closed by the test's end
            lines.extend(line.rstrip("\n") for line in stream)

    @property
    def text(self) -> str:
        """Everything on standard output so far."""
        return "\n".join(self.lines)

    # --- waiting -----------------------------------------------------------------------------------

    def wait_for(self, pattern: str, *, after: int = 0, timeout_s: float = _START_S) -> int:
        """Wait for a line of standard output that matches; return the number of the line after it."""
        wanted, seen, end = re.compile(pattern), after, time.monotonic() + timeout_s
        while True:
            over = self.process.poll() is not None
            if over:
                self._readers[0].join(5)
            while seen < len(self.lines):
                seen += 1
                if wanted.search(self.lines[seen - 1]):
                    return seen
            assert not over, f"it ended before {pattern!r}:\n{self.told()}"
            assert time.monotonic() < end, f"no {pattern!r} in {timeout_s:.0f} s:\n{self.told()}"
            time.sleep(_POLL_S)

    def wait_decided(self, answers: str = "", *, after: int | None = None, count: int = 1) -> int:
        """Wait for decisions, optionally with certain answers in their line; return the line after."""
        position = len(self.lines) if after is None else after
        for _ in range(count):
            position = self.wait_for(rf"^\S+ \S+ +\w+ +(BUY|SELL|HOLD) .*{answers}", after=position)
        return position

    def wait_address(self) -> str:
        """Wait until a server (not a stack) is healthy; return its address."""
        end = time.monotonic() + _START_S
        while not self._ready_file.exists():
            assert self.process.poll() is None, self.told()
            assert time.monotonic() < end, self.told()
            time.sleep(_POLL_S)
        return str(json.loads(self._ready_file.read_text())["address"])

    def wait_end(self, timeout_s: float = _STOP_S) -> int:
        """Wait for the end; return the exit status."""
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {timeout_s:.0f} s:\n{self.told()}") from None
        for reader in self._readers:
            reader.join(5)
        return status

    def told(self) -> str:
        """What it said lately, for the message of a failed test."""
        return "\n".join([*self.lines[-60:], "--- standard error", *self.errors[-20:]])

    # --- processes ---------------------------------------------------------------------------------

    def interrupt(self, number: int = signal.SIGINT) -> None:
        """Signal the stack's process alone."""
        self.process.send_signal(number)

    def interrupt_group(self) -> None:
        """Ctrl-C in a terminal: SIGINT for everything in the foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def processes(self) -> dict[int, str]:
        """Return every live process that descends from the stack: pid -> command line."""
        mark = f"{_MARK}={self._mark}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes():
                    text = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if text:  # a zombie has none
                        found[int(entry.name)] = text
        return found

    def ready(self, name: str) -> dict[str, Any]:
        """Return a server's ready file."""
        (path,) = self.folder.glob(f"runs/*/{name}.ready.json")
        content: dict[str, Any] = json.loads(path.read_text())
        if name == "triton":
            self.launchers.add(content["pid"])
        return content

    def pid(self, name: str) -> int:
        """Return a process: triton, tritonserver, similarity, gateway, postgres, postmaster or strategy."""
        if name == "tritonserver":
            return int(self.ready("triton")["server_pid"])
        if name == "postmaster":
            return int((self.folder / "postgres/pgdata/postmaster.pid").read_text().splitlines()[0])
        if name == "strategy":
            (pid,) = [pid for pid, command in self.processes().items() if " strategy run " in command]
            return pid
        return int(self.ready(name)["pid"])

    def kill(self, name: str) -> int:
        """SIGKILL one of its processes, as the kernel does when memory is short; return its pid."""
        if name == "triton":
            self.ready("triton")
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    @contextlib.contextmanager
    def nothing_restarts(self, pid: int = 0) -> Iterator[None]:
        """Hold the process that restarts others (the stack itself, or the given one) meanwhile."""
        keeper = pid or self.process.pid
        os.kill(keeper, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(keeper, signal.SIGCONT)

    # --- what stays behind -------------------------------------------------------------------------

    def assert_nothing_left(self, timeout_s: float = 30.0) -> None:
        """Fail when a process, a listening port, a temporary file or shared memory stayed behind."""
        end = time.monotonic() + timeout_s
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(_POLL_S)
        assert not left, f"processes stayed behind: {left}\n{self.told()}"
        ports = {int(port) for port in _ADDRESS.findall("\n".join(self._addresses()))}
        assert not [port for port in ports if _listens(port)]
        assert not list(self._temporary.iterdir())
        shared = [path.name for path in Path("/dev/shm").glob("tradeserve_triton_*")]
        assert not [name for name in shared if any(f"_triton_{pid}_" in name for pid in self.launchers)]

    def _addresses(self) -> Iterator[str]:
        yield from (
            line
            for line in self.lines
            if " healthy at " in line or line.startswith(("control: ", "metrics: "))
        )

    def destroy(self) -> None:
        """End what a failed test left, each process by its id."""
        self._end()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def _end(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            end = time.monotonic() + 20
            while self.processes() and time.monotonic() < end:
                time.sleep(_POLL_S)
        self.process.wait(5)
        for reader in self._readers:
            reader.join(5)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class StackFactory:
    """Starts stacks, each with its own build folder and a fresh database; one at a time."""

    def __init__(self, postgres_template: Path) -> None:
        self._template = postgres_template
        # Postgres, as root's unprivileged user, must reach it; so no folder of pytest's.
        self._root = Path(tempfile.mkdtemp(prefix="tradeserve-stack-"))
        self._root.chmod(0o711)
        self._started: list[StackProcess] = []

    def start(
        self,
        *arguments: str,
        database: bool = True,
        environment: Mapping[str, str] | None = None,
        module: str = "",
        folder: Path | None = None,
    ) -> StackProcess:
        """Start `python -m local_stack` (or another module of ours) with arguments."""
        folder = folder or self._root / uuid.uuid4().hex[:8]
        folder.mkdir(mode=0o711, exist_ok=True)
        if database:
            copy_template(self._template, folder / "postgres")
        one = StackProcess(folder, *arguments, environment=environment, module=module)
        self._started.append(one)
        return one

    def close(self) -> None:
        """End everything and remove every folder."""
        for one in self._started:
            one.destroy()
            print(one.text, *one.errors, sep="\n")  # pytest shows it when the test failed
        shutil.rmtree(self._root, ignore_errors=True)


@pytest.fixture
def stacks(postgres_template: Path) -> Iterator[StackFactory]:
    """Whole stacks of this test's own."""
    factory = StackFactory(postgres_template)
    yield factory
    factory.close()


def run_module(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Any:
    """Run one command of ours to its end."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
