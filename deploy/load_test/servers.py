"""The servers that a load test needs: those given by address, the others those of the local stack."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from journal.child_process import dies_with_parent
from load_test.errors import RunError
from load_test.targets import ServerName
from local_stack import plan
from local_stack.plan import Options
from local_stack.process import Service, StackError

_START_S = 180.0
_STOP_S = 60.0
_POLL_S = 0.1
# A bar of 300 s takes half a minute, so that the session outlives any load test: 39 minutes.
_SPEED = "10"
_CONTROL_LINE = re.compile(r"control: tradeserve\.strategy\.v1\.StrategyService at (\S+)")


@contextlib.asynccontextmanager
async def running(
    needed: set[ServerName],
    given: Mapping[ServerName, str],
    folder: Path,
    build_dir: Path,
    say: Callable[[str], None],
) -> AsyncIterator[dict[ServerName, str]]:
    """Start what is needed and not given; stop it at the end.

    Args:
        needed: Which servers.
        given: host:port of those that run elsewhere.
        folder: For logs.
        build_dir: Where Triton's environment is.
        say: Called with a line for the screen.

    Yields:
        host:port of every server needed.

    Raises:
        RunError: A server could not be started; its last words are in the message.
    """
    addresses = {name: given[name] for name in needed if given.get(name)}
    for name, address in addresses.items():
        say(f"{name}: using {address}")
    async with contextlib.AsyncExitStack() as stack:
        try:
            if "triton" in needed and "triton" not in addresses:
                service = plan.triton(Options(build_dir=build_dir), folder)
                addresses["triton"] = await _started(service, stack, say)
            if "similarity" in needed and "similarity" not in addresses:
                addresses["similarity"] = await _started(plan.similarity(folder), stack, say)
        except StackError as e:
            raise RunError(str(e)) from e
        if "strategy" in needed and "strategy" not in addresses:
            others = {**given, **addresses}
            addresses["strategy"] = await stack.enter_async_context(_strategy(others, folder, build_dir, say))
        yield addresses


async def _started(service: Service, stack: contextlib.AsyncExitStack, say: Callable[[str], None]) -> str:
    stack.push_async_callback(service.stop)
    took_s = await service.start()
    say(f"{service.name}: healthy at {service.address} after {took_s:.1f} s; log: {service.log_file}")
    return service.address


@contextlib.asynccontextmanager
async def _strategy(
    others: Mapping[ServerName, str], folder: Path, build_dir: Path, say: Callable[[str], None]
) -> AsyncIterator[str]:
    """Run a whole local stack, with a paper session that trades slowly; yield where its control service is."""
    screen = folder / "strategy.screen.txt"
    command = [
        *(sys.executable, "-m", "local_stack", "--speed", _SPEED),
        *("--build-dir", str(folder / "stack"), "--triton-venv", str(build_dir / "venv-triton")),
        *("--triton", others.get("triton", ""), "--similarity", others.get("similarity", "")),
    ]
    with screen.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,  # Ctrl-C is ours: it is stopped after the load
            **dies_with_parent(),
        )
    try:
        address = await _control_address(process, screen)
        say(f"strategy: a paper session trades slowly, control at {address}; screen: {screen}")
        yield address
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), _STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _control_address(process: asyncio.subprocess.Process, screen: Path) -> str:
    try:
        async with asyncio.timeout(_START_S):
            while True:
                text = await asyncio.to_thread(screen.read_text, errors="replace")
                if found := _CONTROL_LINE.search(text):
                    return found[1]
                if process.returncode is not None:
                    last = text.strip().rpartition("\n")[2]
                    raise RunError(f"strategy: did not start: {last} (screen: {screen})")
                await asyncio.sleep(_POLL_S)
    except TimeoutError as e:
        raise RunError(f"strategy: no control service after {_START_S:.0f} s (screen: {screen})") from e
