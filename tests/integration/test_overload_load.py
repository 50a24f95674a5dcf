"""The load of the benchmark's overload: what it holds against the server."""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest

from bench.overload_load import Calls, Plan, _Connection
from bench.overload_result import RESOURCE_EXHAUSTED
from grpc_wire import frames

REFUSAL = b"\x10\x0bgrpc-status\x018"  # a field that goes into no table
MOST_CALLS = 100
WAIT_S = 60.0
SO_TIMESTAMPNS = 35


@pytest.fixture
def noted() -> Iterator[None]:
    """Have the kernel note when it had what sockets are read for; it begins some time after it is asked to."""
    if sys.platform != "linux":
        pytest.skip("only Linux tells when it had what a socket is read for")
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        reader = stack.enter_context(socket.create_connection(listening.getsockname()))
        writer = stack.enter_context(listening.accept()[0])
        reader.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        end_s = time.monotonic() + WAIT_S
        notes: list[tuple[int, int, bytes]] = []
        while not notes:
            if time.monotonic() > end_s:
                pytest.skip(f"the kernel noted no time of arrival in {WAIT_S:.0f} s")
            writer.sendall(b"x")
            _, notes, _, _ = reader.recvmsg(1, 64)
        yield


@pytest.mark.usefixtures("noted")
def test_an_answer_counts_from_when_the_kernel_had_it_however_late_it_is_read() -> None:
    calls = Calls(np.zeros(MOST_CALLS))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        plan = Plan(f"127.0.0.1:{listening.getsockname()[1]}", "/p.S/M", (b"x",), (), 0.1)
        connection = _Connection(plan, calls)
        with connection.socket, listening.accept()[0] as server:
            for number in range(MOST_CALLS):  # a clock that is set meanwhile spoils one
                connection.start(number)
                connection.write()
                flags = frames.END_HEADERS | frames.END_STREAM
                server.sendall(frames.frame(frames.HEADERS, flags, 2 * number + 1, REFUSAL))
                assert select.select([connection.socket], [], [], 10)[0]
                seen_s = time.perf_counter()
                assert connection.read()
                if calls.ended_s[number] < seen_s:
                    break
    assert calls.code[number] == RESOURCE_EXHAUSTED
    assert calls.sent_s[number] < calls.ended_s[number] < seen_s
