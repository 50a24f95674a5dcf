"""One run: start the servers, run the strategy, stop everything."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from journal.child_process import dies_with_parent
from local_stack import plan
from local_stack.plan import Options
from local_stack.process import Service, StackError
from local_stack.supervisor import Supervisor
from triton_server.leftovers import sweep_dead

_STRATEGY_STOP_S = 30.0
_KEPT_RUNS = 20
INTERRUPTED = 130
"""Exit status of shells after Ctrl-C; a run that traded and was stopped ends with the strategy's."""


class Stack:
    """Runs one trading session on this machine.

    Args:
        options: What the user chose.
        say: Called with one line for the screen.
    """

    def __init__(self, options: Options, say: Callable[[str], None]) -> None:
        self._options = options
        self._say = say
        self._began = time.monotonic()
        self._services: list[Service] = []
        self._supervisor = Supervisor(say)
        self._joining: asyncio.Task[None] | None = None
        self._strategy: asyncio.subprocess.Process | None = None
        self._interrupts = 0
        self._interrupted = asyncio.Event()
        runs = options.build_dir / "runs"
        self.folder = runs / time.strftime(f"%Y%m%dT%H%M%SZ-{os.getpid()}", time.gmtime())
        try:
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise StackError(
                f"{self.folder} cannot be made ({error.strerror}): free space, correct its rights, "
                "or give --build-dir another folder"
            ) from error
        self._addresses_file = self.folder / "addresses.json"
        _forget_old_runs(runs)

    async def run(self) -> int:
        """Run the session; return the exit status for the shell.

        Raises:
            StackError: A server could not start; everything that ran was stopped.
        """
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signal_number, self._interrupt)
        work = asyncio.create_task(self._start_and_trade())
        stop = asyncio.create_task(self._interrupted.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and self._strategy is not None:
                await asyncio.wait({work}, timeout=_STRATEGY_STOP_S)  # it cancels its orders first
            if not work.done():
                work.cancel()
                await asyncio.wait({work})
            return INTERRUPTED if work.cancelled() else self._ended(work.result())
        finally:
            stop.cancel()
            await self._stop_all()

    def _interrupt(self) -> None:
        self._interrupts += 1
        trading = self._strategy is not None and self._strategy.returncode is None
        if self._interrupts == 1:
            self._say("stopping (once more kills the strategy at once)" if trading else "stopping")
            self._interrupted.set()
        if self._strategy is not None and trading:
            # Not SIGINT: while it still loads, Python would answer that with a traceback.
            self._strategy.send_signal(signal.SIGTERM if self._interrupts == 1 else signal.SIGKILL)

    def _ended(self, status: int) -> int:
        if status >= 0:
            return status
        early = self._interrupts == 1 and -status == signal.SIGTERM  # it was still loading
        self._say(
            f"strategy: {'stopped before it traded' if early else 'killed by ' + signal.Signals(-status).name}"
        )
        return INTERRUPTED if self._interrupts else 128 - status

    async def _start_and_trade(self) -> int:
        options = self._options
        database_url = options.database_url
        elsewhere_vision = "" if options.vision in (plan.ON, plan.OFF) else options.vision
        addresses = {
            "gateway": options.gateway,
            "triton": options.triton,
            "similarity": options.similarity,
            "vision": elsewhere_vision,
        }
        session: dict[str, Any] | None = None
        starting: list[Service] = []
        if not database_url:
            starting.append(plan.postgres(options, self.folder))
        if not options.triton:
            starting.append(plan.triton(options, self.folder))
        if not options.similarity:
            starting.append(plan.similarity(self.folder))
        if not options.gateway:
            starting.append(plan.gateway(options, self.folder))
        for name, elsewhere in (*addresses.items(), ("postgres", _without_password(database_url))):
            if elsewhere:
                self._say(f"{name}: using {elsewhere}")
        if plan.starts_vision(options):
            vision = plan.vision(options, self.folder)
            addresses["vision"] = vision.address
            if options.vision:  # it was asked for, so it is waited for
                self._say("vision: loading the model; the others start beside it")
                starting.append(vision)
            else:
                self._joining = asyncio.create_task(self._join(vision))
        elif not addresses["vision"]:
            self._say("vision: off (no charts are read; `make venv-vllm` once, or VISION=host:port)")
        await self._start(starting)
        for service in starting:
            if service.name == "postgres":
                database_url = str(service.ready["database_url"])
            else:
                addresses[service.name] = service.address
            if service.name == "gateway":
                session = service.ready["session"]
            self._supervisor.watch(service)
        if session is not None:
            self._say(_session_line(session))
        return await self._trade(addresses, session, database_url)

    async def _start(self, services: list[Service]) -> None:
        """Start all at once; the first failure wins and names its server."""
        self._services.extend(services)

        async def start(service: Service) -> None:
            took_s = await service.start()
            self._say(f"{service.name}: healthy at {service.address} after {took_s:.1f} s")

        tasks = [asyncio.create_task(start(service)) for service in services]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _join(self, service: Service) -> None:
        """Start a server that the session does not need, beside the others."""
        self._services.append(service)
        self._say(f"{service.name}: starting; the session does not wait for it")
        try:
            took_s = await service.start()
        except StackError as error:
            self._say(f"    ! {error}; the session goes on without it")
            return
        self._say(f"{service.name}: healthy at {service.address} after {took_s:.1f} s")
        self._supervisor.watch(service)

    async def _trade(
        self, addresses: dict[str, str], session: dict[str, Any] | None, database_url: str
    ) -> int:
        with contextlib.suppress(OSError):  # a convenience: the run goes on without
            _write_whole(self._addresses_file, json.dumps({"pid": os.getpid(), **addresses}) + "\n")
        command = plan.strategy(self._options, addresses, session, self.folder)
        self._say(
            f"strategy: starting {time.monotonic() - self._began:.1f} s after the first process; logs in {self.folder}"
        )
        self._strategy = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            env=plan.strategy_environment(database_url),
            start_new_session=True,
            **dies_with_parent(),
        )
        return await self._strategy.wait()

    async def _stop_all(self) -> None:
        self._addresses_file.unlink(missing_ok=True)  # `tradeserve` looks for it
        if self._joining is not None:
            self._joining.cancel()
            await asyncio.gather(self._joining, return_exceptions=True)
        await self._supervisor.stop()
        if self._strategy is not None and self._strategy.returncode is None:
            self._say(f"strategy: did not stop within {_STRATEGY_STOP_S:.0f} s; killed")
            self._strategy.kill()
            await self._strategy.wait()
        await asyncio.gather(*(service.stop() for service in self._services))
        sweep_dead()  # the shared memory of a Triton that had to be killed
        if self._services:
            self._say(f"stopped {', '.join(service.name for service in self._services)}")


def _session_line(session: dict[str, Any]) -> str:
    start, end = (
        time.strftime("%Y-%m-%d %H:%M", time.gmtime(session[key] / 1e9)) for key in ("start_ns", "end_ns")
    )
    return (
        f"session: {session['source']}, {', '.join(session['symbols'])}, {session['bar_size_s']} s bars, "
        f"{start} to {end} UTC at {session['speed']:g} x real time"
    )


def _write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or none."""
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)


def _without_password(database_url: str) -> str:
    return re.sub(r"(://[^:/@]+):[^@]*@", r"\1:***@", database_url)


def _forget_old_runs(runs: Path) -> None:
    for folder in sorted(runs.iterdir())[:-_KEPT_RUNS]:
        shutil.rmtree(folder, ignore_errors=True)


async def run(options: Options, say: Callable[[str], None]) -> int:
    """Run one session.

    Raises:
        StackError: A server could not start; everything that ran was stopped.
    """
    if options.config is not None and not options.config.is_file():
        raise StackError(f"configuration {options.config} does not exist; give CONFIG= an existing TOML file")
    return await Stack(options, say).run()
