"""Our servers over both transports, called by grpc.aio, by grpc without asyncio, and by our own client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from fakes.waiting import until
from server_runtime.server import GrpcServer, ServerOptions, Transport
from tradeserve_client.http2.channel import Http2Channel

NAME = "test.All"
MB = 1_000_000
Code = grpc.StatusCode


class Servicer:
    """Every kind of method, of bytes."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.cancelled = asyncio.Event()
        self.running = asyncio.Event()

    async def say(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        self.seen.append(dict(context.invocation_metadata()))
        await context.send_initial_metadata((("first", "1"), ("first-bin", b"\xff\x00")))
        context.set_trailing_metadata((("last", "2"), ("last-bin", b"\x00\xfe")))
        return request

    async def fail(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        context.set_trailing_metadata((("why", "because"),))
        await context.abort(Code.ABORTED, "50 % of \u00e4\u2603\n", (("why", "just so"),))
        raise AssertionError

    async def set(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        context.set_code(Code.NOT_FOUND)
        context.set_details("nothing")
        return request

    async def hold(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        self.seen.append(context.time_remaining())
        self.running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        raise AssertionError

    async def count(self, request: bytes, context: object) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    async def write(self, request: bytes, context: grpc.aio.ServicerContext) -> None:
        for number in range(int(request)):
            await context.write(b"%d" % number)

    async def join(self, requests: AsyncIterator[bytes], context: object) -> bytes:
        return b"".join([request async for request in requests])

    async def read(self, requests: object, context: grpc.aio.ServicerContext) -> bytes:
        found = []
        while (request := await context.read()) is not grpc.aio.EOF:
            found.append(request)
        return b"".join(found)

    async def each(self, requests: AsyncIterator[bytes], context: object) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    async def flood(self, request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        self.running.set()
        try:
            while True:
                self.seen.append(1)
                yield bytes(100_000)
        finally:
            self.cancelled.set()

    def register(self, server: grpc.aio.Server) -> None:
        kinds = {
            grpc.unary_unary_rpc_method_handler: ("say", "fail", "set", "hold"),
            grpc.unary_stream_rpc_method_handler: ("count", "write", "flood"),
            grpc.stream_unary_rpc_method_handler: ("join", "read"),
            grpc.stream_stream_rpc_method_handler: ("each",),
        }
        handlers = {name: make(getattr(self, name)) for make, names in kinds.items() for name in names}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))
        server.add_registered_method_handlers(NAME, handlers)


@pytest.fixture
def servicer() -> Servicer:
    return Servicer()


@pytest.fixture
async def address(servicer: Servicer, server_transport: Transport) -> AsyncIterator[str]:
    server = GrpcServer(ServerOptions(transport=server_transport, grace_s=0.0))
    server.add_service(NAME, servicer.register)
    yield await server.start()
    await server.stop()


@pytest.fixture
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield channel


def path(name: str) -> str:
    return f"/{NAME}/{name}"


async def test_metadata_and_bytes_go_both_ways(servicer: Servicer, channel: grpc.aio.Channel) -> None:
    for body in (b"", b"x", bytes(3 * MB)):
        call = channel.unary_unary(path("say"))(
            body, timeout=10, metadata=(("key", "value"), ("key-bin", b"\x00\xff\x10"))
        )
        assert await call == body
        assert servicer.seen[-1]["key"] == "value"
        assert servicer.seen[-1]["key-bin"] == b"\x00\xff\x10"
        assert "grpc-timeout" not in servicer.seen[-1]
        first, last = dict(await call.initial_metadata()), dict(await call.trailing_metadata())
        assert (first["first"], first["first-bin"]) == ("1", b"\xff\x00")
        assert (last["last"], last["last-bin"]) == ("2", b"\x00\xfe")


async def test_a_status_is_told_with_its_words_and_metadata(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(path("fail"))(b"", timeout=10)
    assert caught.value.code() is Code.ABORTED
    assert caught.value.details() == "50 % of \u00e4\u2603\n"
    assert caught.value.trailing_metadata()["why"] == "just so"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(path("set"))(b"", timeout=10)
    assert (caught.value.code(), caught.value.details()) == (Code.NOT_FOUND, "nothing")


async def test_every_kind_of_method_is_served(channel: grpc.aio.Channel) -> None:
    for name in ("count", "write"):
        found = [answer async for answer in channel.unary_stream(path(name))(b"3", timeout=10)]
        assert found == [b"0", b"1", b"2"]
    for name in ("join", "read"):
        assert await channel.stream_unary(path(name))(iter([b"a", b"", b"c"]), timeout=10) == b"ac"
    call = channel.stream_stream(path("each"))(timeout=10)
    for body in (b"1", bytes(MB), b"3"):
        await call.write(body)
        assert await call.read() == body
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is Code.OK


async def test_a_deadline_reaches_the_handler_and_ends_it(
    servicer: Servicer, channel: grpc.aio.Channel
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(path("hold"))(b"", timeout=0.2)
    assert caught.value.code() is Code.DEADLINE_EXCEEDED
    await asyncio.wait_for(servicer.cancelled.wait(), 10)
    assert 0 < servicer.seen[0] <= 0.2


async def test_a_caller_that_gives_up_ends_the_handler(servicer: Servicer, channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary(path("hold"))(b"")
    await asyncio.wait_for(servicer.running.wait(), 10)
    assert servicer.seen == [None]
    call.cancel()
    await asyncio.wait_for(servicer.cancelled.wait(), 10)


async def test_a_connection_that_breaks_ends_its_handlers(servicer: Servicer, address: str) -> None:
    channel = grpc.aio.insecure_channel(address)
    call = channel.unary_unary(path("hold"))(b"")
    await asyncio.wait_for(servicer.running.wait(), 10)
    await channel.close()
    await asyncio.wait_for(servicer.cancelled.wait(), 10)
    assert call.done()


async def test_a_handler_writes_no_further_than_its_caller_reads(
    servicer: Servicer, address: str, server_transport: Transport
) -> None:
    if server_transport is Transport.GRPC:
        pytest.skip("how far grpc.aio writes ahead is its own affair")
    channel = Http2Channel(address, max_message_bytes=MB)
    held = channel.open_stream(path("flood"), lambda body: None)
    await held.connected()
    transport: Any = channel._connection._sender.transport  # type: ignore[union-attr]
    transport.pause_reading()
    held.send(b"")
    held.half_close()
    await asyncio.wait_for(servicer.running.wait(), 10)
    before = -1
    while len(servicer.seen) != before:
        before = len(servicer.seen)
        await asyncio.sleep(0.1)
    assert before * 100_000 < 40 * MB
    transport.resume_reading()
    await until(lambda: len(servicer.seen) > before + 10)
    held.cancel()
    await asyncio.wait_for(servicer.cancelled.wait(), 10)
    await channel.close()


async def test_callers_without_asyncio_are_served(address: str) -> None:
    def call() -> list[Any]:
        with grpc.insecure_channel(address) as channel:
            answers = [channel.unary_unary(path("say"))(b"x", timeout=10)]
            answers += list(channel.unary_stream(path("count"))(b"2", timeout=10))
            answers += list(channel.stream_stream(path("each"))(iter([b"a", b"b"]), timeout=10))
            return answers

    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(call()))
    thread.start()
    await asyncio.to_thread(thread.join, 20)
    assert found == [b"x", b"0", b"1", b"a", b"b"]


async def test_our_own_client_is_served(servicer: Servicer, address: str) -> None:
    channel = Http2Channel(address, max_message_bytes=4 * MB)
    say = channel.unary_unary(path("say"))
    for body in (b"", b"x", bytes(3 * MB)):
        assert await say(body, timeout=10, metadata=(("key-bin", b"\xff"),)) == body
    assert servicer.seen[-1]["key-bin"] == b"\xff"
    answers = await asyncio.gather(*(say(b"%d" % number, timeout=10) for number in range(20)))
    assert answers == [b"%d" % number for number in range(20)]
    with pytest.raises(grpc.aio.AioRpcError, match="50 % of \u00e4"):
        await channel.unary_unary(path("fail"))(b"", timeout=10)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(path("hold"))(b"", timeout=0.1)
    assert caught.value.code() is Code.DEADLINE_EXCEEDED
    got: asyncio.Queue[bytes] = asyncio.Queue()
    stream = channel.open_stream(path("each"), got.put_nowait)
    for body in (b"1", bytes(MB)):
        stream.send(body)
        assert await asyncio.wait_for(got.get(), 10) == body
    stream.half_close()
    await asyncio.wait_for(stream.finished(), 10)
    await channel.close()
