"""Our HTTP/2 against servers that break its rules, or use the rare ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import grpc
import grpc.aio
import pytest

from fakes.scripted_http2 import (
    HELLO,
    ScriptedHttp2,
    answer,
    block,
    ending,
    headers,
    message,
    opening,
)
from fakes.waiting import client_tasks, until
from grpc_wire import frames
from tradeserve_client.errors import TradeserveError
from tradeserve_client.http2.channel import Http2Channel
from tradeserve_client.http2.connection import Limits

METHOD = "/test.Service/Ask"
Code = grpc.StatusCode
LIMIT = 100_000


@pytest.fixture
async def server() -> AsyncIterator[ScriptedHttp2]:
    async with ScriptedHttp2() as server:
        yield server


@pytest.fixture
async def channel(server: ScriptedHttp2) -> AsyncIterator[Http2Channel]:
    before = client_tasks()
    limits = Limits(settings_timeout_s=0.2, keepalive_s=0.1, keepalive_timeout_s=0.1)
    channel = Http2Channel(server.address, max_message_bytes=LIMIT, limits=limits)
    yield channel
    await channel.close()
    await until(lambda: not client_tasks() - before)


async def ask(channel: Http2Channel, body: bytes = b"?", timeout_s: float = 10) -> bytes:
    answer: bytes = await channel.unary_unary(METHOD)(body, timeout=timeout_s)
    return answer


async def code_of(channel: Http2Channel) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(channel)
    return caught.value.code(), caught.value.details() or ""


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


ONE_STREAM: dict[str, tuple[Callable[[int], Sequence[bytes]], grpc.StatusCode, str]] = {
    "trailers alone": (
        lambda s: [headers(s, {":status": "200", "content-type": "application/grpc", "grpc-status": "8",
                               "grpc-message": "too%20many"}, last=True)],
        Code.RESOURCE_EXHAUSTED, "too many",
    ),
    "an unknown status": (lambda s: [opening(s) + ending(s, "99")], Code.UNKNOWN, ""),
    "no status": (lambda s: [opening(s) + headers(s, {"x": "y"}, last=True)], Code.UNKNOWN, "without a status"),
    "no trailers": (
        lambda s: [opening(s) + frames.frame(frames.DATA, frames.END_STREAM, s, b"\0\0\0\0\0")],
        Code.INTERNAL, "without a status",
    ),
    "no message": (lambda s: [opening(s) + ending(s)], Code.INTERNAL, "without an answer"),
    "two messages": (
        lambda s: [opening(s) + message(s, b"a") + message(s, b"b") + ending(s)], Code.INTERNAL, "two answers",
    ),
    "half a message": (
        lambda s: [opening(s) + frames.frame(frames.DATA, 0, s, b"\0\0\0\0\x09abc") + ending(s)],
        Code.INTERNAL, "amid a message",
    ),
    "a compressed message": (
        lambda s: [opening(s) + frames.frame(frames.DATA, 0, s, b"\1\0\0\0\0") + ending(s)],
        Code.INTERNAL, "compression",
    ),
    "a message that says it is endless": (
        lambda s: [opening(s) + frames.frame(frames.DATA, 0, s, b"\0\xff\xff\xff\xff")],
        Code.RESOURCE_EXHAUSTED, "at most 100000",
    ),
    "a message before the headers": (lambda s: [message(s, b"a")], Code.INTERNAL, "before the headers"),
    "headers amid the messages": (
        lambda s: [opening(s) + headers(s, {"x": "y"})], Code.INTERNAL, "amid the messages",
    ),
    "HTTP 503": (lambda s: [headers(s, {":status": "503"}, last=True)], Code.UNAVAILABLE, "503"),
    "HTTP 404": (lambda s: [headers(s, {":status": "404"})], Code.UNIMPLEMENTED, "404"),
    "a web page": (
        lambda s: [headers(s, {":status": "200", "content-type": "text/html"})], Code.UNKNOWN, "not gRPC",
    ),
    "a refused stream": (lambda s: [frames.rst_stream(s, frames.ErrorCode.REFUSED_STREAM)], Code.UNAVAILABLE, ""),
    "a stream reset in calm": (
        lambda s: [frames.rst_stream(s, frames.ErrorCode.ENHANCE_YOUR_CALM)], Code.RESOURCE_EXHAUSTED, "",
    ),
    "a stream reset for an unknown reason": (
        lambda s: [frames.frame(frames.RST_STREAM, 0, s, b"\0\0\0\xee")], Code.INTERNAL, "error 238",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ONE_STREAM)
async def test_a_wrong_answer_fails_its_call_and_the_connection_stays(
    case: str, server: ScriptedHttp2, channel: Http2Channel
) -> None:
    server.script, code, words = ONE_STREAM[case]
    found, detail = await code_of(channel)
    assert found is code
    assert words in detail
    server.script = lambda stream_id: [answer(stream_id)]
    assert await ask(channel) == b"fine"
    assert server.connections == 1


WHOLE_CONNECTION: dict[str, Callable[[int], Sequence[bytes]]] = {
    "a frame longer than allowed": lambda s: [frames.head(frames.DATA, 0, s, 16_385)],
    "DATA on a stream never opened": lambda s: [message(s + 2, b"a")],
    "DATA on no stream": lambda s: [message(0, b"a")],
    "a frame amid a header block": lambda s: [
        frames.frame(frames.HEADERS, 0, s, b"\x88"),
        frames.frame(frames.PING, 0, 0, b"12345678"),
    ],
    "CONTINUATION of nothing": lambda s: [frames.frame(frames.CONTINUATION, frames.END_HEADERS, s, b"")],
    "a header block without end": lambda s: [
        frames.frame(frames.HEADERS, 0, s, b""),
        *[frames.frame(frames.CONTINUATION, 0, s, b"")] * 100,
    ],
    "HPACK that is none": lambda s: [frames.frame(frames.HEADERS, frames.END_HEADERS, s, b"\xff\xff\xff\xff")],
    "an index into the table that was forbidden": lambda s: [
        frames.frame(frames.HEADERS, frames.END_HEADERS, s, b"\xbe")
    ],
    "a push": lambda s: [frames.frame(frames.PUSH_PROMISE, frames.END_HEADERS, s, b"\0\0\0\2\x88")],
    "SETTINGS of five bytes": lambda s: [frames.frame(frames.SETTINGS, 0, 0, b"12345")],
    "SETTINGS with a huge window": lambda s: [frames.settings({frames.SETTING_INITIAL_WINDOW_SIZE: 2**31})],
    "SETTINGS with tiny frames": lambda s: [frames.settings({frames.SETTING_MAX_FRAME_SIZE: 100})],
    "PING of seven bytes": lambda s: [frames.frame(frames.PING, 0, 0, b"1234567")],
    "a window that grows by nothing": lambda s: [frames.window_update(0, 0)],
    "a window beyond its bound": lambda s: [frames.window_update(0, 2**31 - 1)],
    "padding longer than its frame": lambda s: [
        opening(s), frames.frame(frames.DATA, frames.PADDED, s, b"\xff\0")
    ],
    "a closed socket": lambda s: [opening(s), b""],
}  # fmt: skip


@pytest.mark.parametrize("case", WHOLE_CONNECTION)
async def test_a_broken_rule_costs_the_connection_and_the_next_call_has_a_new_one(
    case: str, server: ScriptedHttp2, channel: Http2Channel
) -> None:
    server.script = WHOLE_CONNECTION[case]
    found, _ = await code_of(channel)
    assert found is Code.UNAVAILABLE
    server.script = lambda stream_id: [answer(stream_id)]
    assert await ask(channel) == b"fine"
    assert server.connections == 2


async def test_the_rarer_ways_to_say_the_same_are_understood(
    server: ScriptedHttp2, channel: Http2Channel
) -> None:
    def script(s: int) -> list[bytes]:
        fields = block({":status": "200", "content-type": "application/grpc", "x-long": "y" * 40_000})
        first, *rest = cut(fields, 16_000)
        body = b"\0\0\0\0\x06abc"
        return [
            headers(s, {":status": "103"}),
            frames.frame(frames.HEADERS, 0, s, first),
            *[frames.frame(frames.CONTINUATION, 0, s, part) for part in rest[:-1]],
            frames.frame(frames.CONTINUATION, frames.END_HEADERS, s, rest[-1]),
            frames.frame(0xBE, 0, 0, b"a frame of the future"),
            frames.frame(frames.DATA, frames.PADDED, s, b"\x03" + body + b"\0\0\0"),
            frames.frame(frames.DATA, 0, s, b""),
            frames.frame(frames.DATA, 0, s, b"def"),
            frames.frame(frames.PING, 0, 0, b"12345678"),
            frames.frame(
                frames.HEADERS,
                frames.END_HEADERS | frames.END_STREAM | frames.PADDED | frames.PRIORITIZED,
                s,
                b"\x01" + b"\0\0\0\0\x10" + block({"grpc-status": "0"}) + b"\0",
            ),
        ]

    server.script = lambda s: cut(b"".join(script(s)), 7)
    assert await ask(channel) == b"abcdef"
    await until(lambda: (frames.PING, 0, b"12345678") in server.frames)


async def test_a_request_waits_for_the_servers_windows() -> None:
    hello = frames.settings({frames.SETTING_INITIAL_WINDOW_SIZE: 10})
    body = bytes(range(256)) * 300
    async with ScriptedHttp2(hello=hello) as server:
        channel = Http2Channel(server.address, max_message_bytes=LIMIT)
        # The server opens the window by what it read: ten bytes at a time, two calls at once.
        assert list(await asyncio.gather(ask(channel, body), ask(channel, body))) == [b"fine", b"fine"]
        assert [request[5:] for request in server.requests] == [body, body]
        await channel.close()


async def test_a_call_given_up_resets_its_stream_and_its_late_answer_is_dropped(
    server: ScriptedHttp2, channel: Http2Channel
) -> None:
    server.script = lambda stream_id: []
    call = channel.unary_unary(METHOD)(b"?", timeout=10)
    await until(lambda: len(server.requests) == 1)
    assert call.cancel()
    assert not call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    reset = (frames.RST_STREAM, 1, frames.ErrorCode.CANCEL.to_bytes(4, "big"))
    await until(lambda: reset in server.frames)
    server.script = lambda stream_id: [answer(1, b"late"), answer(stream_id)]
    assert await ask(channel) == b"fine"


async def test_a_deadline_goes_on_the_wire_and_ends_the_call(
    server: ScriptedHttp2, channel: Http2Channel
) -> None:
    server.script = lambda stream_id: []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(channel, timeout_s=0.05)
    assert caught.value.code() is Code.DEADLINE_EXCEEDED
    (opened,) = [payload for kind, _, payload in server.frames if kind == frames.HEADERS]
    assert b"\x0cgrpc-timeout" in opened


async def test_calls_beyond_the_servers_bound_are_shed(channel: Http2Channel, server: ScriptedHttp2) -> None:
    server.hello = frames.settings({frames.SETTING_MAX_CONCURRENT_STREAMS: 2})
    server.script = lambda stream_id: []
    method = channel.unary_unary(METHOD)
    calls = [method(b"?", timeout=10) for _ in range(3)]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await calls[-1]
    assert caught.value.code() is Code.RESOURCE_EXHAUSTED
    for call in calls:
        call.cancel()


async def test_after_goaway_running_calls_end_and_new_ones_go_elsewhere(
    server: ScriptedHttp2, channel: Http2Channel
) -> None:
    """The second call was beyond what the server worked on; the first one is still answered."""
    method = channel.unary_unary(METHOD)
    going = frames.frame(frames.GOAWAY, 0, 0, (1).to_bytes(4, "big") + bytes(4) + b"restart")
    server.script = lambda stream_id: []
    first = method(b"1", timeout=10)
    await until(lambda: len(server.requests) == 1)
    server.script = lambda stream_id: [going]
    second = method(b"2", timeout=10)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await second
    assert caught.value.code() is Code.UNAVAILABLE
    assert "restart" in (caught.value.details() or "")
    assert not first.done()
    server.script = lambda stream_id: [answer(stream_id)]
    assert await ask(channel) == b"fine"
    assert server.connections == 2
    first.cancel()


async def test_a_server_that_falls_silent_is_given_up(server: ScriptedHttp2, channel: Http2Channel) -> None:
    """It takes the request and answers neither that nor the ping."""
    server.script = lambda stream_id: []
    found, detail = await code_of(channel)
    assert (found, "pings" in detail) == (Code.UNAVAILABLE, True)


async def test_what_is_no_http2_server_is_named(server: ScriptedHttp2, channel: Http2Channel) -> None:
    server.hello = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    found, detail = await code_of(channel)
    assert found is Code.UNAVAILABLE
    assert "failed to connect" in detail


async def test_a_server_that_never_introduces_itself_is_given_up(
    server: ScriptedHttp2, channel: Http2Channel
) -> None:
    server.hello = b""
    found, detail = await code_of(channel)
    assert (found, "introduce" in detail) == (Code.UNAVAILABLE, True)
    server.hello = HELLO
    await until(lambda: channel.get_state() is grpc.ChannelConnectivity.READY)
    assert await ask(channel) == b"fine"


@pytest.mark.parametrize("target", ["nowhere", "xds:///x", "unix-abstract:x", "host:0"])
def test_an_address_it_does_not_know_is_refused_in_words(target: str) -> None:
    with pytest.raises(TradeserveError, match="use grpc"):
        Http2Channel(target, max_message_bytes=LIMIT)


async def test_unusable_metadata_are_refused_before_anything_is_sent(channel: Http2Channel) -> None:
    for name, value in (("Upper", "x"), ("grpc-x", "x"), ("x", "line\nbreak"), ("x", "y" * 10_000)):
        with pytest.raises(TradeserveError, match="metadata"):
            channel.unary_unary(METHOD)(b"?", metadata=[(name, value)])
