"""A gRPC server on a real socket that answers any unary call, as slowly as a test wants."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio


class SlowServer(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Answer every unary call with an empty message; hold answers back while `open` is cleared."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.refuse: grpc.StatusCode | None = None
        self.requests: list[bytes] = []
        self.remaining_s: list[float] = []
        self.metadata: list[tuple[str, str]] = []
        self.address = ""
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> SlowServer:
        self._server = grpc.aio.server(handlers=[self], options=[("grpc.so_reuseport", 0)])
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.open.set()
        assert self._server is not None
        await self._server.stop(None)

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler:
        self.metadata = list(handler_call_details.invocation_metadata)
        return grpc.unary_unary_rpc_method_handler(self._answer)

    async def _answer(self, request: bytes, context: Any) -> bytes:
        self.requests.append(request)
        self.remaining_s.append(context.time_remaining())
        if self.refuse is not None:
            await context.abort(self.refuse, "as the test wants")
        await self.open.wait()
        return b""
