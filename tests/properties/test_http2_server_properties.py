"""Our HTTP/2 server: whatever bytes come, every call that it let in ends once, and nothing is raised."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import hpack
from hypothesis import given
from hypothesis import strategies as st

from fakes.raw_http2 import HELLO, block, data, headers, request_fields
from grpc_wire import fields, frames
from server_runtime.http2.connection import Connection
from server_runtime.http2.requests import request_head
from server_runtime.http2.server import Admitted, Http2Server
from server_runtime.http2.upkeep import Limits

SAY, EACH = "/test.Echo/Say", "/test.Echo/Each"
PLAUSIBLE = st.sampled_from(
    [
        headers(1, request_fields(SAY)),
        headers(1, request_fields(EACH)),
        headers(3, request_fields(EACH, ("grpc-timeout", "1n"))),
        headers(5, request_fields(SAY), last=True),
        headers(5, [("x", "y")]),
        data(1, b"body"),
        data(1, b"body", last=True),
        data(3, bytes(2_000)),
        frames.frame(frames.DATA, 0, 1, b"\0\0\0"),
        frames.frame(frames.HEADERS, 0, 7, block(request_fields(EACH))[:10]),
        frames.frame(frames.CONTINUATION, frames.END_HEADERS, 7, block(request_fields(EACH))[10:]),
        frames.frame(frames.PING, 0, 0, b"12345678"),
        frames.frame(frames.GOAWAY, 0, 0, bytes(8)),
        frames.frame(frames.SETTINGS, frames.ACK, 0),
        frames.rst_stream(1, frames.ErrorCode.CANCEL),
        frames.settings({frames.SETTING_INITIAL_WINDOW_SIZE: 0}),
        frames.settings({frames.SETTING_HEADER_TABLE_SIZE: 0}),
        frames.window_update(0, 2**31 - 1),
        frames.window_update(1, 5),
    ]
)


class Socket(asyncio.Transport):
    """A socket into nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.closing = False

    def write(self, data: Any) -> None:
        assert not self.closing

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True


class Counting:
    """Lets all in, and counts."""

    def __init__(self) -> None:
        self.entered = self.left = 0

    def admit(
        self, path: str, handler: grpc.RpcMethodHandler, metadata: object, timeout_s: float | None
    ) -> Admitted:
        self.entered += 1
        return Admitted(handler, lambda: None, self.leave)

    def leave(self) -> None:
        self.left += 1


async def say(request: bytes, context: object) -> bytes:
    await asyncio.sleep(0)
    return request


async def each(requests: AsyncIterator[bytes], context: object) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


HANDLERS = {
    "Say": grpc.unary_unary_rpc_method_handler(say),
    "Each": grpc.stream_stream_rpc_method_handler(each),
}


@given(st.lists(st.one_of(PLAUSIBLE, st.binary(max_size=30)), max_size=12), st.booleans())
async def test_whatever_comes_every_call_ends_once_and_nothing_is_raised(
    parts: list[bytes], turns: bool
) -> None:
    troubles: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, trouble: troubles.append(trouble))
    gate, socket = Counting(), Socket()
    server = Http2Server(gate, Limits(max_message_bytes=1_000))
    server.add_registered_method_handlers("test.Echo", HANDLERS)
    connection = Connection(server, Limits(max_message_bytes=1_000))
    connection.connection_made(socket)
    for part in (HELLO, *parts):
        if not socket.closing:
            connection.take(part)
        if turns:
            await asyncio.sleep(0)
    connection.connection_lost(None)
    assert not connection.streams
    await asyncio.wait_for(server.stop(None), 10)
    assert gate.entered == gate.left
    assert not troubles


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", ":path", "content-type", "x-y"]), st.text("abc \u00e4", max_size=150)
        ),
        max_size=8,
    ),
    st.booleans(),
    st.integers(0, 2),
)
def test_what_we_read_of_plain_blocks_is_what_hpack_reads(
    wanted: list[tuple[str, str]], huffman: bool, kind: int
) -> None:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    makes = (hpack.HeaderTuple, hpack.NeverIndexedHeaderTuple, lambda *field: field)
    content = bytes(encoder.encode([makes[kind](*field) for field in wanted], huffman=huffman))
    found = fields.plain_fields(content, empty_table=True)
    if found is not None:
        decoder = hpack.Decoder()
        assert found == [(bytes(name), bytes(value)) for name, value in decoder.decode(content, raw=True)]


@given(st.binary(max_size=80))
def test_whatever_a_block_holds_we_read_it_as_hpack_does_or_leave_it(content: bytes) -> None:
    found = fields.plain_fields(content, empty_table=False)
    if found is not None:
        decoder = hpack.Decoder()
        assert found == [(bytes(name), bytes(value)) for name, value in decoder.decode(content, raw=True)]
        request_head(found)
