"""Our HTTP/2: however bytes are cut, and whatever bytes come."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fakes.scripted_http2 import HELLO, answer, ending, headers, message, opening
from grpc_wire import frames
from grpc_wire.frames import Frame, FrameReader
from tradeserve_client.http2.connection import Connection, Limits
from tradeserve_client.http2.exchange import UnaryCall, prefixed
from tradeserve_client.http2.headers import method_block

FRAMES = st.tuples(
    st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**31 - 1), st.binary(max_size=40)
)
PLAUSIBLE = st.sampled_from(
    [
        opening(1),
        message(1, b"body"),
        ending(1),
        answer(3),
        headers(1, {"grpc-status": "7"}, last=True),
        frames.frame(frames.PING, 0, 0, b"12345678"),
        frames.frame(frames.GOAWAY, 0, 0, bytes(8)),
        frames.frame(frames.HEADERS, 0, 1, b"\x88"),
        frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, b""),
        frames.rst_stream(1, frames.ErrorCode.CANCEL),
        frames.settings({frames.SETTING_INITIAL_WINDOW_SIZE: 0}),
        frames.window_update(0, 2**31 - 1),
        frames.window_update(1, 5),
    ]
)


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(1, 60), max_size=30))
def test_frames_are_the_same_however_the_bytes_are_cut(wanted: list[Frame], sizes: list[int]) -> None:
    data = b"".join(frames.frame(kind, flags, stream, payload) for kind, flags, stream, payload in wanted)
    reader, found, at = FrameReader(), [], 0
    for size in [*sizes, len(data) + 1]:
        found += list(reader.feed(data[at : at + size]))
        at += size
    assert found == wanted


class Socket(asyncio.Transport):
    """A socket into nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.closing = False

    def write(self, data: Any) -> None:
        assert not self.closing

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True


class Owner:
    def __init__(self) -> None:
        self.gone = 0

    def connection_ready(self, connection: Connection) -> None: ...

    def connection_gone(self, connection: Connection, reason: str) -> None:
        self.gone += 1


@given(st.lists(st.one_of(PLAUSIBLE, st.binary(max_size=30)), max_size=12))
async def test_whatever_comes_every_call_ends_once_and_nothing_is_raised(parts: list[bytes]) -> None:
    owner, socket = Owner(), Socket()
    connection = Connection(owner, Limits())
    connection.connection_made(socket)
    connection.data_received(HELLO)
    ends: list[UnaryCall] = []
    calls = [UnaryCall(1000, lambda call: None, None) for _ in range(2)]
    for call in calls:
        call.add_done_callback(ends.append)
        connection.start(call, method_block("/a/B", "host", secure=False), prefixed(b"?" * 20_000))
    for part in parts:
        if not socket.closing:
            connection.data_received(part)
    connection.connection_lost(None)
    assert sorted(map(id, ends)) == sorted(map(id, calls))
    assert all(call.done() for call in calls)
    assert owner.gone == 1
    assert not connection.streams
    await asyncio.sleep(0)  # what was to be written goes nowhere
