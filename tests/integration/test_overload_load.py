"""The load of the benchmark's overload: what it holds against the server."""

from __future__ import annotations

import itertools
import select
import socket
import sys
import time

import numpy as np
import pytest

from bench.overload_load import Calls, Plan, _Connection
from bench.overload_result import RESOURCE_EXHAUSTED
from grpc_wire import frames

REFUSAL = b"\x10\x0bgrpc-status\x018"  # a field that goes into no table
MOST_CALLS = 10_000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when it had what a socket is read for")
def test_an_answer_counts_from_when_the_kernel_had_it_however_late_it_is_read() -> None:
    calls = Calls(np.zeros(MOST_CALLS))
    end_s = time.monotonic() + 10
    with socket.create_server(("127.0.0.1", 0)) as listening:
        plan = Plan(f"127.0.0.1:{listening.getsockname()[1]}", "/p.S/M", (b"x",), (), 0.1)
        connection = _Connection(plan, calls)
        with connection.socket, listening.accept()[0] as server:
            for number in itertools.count():
                connection.start(number)
                connection.write()
                flags = frames.END_HEADERS | frames.END_STREAM
                server.sendall(frames.frame(frames.HEADERS, flags, 2 * number + 1, REFUSAL))
                assert select.select([connection.socket], [], [], 10)[0]
                seen_s = time.perf_counter()
                assert connection.read()
                # The kernel begins to note the time a moment after it is asked to.
                if calls.ended_s[number] < seen_s or time.monotonic() > end_s:
                    break
    assert calls.code[number] == RESOURCE_EXHAUSTED
    assert calls.sent_s[number] < calls.ended_s[number] < seen_s
