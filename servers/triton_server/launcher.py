"""Serve a model repository with the local Triton until told to stop: start, watch, heal, clean up."""

import asyncio
import contextlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import grpc
import structlog

from triton_server import ServerFailed, UnusableInput
from triton_server.installation import find_installation, unavailable_reason
from triton_server.leftovers import make_directory, own_prefix, sweep_dead, sweep_own
from triton_server.model_folder import find_models
from triton_server.ports import Ports, choose_ports
from triton_server.probe import Health, ServedModel, TritonProbe, wait_metrics
from triton_server.server_process import ServerProcess, ServerSettings
from triton_server.watchdog import RestartBudget, Watchdog, WatchdogSettings

__all__ = ["Launcher", "LauncherOptions", "unavailable_reason"]

log = structlog.get_logger(__name__)

_PORT_ATTEMPTS = 3
_EXIT_GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class LauncherOptions:
    """What the command line asks for; a port of 0 means any free one."""

    repository: Path
    venv: Path
    backends: Path | None = None
    host: str = "127.0.0.1"
    ports: Ports = field(default_factory=Ports)
    models: tuple[str, ...] = ()
    ready_file: Path | None = None
    log_file: Path | None = None
    start_timeout_s: float = 60.0
    watchdog: WatchdogSettings = field(default_factory=WatchdogSettings)


class PortClash(ServerFailed):
    """Another process took a port between choosing it and Triton's listening on it."""


