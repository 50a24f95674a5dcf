"""Our load generator: open loop, on grpc.aio. A slow server does not slow down what is sent to it.

Every call has an instant at which it is due. Its latency counts from there, its deadline too; so a server
that stalls shows in the latency of every call that was due meanwhile (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import gc
import json
import selectors
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import grpc
import grpc.aio
import numpy as np

from load_test.config import LoadConfig
from load_test.errors import RunError
from load_test.messages import Call
from load_test.report import NOT_SENT, OK, Outcome, document, go_name

_NS = 1_000_000_000
_START_S = 0.05  # until the first call is due, so that the start is not late
_GRACE_S = 1.0  # for answers after the last deadline
_FOREVER_MS = 2**31 - 1


def run(config: LoadConfig) -> Outcome:
    """Run a load test to its end; SIGINT and SIGTERM end it early, with what was measured until then.

    Raises:
        ConfigError: Protoset or payloads can't be used.
        RunError: A certificate can't be read.
    """
    call = Call(config)
    payloads = call.payloads(config)
    # epoll's waits are whole milliseconds, select's are not: calls go out when they are due.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        return runner.run(_run(config, call.path, payloads))


async def _run(config: LoadConfig, path: str, payloads: Sequence[bytes]) -> Outcome:
    load = OpenLoop(config, path, payloads)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, load.cancel)
    # What is loaded by now is never garbage; scanning it again and again would make calls late.
    gc.collect()
    gc.freeze()
    return await load.run()


def write(config: LoadConfig, outcome: Outcome) -> None:
    """Write the report to the config's output, or to standard output.

    Raises:
        RunError: It can't be written.
    """
    text = json.dumps(document(config, outcome))
    if not config.output:
        print(text)
        return
    path = Path(config.output)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as e:
        raise RunError(f"output: {path}: {e.strerror}") from e


class OpenLoop:
    """One run against one server.

    Args:
        config: What to do.
        path: "/package.Service/Method".
        payloads: Serialized requests, sent in turn.
    """

    def __init__(self, config: LoadConfig, path: str, payloads: Sequence[bytes]) -> None:
        self._config = config
        self._path = path
        self._payloads = payloads
        self._due_s = config.schedule.due_s()
        count = len(self._due_s)
        self._status: list[str] = [""] * count
        self._error: list[str] = [""] * count
        self._ended_s = np.zeros(count)
        self._lag_s = np.full(count, -1.0)
        self._metadata = tuple((key.lower(), value) for key, value in config.metadata.items())
        self._in_flight: set[asyncio.Task[None]] = set()
        self._cancelled = asyncio.Event()
        self._made = 0
        self._start_s = 0.0

    def cancel(self) -> None:
        """Make no more calls; run() returns when those in flight have ended."""
        self._cancelled.set()

    async def run(self) -> Outcome:
        """Connect, make every call when it is due, wait for the last answers.

        Returns:
            What became of the calls that were due until the end or until cancel().
        """
        channels = [_channel(self._config) for _ in range(self._config.connections)]
        try:
            await self._connect(channels)
            stubs = [channel.unary_unary(self._path) for channel in channels]
            wall_ns = time.time_ns() + round(_START_S * _NS)
            self._start_s = time.perf_counter() + _START_S
            await self._send(stubs)
            await self._settle()
            took_s = max(time.perf_counter() - self._start_s, 0.0)
        finally:
            for channel in channels:
                await channel.close()
        return self._outcome(wall_ns, took_s)

    async def _connect(self, channels: Sequence[grpc.aio.Channel]) -> None:
        """Wait for the connections, bounded; without one the calls fail and say why."""
        ready = [asyncio.ensure_future(channel.channel_ready()) for channel in channels]
        stop = asyncio.ensure_future(self._cancelled.wait())
        all_ready = asyncio.ensure_future(asyncio.wait(ready))
        await asyncio.wait(
            [all_ready, stop],
            timeout=self._config.connect_timeout_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        for task in (*ready, all_ready, stop):
            task.cancel()
        await asyncio.gather(*ready, all_ready, stop, return_exceptions=True)

    async def _send(self, stubs: Sequence[grpc.aio.UnaryUnaryMultiCallable]) -> None:
        stop = asyncio.ensure_future(self._cancelled.wait())
        try:
            for number, due_s in enumerate((self._due_s + self._start_s).tolist()):
                while (wait_s := due_s - time.perf_counter()) > 0 and not stop.done():
                    await asyncio.wait([stop], timeout=wait_s)
                if stop.done():
                    return
                if number % 16 == 15:
                    await asyncio.sleep(0)  # answers are read also when every call is late
                self._launch(number, due_s, stubs[number % len(stubs)])
        finally:
            stop.cancel()

    def _launch(self, number: int, due_s: float, stub: grpc.aio.UnaryUnaryMultiCallable) -> None:
        self._made = number + 1
        now_s = time.perf_counter()
        left_s = due_s + self._config.timeout_s - now_s
        problem = ""
        if left_s <= 0:
            problem = "not sent: its deadline passed before the load generator got to it"
        elif len(self._in_flight) >= self._config.concurrency:
            problem = f"not sent: {self._config.concurrency} calls were in flight (concurrency)"
        if problem:
            self._end(number, now_s, NOT_SENT, problem)
            return
        self._lag_s[number] = now_s - due_s
        task = asyncio.ensure_future(self._call(number, left_s, stub))
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)

    async def _call(self, number: int, left_s: float, stub: grpc.aio.UnaryUnaryMultiCallable) -> None:
        payload = self._payloads[number % len(self._payloads)]
        status, error = "Canceled", "cut off by the load generator"
        try:
            await stub(payload, timeout=left_s, metadata=self._metadata)
            status, error = OK, ""
        except grpc.aio.AioRpcError as e:
            status = go_name(e.code())
            error = f"rpc error: code = {status} desc = {e.details()}"
        finally:
            self._end(number, time.perf_counter(), status, error)

    def _end(self, number: int, at_s: float, status: str, error: str) -> None:
        self._ended_s[number] = at_s
        self._status[number] = status
        self._error[number] = error

    async def _settle(self) -> None:
        """Wait for what is in flight, bounded by its deadlines."""
        if not self._in_flight:
            return
        _, late = await asyncio.wait(self._in_flight, timeout=self._config.timeout_s + _GRACE_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _outcome(self, wall_ns: int, took_s: float) -> Outcome:
        part = slice(self._made)
        # Times are measured on the monotonic clock; the wall clock only says when the run began.
        since_start_s = self._ended_s[part] - self._start_s
        return Outcome(
            ended_ns=wall_ns + np.rint(since_start_s * _NS).astype(np.int64),
            latency_ns=np.rint((since_start_s - self._due_s[part]) * _NS).astype(np.int64),
            lag_ns=np.where(self._lag_s[part] < 0, -1, np.rint(self._lag_s[part] * _NS)).astype(np.int64),
            status=self._status[part],
            error=self._error[part],
            took_ns=round(took_s * _NS),
            end_reason="normal" if self._made == len(self._due_s) else "cancel",
        )


def _channel(config: LoadConfig) -> grpc.aio.Channel:
    options: list[tuple[str, str | int]] = [
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),  # a retry would hide an error, and add load
        ("grpc.use_local_subchannel_pool", 1),  # else all channels share one connection
        ("grpc.client_idle_timeout_ms", _FOREVER_MS),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
    ]
    if config.lb_strategy:
        options.append(
            ("grpc.service_config", json.dumps({"loadBalancingConfig": [{config.lb_strategy: {}}]}))
        )
    if config.authority:
        options.append(("grpc.default_authority", config.authority))
    if config.cname:
        options.append(("grpc.ssl_target_name_override", config.cname))
    if config.keepalive_s:
        keepalive_ms = round(config.keepalive_s * 1000)
        options += [("grpc.keepalive_time_ms", keepalive_ms), ("grpc.keepalive_timeout_ms", keepalive_ms)]
    if config.insecure:
        return grpc.aio.insecure_channel(config.host, options=options)
    credentials = grpc.ssl_channel_credentials(
        _pem(config.cacert, "cacert"), _pem(config.key, "key"), _pem(config.cert, "cert")
    )
    return grpc.aio.secure_channel(config.host, credentials, options=options)


def _pem(name: str, key: str) -> bytes | None:
    if not name:
        return None
    try:
        return Path(name).read_bytes()
    except OSError as e:
        raise RunError(f"{key}: {name}: {e.strerror}") from e
