"""Our HTTP/2 server against clients that break its rules, or use the rare ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import hpack
import pytest

from fakes.http2_echo import ECHO, HOLD, Served, works
from fakes.raw_http2 import RawHttp2, block, data, headers, raw_http2, request_fields
from fakes.waiting import until
from grpc_wire import frames
from grpc_wire.frames import ErrorCode
from server_runtime.http2.stream import WINDOW


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    one = await Served().start()
    yield one
    await works(one)  # whatever a client did
    await one.server.stop(None)


OPEN = headers(1, request_fields(HOLD))
# Every field in this block is one byte, and stands for some forty.
BOMB = bytes(block(request_fields(ECHO))) + b"\x90" * 15_000

BROKEN: dict[str, tuple[bytes, ErrorCode]] = {
    "a frame longer than allowed": (frames.head(frames.DATA, 0, 1, 16_385), ErrorCode.FRAME_SIZE_ERROR),
    "DATA on a stream never opened": (data(1, b"a"), ErrorCode.PROTOCOL_ERROR),
    "DATA on no stream": (data(0, b"a"), ErrorCode.PROTOCOL_ERROR),
    "HEADERS on a stream of ours": (headers(2, request_fields(ECHO)), ErrorCode.PROTOCOL_ERROR),
    "CONTINUATION of nothing": (frames.frame(frames.CONTINUATION, 4, 1, b""), ErrorCode.PROTOCOL_ERROR),
    "a frame amid a header block": (
        frames.frame(frames.HEADERS, 0, 1, b"\x83") + frames.frame(frames.PING, 0, 0, b"12345678"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "a header block without end": (
        frames.frame(frames.HEADERS, 0, 1, b"") + frames.frame(frames.CONTINUATION, 0, 1, b"") * 100,
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "HPACK that is none": (frames.frame(frames.HEADERS, 4, 1, b"\xff\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
    "a header that is cut off": (frames.frame(frames.HEADERS, 4, 1, b"\x00\x05ab"), ErrorCode.COMPRESSION_ERROR),
    "headers that unfold to megabytes": (frames.frame(frames.HEADERS, 4, 1, BOMB), ErrorCode.ENHANCE_YOUR_CALM),
    "SETTINGS of five bytes": (frames.frame(frames.SETTINGS, 0, 0, b"12345"), ErrorCode.FRAME_SIZE_ERROR),
    "SETTINGS on a stream": (frames.frame(frames.SETTINGS, 0, 1, b""), ErrorCode.PROTOCOL_ERROR),
    "SETTINGS acknowledged with content": (
        frames.frame(frames.SETTINGS, frames.ACK, 0, b"123456"), ErrorCode.FRAME_SIZE_ERROR,
    ),
    "SETTINGS with a huge window": (
        frames.settings({frames.SETTING_INITIAL_WINDOW_SIZE: 2**31}), ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "SETTINGS with tiny frames": (frames.settings({frames.SETTING_MAX_FRAME_SIZE: 99}), ErrorCode.PROTOCOL_ERROR),
    "SETTINGS that push": (frames.settings({frames.SETTING_ENABLE_PUSH: 2}), ErrorCode.PROTOCOL_ERROR),
    "a push": (frames.frame(frames.PUSH_PROMISE, 4, 1, b"\0\0\0\2\x88"), ErrorCode.PROTOCOL_ERROR),
    "PING of seven bytes": (frames.frame(frames.PING, 0, 0, b"1234567"), ErrorCode.FRAME_SIZE_ERROR),
    "PING on a stream": (frames.frame(frames.PING, 0, 1, b"12345678"), ErrorCode.PROTOCOL_ERROR),
    "PRIORITY of four bytes": (frames.frame(frames.PRIORITY, 0, 1, b"1234"), ErrorCode.FRAME_SIZE_ERROR),
    "GOAWAY of four bytes": (frames.frame(frames.GOAWAY, 0, 0, b"1234"), ErrorCode.FRAME_SIZE_ERROR),
    "a window that grows by nothing": (frames.window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
    "a window beyond its bound": (frames.window_update(0, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
    "a reset of a stream never opened": (
        frames.rst_stream(1, ErrorCode.CANCEL), ErrorCode.PROTOCOL_ERROR,
    ),
    "padding longer than its frame": (
        OPEN + frames.frame(frames.DATA, frames.PADDED, 1, b"\xff\0"), ErrorCode.PROTOCOL_ERROR,
    ),
    "resets without end": (
        b"".join(headers(n, request_fields(HOLD)) + frames.rst_stream(n, ErrorCode.CANCEL) for n in range(1, 999, 2)),
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "settings without end": (frames.settings({}) * 50, ErrorCode.ENHANCE_YOUR_CALM),
    "pings without end": (frames.frame(frames.PING, 0, 0, b"12345678") * 50, ErrorCode.ENHANCE_YOUR_CALM),
    "empty frames without end": (OPEN + frames.frame(frames.DATA, 0, 1) * 300, ErrorCode.ENHANCE_YOUR_CALM),
    "priorities without end": (
        frames.frame(frames.PRIORITY, 0, 1, b"\0\0\0\0\1") * 300, ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "unknown frames without end": (frames.frame(99, 0, 1, b"?") * 300, ErrorCode.ENHANCE_YOUR_CALM),
    "malformed requests without end": (
        b"".join(headers(n, [("x", "y")]) for n in range(1, 999, 2)), ErrorCode.ENHANCE_YOUR_CALM,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
async def test_whoever_breaks_the_protocol_is_told_so_and_left(case: str, served: Served) -> None:
    sent, wanted = BROKEN[case]
    async with raw_http2(served.address) as client:
        client.send(sent)
        _, code, words = await client.goaway()
        assert (ErrorCode(code), bool(words)) == (wanted, True)
        await client.end()


@pytest.mark.parametrize(
    ("hello", "wanted"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", ErrorCode.PROTOCOL_ERROR),
        (frames.PREFACE + frames.frame(frames.PING, 0, 0, b"12345678"), ErrorCode.PROTOCOL_ERROR),
        (frames.PREFACE[:10], ErrorCode.SETTINGS_TIMEOUT),
        (b"", ErrorCode.SETTINGS_TIMEOUT),
    ],
    ids=["HTTP/1.1", "PING first", "half a preface", "nothing"],
)
async def test_whoever_does_not_introduce_itself_is_left(
    served: Served, hello: bytes, wanted: ErrorCode
) -> None:
    async with raw_http2(served.address, hello) as client:
        assert (await client.goaway())[1] == wanted
        await client.end()


@pytest.mark.parametrize(
    "fields",
    [
        request_fields(ECHO, method=""),
        request_fields(""),
        request_fields(ECHO, ("UPPER", "x")),
        request_fields(ECHO, ("connection", "close")),
        request_fields(ECHO, (":path", "/again")),
        request_fields(ECHO, ("x", "a\r\nb")),
        request_fields(ECHO, ("", "no name")),
    ],
    ids=["no method", "no path", "upper case", "connection", "two paths", "line break", "no name"],
)
async def test_a_malformed_request_is_reset_and_the_connection_stays(served: Served, fields: Any) -> None:
    async with raw_http2(served.address) as client:
        client.send(headers(1, fields), data(1, b"?", last=True))
        assert await client.reset(1) == ErrorCode.PROTOCOL_ERROR
        client.send(headers(3, request_fields(ECHO)), data(3, b"fine", last=True))
        assert (await client.answer(3))[0] == b"fine"


EMPTY = frames.frame(frames.DATA, frames.END_STREAM, 1)
REFUSED: dict[str, tuple[bytes, dict[str, str]]] = {
    "a web page": (
        headers(1, [(n, v) for n, v in request_fields(ECHO) if n != "content-type"]), {":status": "415"},
    ),
    "GET": (headers(1, request_fields(ECHO, method="GET")), {":status": "405"}),
    "an unknown method": (headers(1, request_fields("/test.Echo/Nothing")), {"grpc-status": "12"}),
    "compressed messages": (
        headers(1, request_fields(ECHO, ("grpc-encoding", "gzip"))),
        {"grpc-status": "12", "grpc-accept-encoding": "identity"},
    ),
    "a deadline that is none": (headers(1, request_fields(ECHO, ("grpc-timeout", "soon"))), {"grpc-status": "3"}),
    "a deadline that has passed": (headers(1, request_fields(ECHO, ("grpc-timeout", "0n"))), {"grpc-status": "4"}),
    "too much metadata": (headers(1, request_fields(ECHO, ("x", "y" * 16_100))), {"grpc-status": "8"}),
    "no request": (headers(1, request_fields(ECHO)) + EMPTY, {"grpc-status": "12"}),
    "no request at all": (headers(1, request_fields(ECHO), last=True), {"grpc-status": "12"}),
    "two requests": (headers(1, request_fields(ECHO)) + data(1, b"a") + data(1, b"b"), {"grpc-status": "12"}),
    "half a request": (
        headers(1, request_fields(ECHO)) + frames.frame(frames.DATA, frames.END_STREAM, 1, b"\0\0\0\0\x09abc"),
        {"grpc-status": "3"},
    ),
    "a compressed request": (
        headers(1, request_fields(ECHO)) + frames.frame(frames.DATA, 0, 1, b"\1\0\0\0\0"), {"grpc-status": "13"},
    ),
    "a request that says it is endless": (
        headers(1, request_fields(ECHO)) + frames.frame(frames.DATA, 0, 1, b"\0\xff\xff\xff\xff"),
        {"grpc-status": "8"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
async def test_a_wrong_request_is_refused_and_the_connection_stays(case: str, served: Served) -> None:
    sent, wanted = REFUSED[case]
    async with raw_http2(served.address) as client:
        client.send(sent)
        fields = await client.fields(1)
        assert fields | wanted == fields
        client.send(headers(3, request_fields(ECHO)), data(3, b"fine", last=True))
        assert (await client.answer(3))[0] == b"fine"


@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        (frames.window_update(1, 0), ErrorCode.PROTOCOL_ERROR),
        (frames.window_update(1, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
        (headers(1, [("x", "y")]), ErrorCode.PROTOCOL_ERROR),
        (EMPTY + data(1, b"more"), ErrorCode.STREAM_CLOSED),
        (EMPTY + headers(1, [("x", "y")], last=True), ErrorCode.STREAM_CLOSED),
        (
            frames.frame(frames.DATA, 0, 1, bytes(16_384)) * (WINDOW // 16_384 + 1),
            ErrorCode.FLOW_CONTROL_ERROR,
        ),
    ],
    ids=[
        "no growth",
        "a window beyond its bound",
        "headers amid",
        "DATA behind",
        "trailers behind",
        "a flood",
    ],
)
async def test_a_call_that_breaks_its_streams_rules_is_reset_and_its_handler_cancelled(
    served: Served, sent: bytes, wanted: ErrorCode
) -> None:
    async with raw_http2(served.address) as client:
        client.send(OPEN)
        await asyncio.wait_for(served.waiting.acquire(), 10)
        client.send(sent)
        assert await client.reset(1) == wanted
        await until(lambda: served.cancelled == 1)


async def test_more_calls_than_a_connection_may_have_are_refused_and_a_reset_makes_room(
    served: Served,
) -> None:
    async with raw_http2(served.address) as client:
        client.send(*(headers(number, request_fields(HOLD)) for number in (1, 3, 5, 7)))
        assert await client.reset(7) == ErrorCode.REFUSED_STREAM
        client.send(frames.rst_stream(1, ErrorCode.CANCEL))
        await until(lambda: served.cancelled == 1)
        client.send(headers(9, request_fields(ECHO)), data(9, b"fine", last=True))
        assert (await client.answer(9))[0] == b"fine"


async def test_headers_come_in_every_form_that_hpack_has(served: Served) -> None:
    encoder = hpack.Encoder()
    fields = request_fields(ECHO, ("x-custom", "value"))
    async with raw_http2(served.address) as client:
        for number in (1, 3):  # the second block refers to the table that the first one filled
            content = encoder.encode(fields)
            client.send(
                frames.frame(frames.HEADERS, 0, number, content[:3]),
                frames.frame(frames.CONTINUATION, 0, number, content[3:5]),
                frames.frame(frames.CONTINUATION, frames.END_HEADERS, number, content[5:]),
                data(number, b"table", last=True),
            )
            assert (await client.answer(number))[0] == b"table"
        client.send(frames.frame(frames.SETTINGS, frames.ACK, 0))
        encoder.header_table_size = 0
        for number in (5, 7, 9):
            padded = b"\x02" + bytes(5) + encoder.encode(fields) + b"\0\0"
            flags = frames.END_HEADERS | frames.PADDED | frames.PRIORITIZED
            client.send(frames.frame(frames.HEADERS, flags, number, padded))
            client.send(frames.frame(frames.DATA, frames.PADDED | 1, number, b"\x03\0\0\0\0\x02no\0\0\0"))
            assert (await client.answer(number))[0] == b"no"


async def test_a_peer_that_keeps_a_table_after_it_agreed_to_none_is_left(served: Served) -> None:
    async with raw_http2(served.address) as client:
        client.send(frames.frame(frames.SETTINGS, frames.ACK, 0))
        client.send(frames.frame(frames.HEADERS, 4, 1, hpack.Encoder().encode(request_fields(ECHO))))
        assert (await client.goaway())[1] == ErrorCode.COMPRESSION_ERROR


async def test_answers_go_out_only_as_far_as_the_peers_windows_allow(served: Served) -> None:
    hello = frames.PREFACE + frames.settings({frames.SETTING_INITIAL_WINDOW_SIZE: 7})
    async with raw_http2(served.address, hello) as client:
        client.send(headers(1, request_fields(ECHO)), data(1, b"0123456789", last=True))
        await client.fields(1)
        assert await client.body(1, 7) == b"\0\0\0\0\x0a01"
        client.send(frames.window_update(1, 3))
        assert await client.body(1, 3) == b"234"
        client.send(frames.settings({frames.SETTING_INITIAL_WINDOW_SIZE: 100}))
        assert await client.body(1, 5) == b"56789"
        assert await client.fields(1) == {"grpc-status": "0"}


async def granted(client: RawHttp2) -> int:
    """Return by how much the window of stream 1 grew up to now."""
    client.send(frames.frame(frames.PING, 0, 0, b"12345678"))
    total = 0
    while (frame := await client.until(lambda _: True))[0] != frames.PING:
        if frame[0] == frames.WINDOW_UPDATE and frame[2] == 1:
            total += frames.read_word(frame[3], "WINDOW_UPDATE")
    return total


async def test_a_peer_may_send_a_message_beyond_the_window_and_no_more_than_is_read(served: Served) -> None:
    body = bytes(1_500_000)
    content = b"\0" + len(body).to_bytes(4, "big") + body
    async with raw_http2(served.address) as client:
        client.send(OPEN)
        window = WINDOW
        while content:
            if not window:
                grown = await client.until(lambda frame: frame[0] == frames.WINDOW_UPDATE and frame[2] == 1)
                window += frames.read_word(grown[3], "WINDOW_UPDATE")
            size = min(16_384, window, len(content))
            client.send(frames.frame(frames.DATA, 0, 1, content[:size]))
            content, window = content[size:], window - size
        window += await granted(client)
        # Nobody has read it: what is left of the window is all that may come.
        more = b"\0" + (1_000_000).to_bytes(4, "big") + bytes(window)
        for at in range(0, window, 16_384):
            client.send(frames.frame(frames.DATA, 0, 1, more[at : min(at + 16_384, window)]))
        assert await granted(client) == 0
        served.opened.set()
        grown = await client.until(lambda frame: frame[0] == frames.WINDOW_UPDATE and frame[2] == 1)
        assert frames.read_word(grown[3], "WINDOW_UPDATE") > WINDOW // 2


async def test_a_peer_that_allows_no_table_is_told_that_there_is_none(served: Served) -> None:
    hello = frames.PREFACE + frames.settings({frames.SETTING_HEADER_TABLE_SIZE: 0})
    async with raw_http2(served.address, hello) as client:
        client.send(headers(1, request_fields(ECHO)), data(1, b"a", last=True))
        _, _, _, payload = await client.until(lambda frame: frame[0] == frames.HEADERS)
        decoder = hpack.Decoder()
        decoder.max_allowed_table_size = 0
        assert decoder.decode(payload)
