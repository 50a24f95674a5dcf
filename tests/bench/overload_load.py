"""The load of the overload section: an open loop of raw HTTP/2 frames, in a process of its own.

grpc.aio costs a caller 0.3 ms per call: it would be what is measured. Here a call is two frames that are made
ahead, and of an answer only the status is read: some 30 us of one core. It knows unary calls, and searches
on one bidirectional stream per connection.

It shares its machine with the server, as callers would not. So an answer counts from when the kernel had it, not
from when this process got a core to read it.
"""

from __future__ import annotations

import argparse
import base64
import gc
import json
import re
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grpc_wire import frames
from tradeserve.similarity.v1 import similarity_service_pb2 as pb
from tradeserve_client.http2.headers import HeaderReader, method_block, timeout_block

NO_ANSWER = -1
RESET = -2
SHED = -3
ID = b"overload-00000000"
"""Request id in a streamed payload; the last eight bytes are replaced by the call's number."""

_WINDOW = 2**30
_ACKNOWLEDGE_BYTES = 2**20
_GRACE_S = 0.5
_MOST_PER_S = 5_000
_CODE = re.compile(rb"grpc-status(.)(\d{1,2})", re.DOTALL)
_READ_BYTES = 2**16
# Linux: with what is read comes when the kernel had the last of it, on the clock of time.time_ns().
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@ll")
_NS = 1_000_000_000
_NOTES_BYTES = socket.CMSG_SPACE(_TIMESPEC.size)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is sent where.

    Attributes:
        address: host:port.
        path: "/package.Service/Method".
        payloads: Serialized requests, sent in turn.
        stages: (seconds, calls per second) one after the other.
        deadline_s: Of every call, from when it is made.
        connections: Calls go over them in turn.
        streams: Whether the payloads are messages on one stream per connection.
        in_flight: Calls without an answer per connection; more are shed here, as our SDK does. 0 for any number.
        callers: Instead of the rates: so many callers that each wait for their answer.
    """

    address: str
    path: str
    payloads: tuple[bytes, ...]
    stages: tuple[tuple[float, float], ...]
    deadline_s: float
    connections: int = 8
    streams: bool = False
    in_flight: int = 0
    callers: int = 0

    def to_json(self) -> str:
        """Return it as text for the load's process."""
        payloads = [base64.b64encode(payload).decode() for payload in self.payloads]
        return json.dumps({**asdict(self), "payloads": payloads})

    @staticmethod
    def of(text: str) -> Plan:
        """Return the plan of a text."""
        found = json.loads(text)
        found["payloads"] = tuple(base64.b64decode(payload) for payload in found["payloads"])
        found["stages"] = tuple((seconds, rate) for seconds, rate in found["stages"])
        return Plan(**found)

    def due_s(self) -> NDArray[np.float64]:
        """Return when each call is due, since the start."""
        parts, start = [], 0.0
        for seconds, rate in self.stages:
            parts.append(start + np.arange(int(seconds * rate)) / rate)
            start += seconds
        return np.concatenate(parts)


