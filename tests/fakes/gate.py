"""A service whose calls wait until the test lets them, on our server over either transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from server_runtime import errors
from server_runtime.server import GrpcServer, ServerOptions, Transport

NAME = "test.Gate"


class Gate:
    """A service of bytes: Wait answers when the test opens the gate."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.waiting = asyncio.Semaphore(0)

    async def wait(self, request: bytes, context: object) -> bytes:
        self.waiting.release()
        await self.opened.wait()
        return b"open:" + request

    async def crash(self, request: bytes, context: object) -> bytes:
        raise RuntimeError("postgresql://user:hunter2@db is down")

    async def refuse(self, request: bytes, context: object) -> bytes:
        raise errors.RefusedError("not now", field="mode", metadata={"served": "paper"})

    async def echo(self, requests: AsyncIterator[bytes], context: object) -> AsyncIterator[bytes]:
        async for request in requests:
            self.waiting.release()
            if request == b"gate":
                await self.opened.wait()
            yield request

    def register(self, server: grpc.aio.Server) -> None:
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    NAME,
                    {
                        "Wait": grpc.unary_unary_rpc_method_handler(self.wait),
                        "Crash": grpc.unary_unary_rpc_method_handler(self.crash),
                        "Refuse": grpc.unary_unary_rpc_method_handler(self.refuse),
                        "Echo": grpc.stream_stream_rpc_method_handler(self.echo),
                        "Read": grpc.unary_unary_rpc_method_handler(
                            self.refuse, request_deserializer=health_pb2.HealthCheckRequest.FromString
                        ),
                        "ReadEach": grpc.stream_stream_rpc_method_handler(
                            self.echo, request_deserializer=health_pb2.HealthCheckRequest.FromString
                        ),
                    },
                ),
            )
        )


class Running:
    def __init__(self, server: GrpcServer, gate: Gate, channel: grpc.aio.Channel) -> None:
        self.server, self.gate, self.channel = server, gate, channel

    def call(self, method: str, request: bytes = b"x", timeout: float | None = 10.0) -> Any:
        return self.channel.unary_unary(f"/{NAME}/{method}")(request, timeout=timeout)

    def stream(self) -> Any:
        return self.channel.stream_stream(f"/{NAME}/Echo")()

    async def health(self, service: str = NAME) -> int:
        stub = health_pb2_grpc.HealthStub(self.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        return int(answer.status)


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start_gate(server_transport: Transport) -> AsyncIterator[Start]:
    running: list[Running] = []

    async def start(credentials: grpc.ChannelCredentials | None = None, **options: Any) -> Running:
        gate = Gate()
        server = GrpcServer(ServerOptions(**{"grace_s": 10.0, "transport": server_transport, **options}))
        server.add_service(NAME, gate.register)
        address = await server.start()
        channel = (
            grpc.aio.secure_channel(address, credentials)
            if credentials
            else grpc.aio.insecure_channel(address)
        )
        running.append(Running(server, gate, channel))
        return running[-1]

    yield start
    for one in running:
        one.gate.opened.set()
        await one.channel.close()
        await one.server.stop()


async def failure_of(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def details_of(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    status = rpc_status.from_call(error)
    found = {}
    for packed in status.details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo):
            if packed.Is(kind.DESCRIPTOR):
                found[kind.__name__] = kind.FromString(packed.value)
    return found
