"""Own one running tritonserver: its command line, its start, its end."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from triton_server.installation import Installation
from triton_server.model_folder import CONFIG_NAME, ModelFolder
from triton_server.ports import Ports

_DIE_WITH_PARENT = Path(__file__).with_name("die_with_parent.py")
# Triton waits this long for requests in flight; then the launcher kills it.
_DRAIN_S = 5
_STOP_TIMEOUT_S = 8.0
_LONGEST_LOG_BYTES = 1_000_000
_LOAD_FAILURE = re.compile(r"failed to load '(?P<model>[^']+)' version (?P<version>\d+): (?P<reason>.*)")
_POLL_FAILURE = re.compile(r"Poll failed for model directory '(?P<model>[^']+)': (?P<reason>.*)")
_PARSE_ERROR = re.compile(r"Error parsing text-format [\w.]+: (?P<reason>.*)")
_ERROR_LINE = re.compile(r"E\d{4} |error: |.*already in use")
_HARMLESS = "CudaDriverHelper has not been initialized"
_LOG_HEAD = re.compile(r"^[EWI]\d{4} [\d:.]+ \d+ [\w.]+:\d+\] ?")
_LONGEST_REASON = 600


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Everything a tritonserver is started with."""

    installation: Installation
    repository: Path
    models: tuple[ModelFolder, ...]
    host: str
    ports: Ports
    backends: Path
    shared_memory_prefix: str
    log_file: Path


def server_command(settings: ServerSettings) -> list[str]:
    """Build tritonserver's command line."""
    ports = settings.ports
    command = [
        str(settings.installation.server),
        f"--model-repository={settings.repository.absolute()}",
        f"--backend-directory={settings.backends}",
        f"--cache-directory={settings.installation.caches}",
        f"--model-config-name={CONFIG_NAME}",
        # Explicit control is what lets the watchdog unload and load a model.
        "--model-control-mode=explicit",
        *(f"--load-model={model.name}" for model in settings.models),
        f"--grpc-address={settings.host}",
        f"--grpc-port={ports.grpc}",
        f"--http-address={settings.host}",
        f"--http-port={ports.http}",
        f"--metrics-address={settings.host}",
        f"--metrics-port={ports.metrics}",
        "--allow-gpu-metrics=false",
        "--pinned-memory-pool-byte-size=0",
        # Clients ping an idle connection every 20 s; Triton's default cuts those that ping within 300 s.
        "--grpc-keepalive-permit-without-calls=true",
        "--grpc-http2-min-recv-ping-interval-without-data=5000",
        f"--backend-config=python,shm-region-prefix-name={settings.shared_memory_prefix}",
        f"--exit-timeout-secs={_DRAIN_S}",
    ]
    if all(model.has_full_config for model in settings.models):
        # Auto-completion starts a stub process per model for nothing.
        command.append("--disable-auto-complete-config")
    return command


class ServerProcess:
    """A tritonserver and its stub processes, which share a process group of their own."""

    def __init__(self, process: subprocess.Popen[bytes], log_file: Path, log_start: int) -> None:
        self._process = process
        self._log_file = log_file
        self._log_start = log_start
        self._pidfd = os.pidfd_open(process.pid)
        self._exited = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_exit)

    @classmethod
    def start(cls, settings: ServerSettings, environment: Mapping[str, str]) -> Self:
        """Start the server, bound to this process: the kernel kills it when this one dies."""
        with settings.log_file.open("ab") as log:
            log_start = log.tell()
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    str(_DIE_WITH_PARENT),
                    str(os.getpid()),
                    *server_command(settings),
                ],
                env=settings.installation.environment(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal reaches the launcher alone, which stops the server in order.
                start_new_session=True,
            )
            return cls(process, settings.log_file, log_start)

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    @property
    def exit_status(self) -> str:
        """How it ended, in words."""
        code = self._process.returncode
        if code is None:
            return "runs"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"

    async def wait(self) -> None:
        """Wait until the server has exited and its stubs are killed."""
        await self._exited.wait()

    async def stop(self) -> None:
        """Let the server finish what is in flight, then end it and its stubs."""
        if not self._exited.is_set():
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._exited.wait(), _STOP_TIMEOUT_S)
            except TimeoutError:
                await self.kill()

    async def kill(self) -> None:
        """End the server and its stubs at once."""
        if not self._exited.is_set():
            self._process.kill()
            await self._exited.wait()

    def failure_reason(self) -> str:
        """Give what the log of this start says about why it failed."""
        return failure_reason(self._log_text())

    def _log_text(self) -> str:
        with self._log_file.open("rb") as log:
            log.seek(self._log_start)
            return log.read(_LONGEST_LOG_BYTES).decode("utf-8", errors="replace")

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        # Before it is reaped, its pid, which is the group's too, can't be given to another process.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._exited.set()


def failure_reason(log_text: str) -> str:
    """Find Triton's own reason in its log: the models that failed to load, else the first error line."""
    failures = {match["model"]: match["reason"] for match in _LOAD_FAILURE.finditer(log_text)}
    parse_error = _PARSE_ERROR.search(log_text)
    for match in _POLL_FAILURE.finditer(log_text):
        detail = f" ({parse_error['reason']})" if parse_error else ""
        failures.setdefault(match["model"], match["reason"].rstrip('"') + detail)
    if failures:
        return "; ".join(f"model {name}: {_short(reason)}" for name, reason in sorted(failures.items()))
    lines = [line for line in log_text.splitlines() if _ERROR_LINE.match(line) and _HARMLESS not in line]
    return _short(_LOG_HEAD.sub("", lines[0])) if lines else "its log gives no reason"


def _short(text: str) -> str:
    """Cut a reason to one line without the stub's traceback, which Triton writes with escaped line ends."""
    text = " ".join(text.partition("\\n\\nAt:")[0].removeprefix("Internal: ").split()).strip('"')
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "…"