class Launcher:
    """One supervised Triton; `run` it once."""

    def __init__(self, options: LauncherOptions) -> None:
        self._options = options
        self._stopping = asyncio.Event()
        self._restarts = RestartBudget()
        self._was_ready = False

    def stop(self) -> None:
        """Ask `run` to stop the server in order; safe to call from a signal handler of the loop."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until `stop` is called, restarting the server when it dies or hangs.

        Raises:
            UnusableInput: The caller has to change something first.
            ServerFailed: Triton doesn't start, can't load a model, or died too often.
        """
        options = self._options
        if reason := unavailable_reason():
            raise UnusableInput(reason)
        if swept := sweep_dead():
            log.info("leftovers of a dead launcher removed", count=len(swept))
        installation = find_installation(options.venv)
        models = find_models(options.repository, options.models)
        ports = choose_ports(options.host, options.ports)
        for path in filter(None, (options.ready_file, options.log_file)):
            _check_folder(path)
        if options.backends is not None and not any(options.backends.glob("*/*")):
            raise UnusableInput(
                f"{options.backends} holds no backend: name the folder above, such as /opt/tritonserver/backends"
            )
        # An earlier server's file would say that this one is ready.
        _remove(options.ready_file)
        directory = make_directory()
        try:
            installation.copy_backends(directory / "backends", options.backends)
            settings = ServerSettings(
                installation=installation,
                repository=options.repository,
                models=models,
                host=options.host,
                ports=ports,
                backends=directory / "backends",
                shared_memory_prefix=own_prefix(),
                log_file=(options.log_file or directory / "tritonserver.log").absolute(),
            )
            await self._supervise(settings)
        finally:
            _remove(options.ready_file)
            sweep_own()
            shutil.rmtree(directory, ignore_errors=True)

    async def _supervise(self, settings: ServerSettings) -> None:
        clashes = 0
        while not self._stopping.is_set():
            try:
                reason = await self._serve_once(settings)
            except PortClash:
                clashes += 1
                if clashes >= _PORT_ATTEMPTS or 0 not in asdict(self._options.ports).values():
                    raise
                settings = replace(settings, ports=choose_ports(settings.host, self._options.ports))
                continue
            if reason is None:
                return
            if not self._restarts.spend(time.monotonic()):
                raise ServerFailed(
                    f"tritonserver {reason}: given up after {self._restarts.limit} restarts in "
                    f"{self._restarts.window_s:.0f} s"
                )
            pause_s = self._restarts.backoff_s()
            log.error("tritonserver is restarted", reason=reason, pause_s=pause_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)

    async def _serve_once(self, settings: ServerSettings) -> str | None:
        """Run one server process to its end.

        Returns:
            Why it has to be started again; None when the launcher was asked to stop.

        Raises:
            ServerFailed: It failed before any server of this launcher was ready.
        """
        server = ServerProcess.start(settings, os.environ)
        async with TritonProbe(f"{settings.host}:{settings.ports.grpc}") as probe:
            serving = asyncio.create_task(self._serve(server, settings, probe))
            exiting = asyncio.create_task(server.wait())
            stopping = asyncio.create_task(self._stopping.wait())
            tasks = (serving, exiting, stopping)
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if stopping.done():
                    return None
                if exiting.done():
                    return self._failed(server.failure_reason(), server.exit_status)
                return await serving
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                # A server that hangs or failed gets no time to drain.
                await (server.stop() if stopping.done() and not stopping.cancelled() else server.kill())
                sweep_own()

    async def _serve(self, server: ServerProcess, settings: ServerSettings, probe: TritonProbe) -> str:
        """Wait until every model computes, say so, then watch; give why the server has to be restarted."""
        start_s = time.monotonic()
        timeout_s = self._options.start_timeout_s
        metrics = (settings.host, settings.ports.metrics)
        if not (await probe.wait_ready(timeout_s) and await wait_metrics(*metrics, timeout_s)):
            return self._failed(server.failure_reason(), f"was not ready within {timeout_s:.0f} s")
        try:
            models = await probe.served_models()
            failure = await _warm_up(probe, models, timeout_s)
        except grpc.aio.AioRpcError as e:
            failure = e.details() or e.code().name
        if failure is not None:
            # A server that is on its way out gives a better reason: its exit ends this task.
            await asyncio.sleep(_EXIT_GRACE_S)
            return self._failed(failure, "doesn't compute a row of zeros")
        self._was_ready = True
        address = f"{settings.host}:{settings.ports.grpc}"
        names = ", ".join(f"{model.name}/{model.version}" for model in models)
        own = {"backends": str(self._options.backends)} if self._options.backends else {}
        log.info(
            "triton is ready",
            address=address,
            models=names,
            took_s=round(time.monotonic() - start_s, 2),
            **own,
        )
        if self._options.ready_file is not None:
            _write_ready_file(self._options.ready_file, server.pid, settings, models)
        return await Watchdog(probe, models, self._options.watchdog).watch()

    def _failed(self, reason: str, what: str) -> str:
        """Fail fast on the first start; later, give the reason for another restart."""
        if self._was_ready:
            return what
        if "already in use" in reason:
            raise PortClash(f"tritonserver {what}: {reason}")
        raise ServerFailed(f"tritonserver {what}: {reason}")


async def _warm_up(probe: TritonProbe, models: Sequence[ServedModel], timeout_s: float) -> str | None:
    """Have every model compute once; give what went wrong."""
    for model in models:
        result = await probe.infer(model, timeout_s)
        if result.health is not Health.ANSWERED:
            return f"model {model.name} version {model.version}: {result.detail}"
    return None


def _write_ready_file(
    path: Path, server_pid: int, settings: ServerSettings, models: Sequence[ServedModel]
) -> None:
    ready = {
        "pid": os.getpid(),
        "server_pid": server_pid,
        "address": f"{settings.host}:{settings.ports.grpc}",
        "http": f"{settings.host}:{settings.ports.http}",
        "metrics": f"{settings.host}:{settings.ports.metrics}",
        "models": [{"name": model.name, "version": model.version} for model in models],
    }
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(ready) + "\n", encoding="utf-8")
    partial.replace(path)


def _check_folder(path: Path) -> None:
    """Check that a file can be written without making it: a ready file that exists means ready."""
    if path.is_dir():
        raise UnusableInput(f"can't write {path}: it is a folder; name a file")
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise UnusableInput(f"can't write {path}: its folder is missing or read-only")


def _remove(path: Path | None) -> None:
    if path is not None:
        path.unlink(missing_ok=True)
