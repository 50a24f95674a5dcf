"""An OpenTelemetry collector that keeps the spans it is sent."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class OtlpCollector(trace_service_pb2_grpc.TraceServiceServicer):
    """Listens on a free port; `spans` holds (service, span) as they came."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []
        self._server = grpc.aio.server()
        self._came = asyncio.Event()
        register: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        register(self, self._server)

    async def start(self) -> str:
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return f"127.0.0.1:{port}"

    async def stop(self) -> None:
        await self._server.stop(None)

    async def Export(self, request: Any, context: object) -> Any:
        for resource in request.resource_spans:
            attributes = {item.key: item.value.string_value for item in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [(attributes["service.name"], span) for span in scope.spans]
        self._came.set()
        return trace_service_pb2.ExportTraceServiceResponse()

    async def wait_for(self, count: int) -> list[tuple[str, Any]]:
        """Return the spans once there are that many; bounded."""
        async with asyncio.timeout(20):
            while len(self.spans) < count:
                self._came.clear()
                await self._came.wait()
        return self.spans