@dataclass(slots=True)
class Calls:
    """What became of the calls.

    Attributes:
        due_s: Since the start.
        sent_s: When it was made, which is late where the load had no core; nan for never. If the server keeps it
            from the socket after that, that counts as the server's time.
        ended_s: When the kernel had the status; nan for never.
        code: Number of the gRPC status; NO_ANSWER, RESET, SHED.
        detailed: Whether the status came with details, as our servers' refusals do.
    """

    due_s: NDArray[np.float64]
    sent_s: NDArray[np.float64] = field(init=False)
    ended_s: NDArray[np.float64] = field(init=False)
    code: NDArray[np.int64] = field(init=False)
    detailed: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.due_s)
        self.sent_s, self.ended_s = np.full(count, np.nan), np.full(count, np.nan)
        self.code, self.detailed = np.full(count, NO_ANSWER), np.zeros(count, bool)

    def write(self, path: Path) -> None:
        """Write them to a file."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in Calls.__slots__}
        np.savez(path, **fields)

    @staticmethod
    def read(path: Path) -> Calls:
        """Read the calls of a file that were made."""
        with np.load(path) as found:
            made = np.isfinite(found["due_s"])
            calls = Calls(found["due_s"][made])
            for name in ("sent_s", "ended_s", "code", "detailed"):
                setattr(calls, name, found[name][made])
        return calls


class _Connection:
    """One connection and the calls on it."""

    def __init__(self, plan: Plan, calls: Calls) -> None:
        host, _, port = plan.address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=5.0)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        if sys.platform == "linux":
            self.socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._plan, self._calls = plan, calls
        block = method_block(plan.path, plan.address, secure=False)
        self._block = block if plan.streams else block + timeout_block(plan.deadline_s)
        prefixed = [b"\0" + len(payload).to_bytes(4, "big") + payload for payload in plan.payloads]
        self._messages = prefixed
        self._id_at = [message.find(ID) + len(ID) - 8 for message in prefixed]
        self._out = bytearray(
            frames.PREFACE
            + frames.settings({
                frames.SETTING_HEADER_TABLE_SIZE: 0, frames.SETTING_INITIAL_WINDOW_SIZE: _WINDOW
            })
            + frames.window_update(0, _WINDOW - frames.DEFAULT_WINDOW)
        )  # fmt: skip
        self._reader, self._headers = frames.FrameReader(), HeaderReader()
        self._number: dict[int, int] = {}
        self._next_id = 1
        self._window, self._stream_window = frames.DEFAULT_WINDOW, frames.DEFAULT_WINDOW
        self._received = 0
        self._waiting: deque[int] = deque()
        self._incoming = bytearray()
        self.open = 0
        if plan.streams:
            self._out += frames.frame(frames.HEADERS, frames.END_HEADERS, 1, self._block)

    def start(self, number: int) -> None:
        """Make one call; when the server's window is full it waits here, which counts as its latency."""
        limit = self._plan.in_flight
        self._calls.sent_s[number] = time.perf_counter()
        if limit and self.open >= limit:
            self._calls.ended_s[number] = self._calls.sent_s[number]
            self._calls.code[number] = SHED
            return
        self.open += 1
        self._waiting.append(number)
        self._fill()

    def _fill(self) -> None:
        streams, messages = self._plan.streams, self._messages
        while self._waiting:
            number = self._waiting[0]
            message = messages[number % len(messages)]
            size = len(message)
            if size > self._window or (streams and size > self._stream_window):
                return
            self._waiting.popleft()
            self._window -= size
            if streams:
                self._stream_window -= size
                at = self._id_at[number % len(messages)]
                self._out += frames.head(frames.DATA, 0, 1, size)
                self._out += message[:at] + b"%08d" % number + message[at + 8 :]
                continue
            stream_id = self._next_id
            self._next_id += 2
            self._number[stream_id] = number
            self._out += frames.head(frames.HEADERS, frames.END_HEADERS, stream_id, len(self._block))
            self._out += self._block
            self._out += frames.head(frames.DATA, frames.END_STREAM, stream_id, size)
            self._out += message

    @property
    def wants_to_write(self) -> bool:
        """Whether bytes wait for the socket."""
        return bool(self._out)

    def write(self) -> None:
        """Give the socket what it takes."""
        try:
            while self._out:
                del self._out[: self.socket.send(self._out)]
        except BlockingIOError:
            pass

    def read(self) -> bool:
        """Take what the socket has; return whether it is still open."""
        try:
            data, notes, _, _ = self.socket.recvmsg(_READ_BYTES, _NOTES_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        now = time.perf_counter() - _age_s(notes)
        for kind, flags, stream_id, payload in self._reader.feed(data):
            self._take(kind, flags, stream_id, payload, now)
        return bool(data)

    def _take(self, kind: int, flags: int, stream_id: int, payload: bytes, now: float) -> None:
        if kind == frames.DATA:
            self._received += len(payload)
            if self._received > _ACKNOWLEDGE_BYTES:
                self._out += frames.window_update(0, self._received)
                if self._plan.streams:
                    self._out += frames.window_update(1, self._received)
                self._received = 0
            if self._plan.streams:
                self._streamed(payload, now)
        elif kind == frames.HEADERS and flags & frames.END_STREAM:
            found = _CODE.search(payload)
            code = int(found[2]) if found else RESET
            self._end(stream_id, code, now, b"grpc-status-details-bin" in payload)
        elif kind == frames.RST_STREAM:
            self._end(stream_id, RESET, now, False)
        elif kind == frames.SETTINGS and not flags & frames.ACK:
            for key, value in frames.read_settings(payload):
                if key == frames.SETTING_INITIAL_WINDOW_SIZE:
                    self._stream_window += value - frames.DEFAULT_WINDOW
            self._out += frames.frame(frames.SETTINGS, frames.ACK, 0)
        elif kind == frames.PING and not flags & frames.ACK:
            self._out += frames.frame(frames.PING, frames.ACK, 0, payload)
        elif kind == frames.WINDOW_UPDATE:
            grown = frames.read_word(payload, "WINDOW_UPDATE")
            if stream_id:
                self._stream_window += grown if self._plan.streams else 0
            else:
                self._window += grown
            self._fill()

    def _end(self, stream_id: int, code: int, now: float, detailed: bool) -> None:
        number = self._number.pop(stream_id, None)
        if number is not None:
            self.open -= 1
            self._calls.ended_s[number] = now
            self._calls.code[number] = code
            self._calls.detailed[number] = detailed

    def _streamed(self, payload: bytes, now: float) -> None:
        self._incoming += payload
        while len(self._incoming) >= 5:
            end = 5 + int.from_bytes(self._incoming[1:5], "big")
            if len(self._incoming) < end:
                return
            response = pb.StreamSearchNeighborsResponse.FromString(bytes(self._incoming[5:end]))
            del self._incoming[:end]
            number = int(response.search.request_id[-8:])
            self.open -= 1
            self._calls.ended_s[number] = now
            self._calls.code[number] = response.status_code


def run(plan: Plan) -> Calls:
    """Make every call when it is due, wait for the last answers."""
    length_s = sum(seconds for seconds, _ in plan.stages)
    calls = Calls(np.full(int(length_s * _MOST_PER_S), np.nan) if plan.callers else plan.due_s())
    connections = [_Connection(plan, calls) for _ in range(plan.connections)]
    by_socket = {connection.socket: connection for connection in connections}
    gc.disable()
    start = time.perf_counter() + 0.1
    due = (calls.due_s + start).tolist()
    last = start + length_s
    end = last + plan.deadline_s + (0.0 if plan.callers else _GRACE_S)
    made, count = 0, len(due)
    while (now := time.perf_counter()) < end and by_socket:
        if made == count and not _open(connections):
            break
        while made < count and (
            now < last and _open(connections) < plan.callers if plan.callers else due[made] <= now
        ):
            if plan.callers:
                calls.due_s[made] = now - start
            connections[made % len(connections)].start(made)
            made += 1
        for connection in by_socket.values():
            if connection.wants_to_write:
                connection.write()
        next_s = due[made] if made < count and not plan.callers else end
        writing = [found for found, one in by_socket.items() if one.wants_to_write]
        wait_s = min(max(0.0, next_s - time.perf_counter()), 0.05)
        readable, _, _ = select.select(list(by_socket), writing, [], wait_s)
        for found in readable:
            if not by_socket[found].read():
                del by_socket[found]
    calls.sent_s -= start
    calls.ended_s -= start
    return calls


def _age_s(notes: Sequence[tuple[int, int, bytes]]) -> float:
    """Return how long the kernel has had what was read; 0 where it does not say."""
    if not notes:
        return 0.0
    ((_, _, content),) = notes  # nothing else was asked for
    seconds, nanoseconds = _TIMESPEC.unpack(content)
    age_ns: int = time.time_ns() - seconds * _NS - nanoseconds
    return max(0, age_ns) / _NS


def _open(connections: Sequence[_Connection]) -> int:
    return sum(connection.open for connection in connections)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the plan on standard input; write what became of its calls."""
    parser = argparse.ArgumentParser(
        prog="overload_load", description="Make the load of the overload section."
    )
    parser.add_argument("--out", type=Path, required=True, help="npz file")
    given = parser.parse_args(arguments)
    run(Plan.of(sys.stdin.read())).write(given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
