"""A server of bytes over our own HTTP/2, without what server_runtime puts around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from fakes.raw_http2 import data, headers, raw_http2, request_fields
from server_runtime.http2.server import Http2Server
from server_runtime.http2.upkeep import Limits

ECHO, EACH, HOLD, FLOOD = "/test.Echo/Say", "/test.Echo/Each", "/test.Echo/Hold", "/test.Echo/Flood"
LIMITS = Limits(max_streams=3, max_message_bytes=2_000_000, hello_s=0.3, nuisance_per_s=200)
Code = grpc.StatusCode


class Served:
    """A server of bytes: Say answers, Each answers each, Hold waits for `opened`, Flood never ends."""

    def __init__(self, limits: Limits = LIMITS, **options: Any) -> None:
        self.server = Http2Server(limits=limits, **options)
        self.opened = asyncio.Event()
        self.waiting = asyncio.Semaphore(0)
        self.cancelled = self.flooded = 0
        handlers = {
            "Say": grpc.unary_unary_rpc_method_handler(self.say),
            "Each": grpc.stream_stream_rpc_method_handler(self.each),
            "Flood": grpc.unary_stream_rpc_method_handler(self.flood),
            "Hold": grpc.stream_stream_rpc_method_handler(self.hold),
        }
        self.server.add_registered_method_handlers("test.Echo", handlers)
        self.address = ""

    async def start(self) -> Served:
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        await self.server.start()
        return self

    async def say(self, request: bytes, context: object) -> bytes:
        return request

    async def each(self, requests: AsyncIterator[bytes], context: object) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    async def flood(self, request: bytes, context: object) -> AsyncIterator[bytes]:
        while True:
            self.flooded += len(request)
            yield request

    async def hold(self, requests: AsyncIterator[bytes], context: object) -> AsyncIterator[bytes]:
        self.waiting.release()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        async for request in requests:
            yield request


async def works(one: Served) -> None:
    async with raw_http2(one.address) as client:
        client.send(headers(1, request_fields(ECHO)), data(1, b"fine", last=True))
        assert await client.answer(1) == (b"fine", {"grpc-status": "0"})
