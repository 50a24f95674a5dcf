"""`make fuzz`: malformed requests against the servers of this repository.

Passes when every server answered each request with a refusal or, where the request happened to be
valid, with OK; none answered INTERNAL, UNKNOWN or UNAVAILABLE, crashed, or grew; and each answers a
valid request as before. Triton is not ours and is not attacked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from pathlib import Path

import grpc
import numpy as np
from google.protobuf.message import Message

from fakes.charts_to_read import chart_query
from fakes.fake_vllm import MODEL, fake_vllm
from fuzz.campaign import Findings, Target, attack, resident_bytes
from tradeserve.similarity.v1 import similarity_service_pb2 as similarity_pb
from tradeserve.strategy.v1 import strategy_service_pb2 as strategy_pb
from tradeserve.vision.v1 import chart_reading_service_pb2 as vision_pb
from tradeserve_client.chart_messages import read_message

TESTS = Path(__file__).resolve().parents[1]
_SIMILARITY = "/tradeserve.similarity.v1.SimilarityService/"
_VISION = "/tradeserve.vision.v1.ChartReadingService/"
_STRATEGY = "/tradeserve.strategy.v1.StrategyService/"
_START_S = 60.0
_WARM_UP_SHARE = 0.2
_MAX_GROWTH_BYTES = 64 * 2**20
_ROUNDS = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 when nothing was found, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="requests in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    args = parser.parse_args(arguments)
    problems = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tradeserve-fuzz-")))
        pid, address = stack.enter_context(
            _server(["similarity_server", "--ready-file", "READY", "--log-level", "error"], folder)
        )
        problems += asyncio.run(
            _fuzz("similarity", pid, similarity_target(address), args.count * 3 // 5, args.seed)
        )
        pid, address = stack.enter_context(_server(["fuzz.strategy_target", str(folder), "READY"], folder))
        problems += asyncio.run(_fuzz("strategy", pid, strategy_target(address), args.count // 5, args.seed))
        url = stack.enter_context(_on_a_thread(fake_vllm()))
        reader = ["vision_server", "--api-url", url, "--api-model", MODEL, "--metrics-port", "0"]
        pid, address = stack.enter_context(
            _server([*reader, "--ready-file", "READY", "--log-level", "error"], folder)
        )
        problems += asyncio.run(_fuzz("vision", pid, vision_target(address), args.count // 5, args.seed))
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print("nothing found" if not problems else f"{len(problems)} found")
    return 1 if problems else 0


def similarity_target(address: str) -> Target:
    """Return the methods of a similarity server that serves the packaged index."""
    embedding = np.zeros(128, dtype="<f4")
    embedding[0] = 1.0
    search = similarity_pb.SearchNeighborsRequest(
        request_id="r", index_name="market_states", neighbor_count=4, embedding_f32=embedding.tobytes()
    )
    state = similarity_pb.State(state_id=1, embedding_f32=embedding.tobytes(), forward_return_bps=1.0)
    state.instrument.con_id = 1
    state.instrument.symbol = "ACME"
    state.event_time.seconds = 1_600_000_000
    state.bar_duration.seconds = 300
    state.outcome_time.seconds = 1_600_001_800
    streamed = similarity_pb.StreamSearchNeighborsRequest(search=search)
    streamed.remaining_duration.seconds = 1
    return Target(
        address,
        {
            _SIMILARITY + "GetIndex": similarity_pb.GetIndexRequest(index_name="market_states"),
            _SIMILARITY + "SearchNeighbors": search,
            _SIMILARITY + "AddStates": similarity_pb.AddStatesRequest(
                request_id="r", index_name="market_states", states=[state]
            ),
            _SIMILARITY + "DeleteStates": similarity_pb.DeleteStatesRequest(
                request_id="r", index_name="market_states", state_ids=[1, 2]
            ),
        },
        {_SIMILARITY + "StreamSearchNeighbors": streamed},
    )


def strategy_target(address: str) -> Target:
    """Return the methods of a strategy's control service."""
    return Target(
        address,
        {
            _STRATEGY + "GetStatus": strategy_pb.GetStatusRequest(),
            _STRATEGY + "ListPositions": strategy_pb.ListPositionsRequest(),
            _STRATEGY + "Pause": strategy_pb.PauseRequest(reason="fuzz"),
            _STRATEGY + "Resume": strategy_pb.ResumeRequest(reason="fuzz"),
            _STRATEGY + "TriggerKillSwitch": strategy_pb.TriggerKillSwitchRequest(reason="fuzz"),
            _STRATEGY + "ResetKillSwitch": strategy_pb.ResetKillSwitchRequest(reason="fuzz"),
        },
        {},
    )


def vision_target(address: str) -> Target:
    """Return the methods of a vision server."""
    return Target(
        address,
        {
            _VISION + "ReadChart": read_message(chart_query(1, side_px=64), "0" * 32),
            _VISION + "GetReader": vision_pb.GetReaderRequest(),
        },
        {},
    )


async def _fuzz(name: str, pid: int, target: Target, count: int, seed: int) -> list[str]:
    """Attack in rounds, so that memory is read between them; return what was found."""
    probe, request = next(iter(target.unary.items()))
    before = await _answer(target.address, probe, request)
    findings = Findings()
    resident = 0
    began = time.monotonic()
    for turn in range(_ROUNDS):
        found = await attack(target, count // _ROUNDS, seed * _ROUNDS + turn)
        findings.codes += found.codes
        findings.faults += found.faults
        if turn + 1 == max(1, round(_ROUNDS * _WARM_UP_SHARE)):
            resident = resident_bytes(pid)
    growth = resident_bytes(pid) - resident
    sent = findings.codes.total()
    print(
        f"{name}: {sent} malformed requests in {time.monotonic() - began:.0f} s; "
        f"{', '.join(f'{code} {number}' for code, number in findings.codes.most_common())}; "
        f"memory {growth / 2**20:+.1f} MiB after the first fifth",
        flush=True,
    )
    problems = [f"{name}: {fault}" for fault in findings.faults]
    if growth > _MAX_GROWTH_BYTES:
        problems.append(f"{name}: grew by {growth / 2**20:.0f} MiB")
    after = await _answer(target.address, probe, request)
    if type(before) is not type(after):
        problems.append(f"{name}: a valid {probe} was answered {before!r} before and {after!r} afterwards")
    return problems


async def _answer(address: str, method: str, request: Message) -> bytes | grpc.StatusCode:
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            answer: bytes = await channel.unary_unary(method)(request.SerializeToString(), timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return answer


@contextmanager
def _on_a_thread(server: AbstractAsyncContextManager[str]) -> Iterator[str]:
    """Keep a server of asyncio on a loop of its own; give what it gives."""
    with asyncio.Runner() as runner:
        given = runner.run(server.__aenter__())
        loop = runner.get_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            yield given
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            runner.run(server.__aexit__(None, None, None))


@contextmanager
def _server(module: Sequence[str], folder: Path) -> Iterator[tuple[int, str]]:
    ready = folder / f"{module[0]}.json"
    log = folder / f"{module[0]}.log"
    arguments = [str(ready) if argument == "READY" else argument for argument in module]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(TESTS)},
        )
    try:
        end = time.monotonic() + _START_S
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"error: {module[0]} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        told = json.loads(ready.read_text())
        yield told["pid"], told["address"]
        if process.poll() is not None:
            raise SystemExit(f"error: {module[0]} died:\n{log.read_text()[-2000:]}")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
