"""What both transports must do alike, against grpc's own server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from fakes.waiting import client_tasks, until
from tradeserve_client.channel import MAX_MESSAGE_BYTES, Channel, Link, Transport

SERVICE = "test.Echo"
ECHO = f"/{SERVICE}/Echo"
CHAT = f"/{SERVICE}/Chat"
Code = grpc.StatusCode
Handler = Callable[[bytes, grpc.aio.ServicerContext], Awaitable[bytes]]


async def echo(body: bytes, context: grpc.aio.ServicerContext) -> bytes:
    return body


class EchoServer:
    """Whatever `handler` does with a request, and a chat that answers every message with itself."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.handler: Handler = echo
        self.started = 0
        self.cancelled = 0
        self.server: grpc.aio.Server | None = None

    async def start(self) -> None:
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        server = grpc.aio.server(options=[*options, ("grpc.so_reuseport", 0)])
        methods = {
            "Echo": grpc.unary_unary_rpc_method_handler(self._echo),
            "Chat": grpc.stream_stream_rpc_method_handler(self._chat),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        port = server.add_insecure_port(self.address)
        if not self.address.startswith("unix:"):
            self.address = f"127.0.0.1:{port}"
        await server.start()
        self.server = server

    async def stop(self, grace: float | None = None) -> None:
        server, self.server = self.server, None
        if server is not None:
            await server.stop(grace)

    async def _echo(self, body: bytes, context: grpc.aio.ServicerContext) -> bytes:
        self.started += 1
        try:
            return await self.handler(body, context)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def _chat(
        self, bodies: AsyncIterator[bytes], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[bytes]:
        async for body in bodies:
            if body == b"bye":
                return
            if body == b"break":
                await context.abort(Code.INTERNAL, "broken")
            yield body


@pytest.fixture(params=["tcp", "unix"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EchoServer]:
    server = EchoServer("127.0.0.1:0" if request.param == "tcp" else f"unix:{tmp_path}/echo.sock")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def link(server: EchoServer, transport: Transport) -> AsyncIterator[Link]:
    before = client_tasks()
    link = Link(server.address, transport=transport)
    assert await link.ready(10)
    yield link
    await link.close()
    await until(lambda: not client_tasks() - before)


def call(channel: Channel, body: bytes = b"hello", **arguments: Any) -> Any:
    return channel.unary_unary(ECHO)(body, **({"timeout": 20} | arguments))


async def failure(awaited: Awaitable[bytes]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaited
    return caught.value


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 65_531, 1_000_003, 8 * 1024 * 1024])
async def test_messages_of_every_size_come_back_whole(link: Link, size: int) -> None:
    body = bytes(range(251)) * (size // 251) + bytes(size % 251)
    assert await call(link.channel, body) == body


async def test_many_calls_at_once_get_their_own_answers(link: Link) -> None:
    bodies = [b"%d" % number * 1000 for number in range(200)]
    calls = [call(link.channel, body) for body in bodies]
    assert [await one for one in calls] == bodies


async def test_a_message_beyond_the_bound_is_refused_either_way(server: EchoServer, link: Link) -> None:
    async def too_much(body: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return bytes(MAX_MESSAGE_BYTES + 1)

    assert (await failure(call(link.channel, bytes(MAX_MESSAGE_BYTES + 1)))).code() is Code.RESOURCE_EXHAUSTED
    server.handler = too_much
    assert (await failure(call(link.channel))).code() is Code.RESOURCE_EXHAUSTED
    server.handler = echo
    assert await call(link.channel) == b"hello"


async def test_the_deadline_is_seen_by_the_server_and_kept_by_the_client(
    server: EchoServer, link: Link
) -> None:
    left_s: list[float] = []

    async def hang(body: bytes, context: grpc.aio.ServicerContext) -> bytes:
        left_s.append(context.time_remaining())
        await asyncio.sleep(30)
        return body

    server.handler = hang
    began = time.monotonic()
    assert (await failure(call(link.channel, timeout=0.2))).code() is Code.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 5
    assert 0 < left_s[0] < 1
    await until(lambda: server.cancelled == 1)


async def test_a_cancelled_call_is_cancelled_at_the_server(server: EchoServer, link: Link) -> None:
    async def hang(body: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await asyncio.sleep(30)
        return body

    server.handler = hang
    running = call(link.channel)
    await until(lambda: server.started == 1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: server.cancelled == 1)


async def test_an_error_brings_its_words_and_its_trailers(server: EchoServer, link: Link) -> None:
    async def refuse(body: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await context.abort(
            Code.FAILED_PRECONDITION, "zu spät: 100 % voll", (("why", "full"), ("detail-bin", b"\x00\xff"))
        )
        raise AssertionError

    server.handler = refuse
    error = await failure(call(link.channel))
    assert (error.code(), error.details()) == (Code.FAILED_PRECONDITION, "zu spät: 100 % voll")
    trailers = dict(error.trailing_metadata())
    assert (trailers["why"], trailers["detail-bin"]) == ("full", b"\x00\xff")


async def test_a_method_that_is_not_there_is_unimplemented(link: Link) -> None:
    error = await failure(link.channel.unary_unary(f"/{SERVICE}/Nothing")(b"", timeout=20))
    assert error.code() is Code.UNIMPLEMENTED


async def test_metadata_arrive(server: EchoServer, link: Link) -> None:
    seen: dict[str, Any] = {}

    async def look(body: bytes, context: grpc.aio.ServicerContext) -> bytes:
        seen.update(dict(context.invocation_metadata()))
        return body

    server.handler = look
    await call(
        link.channel, metadata=(("traceparent", "00-ab-cd-01"), ("long", "x" * 300), ("raw-bin", b"\x00\x01"))
    )
    assert (seen["traceparent"], seen["long"], seen["raw-bin"]) == ("00-ab-cd-01", "x" * 300, b"\x00\x01")


async def test_a_draining_server_ends_what_runs_and_takes_nothing_new(server: EchoServer, link: Link) -> None:
    release = asyncio.Event()

    async def slow(body: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await release.wait()
        return body

    server.handler = slow
    epoch = link.epoch
    running = call(link.channel)
    await until(lambda: server.started == 1)
    stopping = asyncio.create_task(server.stop(20))
    await until(lambda: not link.is_ready)  # GOAWAY
    assert (await failure(call(link.channel, timeout=0.3))).code() in (
        Code.UNAVAILABLE,
        Code.DEADLINE_EXCEEDED,
    )
    release.set()
    assert await running == b"hello"
    await stopping
    server.handler = echo
    await server.start()
    await until(lambda: link.is_ready)
    assert await call(link.channel) == b"hello"
    assert link.epoch > epoch


async def test_calls_that_run_when_the_server_dies_end_and_the_next_connection_serves(
    server: EchoServer, link: Link
) -> None:
    async def hang(body: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await asyncio.sleep(30)
        return body

    server.handler = hang
    running = [call(link.channel) for _ in range(5)]
    await until(lambda: server.started == 5)
    await server.stop()
    codes = {(await failure(one)).code() for one in running}
    assert codes <= {Code.UNAVAILABLE, Code.CANCELLED}
    server.handler = echo
    await server.start()
    assert await call(link.channel, wait_for_ready=True) == b"hello"


async def test_without_a_server_a_call_fails_and_one_that_waits_is_served_when_it_comes(
    transport: Transport, tmp_path: Path
) -> None:
    server = EchoServer(f"unix:{tmp_path}/later.sock")
    link = Link(server.address, transport=transport)
    assert (await failure(call(link.channel))).code() is Code.UNAVAILABLE
    patient = call(link.channel, wait_for_ready=True)
    await server.start()
    assert await patient == b"hello"
    await link.close()
    await server.stop()


async def test_a_stream_carries_messages_both_ways_in_order(link: Link) -> None:
    got: list[bytes] = []
    stream = link.open_stream(CHAT, got.append, max_unsent=100)
    await stream.connected()
    sent = [b"%d" % number * 5_000 for number in range(50)]
    for body in sent:
        stream.send(body)
    finished = asyncio.create_task(stream.finished())
    await until(lambda: len(got) == len(sent))
    assert got == sent
    stream.send(b"bye")
    await finished
    stream.cancel()


async def test_a_stream_that_breaks_says_why(link: Link) -> None:
    stream = link.open_stream(CHAT, lambda body: None, max_unsent=1)
    await stream.connected()
    stream.send(b"break")
    error = await failure(stream.finished())  # type: ignore[arg-type]
    assert (error.code(), error.details()) == (Code.INTERNAL, "broken")
    stream.cancel()


async def test_a_closed_link_ends_its_calls(server: EchoServer, transport: Transport) -> None:
    async def hang(body: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await asyncio.sleep(30)
        return body

    server.handler = hang
    link = Link(server.address, transport=transport)
    running = asyncio.ensure_future(call(link.channel))
    await until(lambda: server.started == 1)
    await link.close()
    with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
        await running
