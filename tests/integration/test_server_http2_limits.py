"""Our HTTP/2 server against clients that are silent, slow or too many, and when it goes away itself."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from fakes.http2_echo import ECHO, FLOOD, HOLD, LIMITS, Served
from fakes.raw_http2 import HELLO, data, headers, raw_http2, request_fields
from fakes.waiting import until
from grpc_wire import frames
from grpc_wire.frames import ErrorCode

OPEN = headers(1, request_fields(HOLD))
EMPTY = frames.frame(frames.DATA, frames.END_STREAM, 1)


async def test_a_drain_takes_what_is_on_the_way_and_then_nothing() -> None:
    one = await Served().start()
    async with raw_http2(one.address) as client:
        client.send(OPEN)
        await asyncio.wait_for(one.waiting.acquire(), 10)
        stopping = asyncio.create_task(one.server.stop(10))
        last, code, _ = await client.goaway()
        assert (last, code) == (2**31 - 1, ErrorCode.NO_ERROR)
        ping = await client.until(lambda frame: frame[0] == frames.PING)
        client.send(headers(3, request_fields(ECHO)), data(3, b"on the way", last=True))
        assert (await client.answer(3))[0] == b"on the way"
        client.send(frames.frame(frames.PING, frames.ACK, 0, ping[3]))
        assert (await client.goaway())[0] == 3
        client.send(headers(5, request_fields(ECHO)), data(5, b"too late", last=True))
        one.opened.set()
        client.send(data(1, b"held"), EMPTY)
        assert await client.answer(1) == (b"held", {"grpc-status": "0"})
        await client.end()
        assert not [frame for frame in client.seen if frame[2] == 5]
        await asyncio.wait_for(stopping, 10)


async def test_a_silent_peer_is_pinged_and_left_when_it_does_not_answer() -> None:
    one = await Served(replace(LIMITS, keepalive_s=0.1, keepalive_timeout_s=0.06)).start()
    async with raw_http2(one.address) as client:
        for _ in range(2):
            ping = await client.until(lambda frame: frame[0] == frames.PING)
            client.send(frames.frame(frames.PING, frames.ACK, 0, ping[3]))
        assert "pings" in (await client.goaway())[2]
        await client.end()
    await one.server.stop(None)


async def test_an_answer_that_nobody_takes_is_given_up() -> None:
    one = await Served(replace(LIMITS, keepalive_timeout_s=0.05)).start()
    hello = frames.PREFACE + frames.settings({frames.SETTING_INITIAL_WINDOW_SIZE: 1})
    async with raw_http2(one.address, hello) as client:
        client.send(headers(1, request_fields(ECHO)), data(1, b"large", last=True))
        assert await client.reset(1) == ErrorCode.CANCEL
    await one.server.stop(None)


async def test_a_peer_that_asks_for_more_than_it_takes_is_left() -> None:
    one = await Served(replace(LIMITS, unsent_bytes=50_000)).start()
    async with raw_http2(one.address, frames.PREFACE + frames.settings({4: 0})) as client:
        body = bytes(16_000)
        requests = [headers(n, request_fields(ECHO)) + data(n, body, last=True) for n in (1, 3, 5)]
        client.send(*requests)
        client.send(headers(7, request_fields(ECHO)), data(7, body, last=True))
        assert await client.reset(7) == ErrorCode.REFUSED_STREAM
    async with raw_http2(one.address, frames.PREFACE + frames.settings({4: 0})) as client:
        large = bytes(60_000)
        content = b"\0" + len(large).to_bytes(4, "big") + large
        parts = [content[at : at + 16_384] for at in range(0, len(content), 16_384)]
        client.send(headers(1, request_fields(ECHO)))
        client.send(*(frames.frame(frames.DATA, 0, 1, part) for part in parts), EMPTY)
        assert (await client.goaway())[1] == ErrorCode.ENHANCE_YOUR_CALM
    await one.server.stop(None)


async def test_one_connection_too_many_is_closed_and_the_others_stay() -> None:
    one = await Served(max_connections=1).start()
    async with raw_http2(one.address) as first:
        await first.until(lambda frame: frame[0] == frames.SETTINGS)
        async with raw_http2(one.address) as second:
            await second.end()
        first.send(headers(1, request_fields(ECHO)), data(1, b"fine", last=True))
        assert (await first.answer(1))[0] == b"fine"
    await one.server.stop(None)


async def test_a_request_that_never_comes_does_not_hold_its_place() -> None:
    one = await Served(replace(LIMITS, request_s=0.05)).start()
    async with raw_http2(one.address, HELLO) as client:
        client.send(headers(1, request_fields(ECHO)))
        assert (await client.fields(1))["grpc-status"] == "4"
        assert await client.reset(1) == ErrorCode.NO_ERROR
    await one.server.stop(None)


async def test_a_handler_that_never_waits_keeps_neither_the_loop_nor_memory() -> None:
    one = await Served(replace(LIMITS, keepalive_timeout_s=0.3)).start()
    wide = frames.MAX_WINDOW - frames.DEFAULT_WINDOW
    hello = frames.PREFACE + frames.settings({frames.SETTING_INITIAL_WINDOW_SIZE: frames.MAX_WINDOW})
    async with raw_http2(one.address, hello + frames.window_update(0, wide)) as client:
        client.send(headers(1, request_fields(FLOOD)), data(1, bytes(10_000), last=True))
        async with raw_http2(one.address) as other:
            other.send(headers(1, request_fields(ECHO)), data(1, b"fine", last=True))
            assert (await other.answer(1))[0] == b"fine"
        await until(lambda: not one.server._calls)  # the client reads nothing, and is left
        assert one.flooded < 50_000_000
    await one.server.stop(None)
