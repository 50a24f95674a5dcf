"""A vision server that speaks the real protocol and does what a test tells it to."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from tradeserve.market.v1 import market_pb2
from tradeserve.vision.v1 import chart_reading_service_pb2 as pb
from tradeserve.vision.v1 import chart_reading_service_pb2_grpc as rpc


class FakeVision(rpc.ChartReadingServiceServicer):
    """Read every chart as a reason to buy; `stop()` and `start()` again on the same address at will."""

    def __init__(
        self, address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None
    ) -> None:
        self.address = address
        self.credentials = credentials
        self.delay_s: Callable[[], float] = lambda: 0.0
        self.error: tuple[grpc.StatusCode, str] | None = None
        self.mangle: Callable[[pb.ReadChartResponse], None] | None = None
        self.charts: list[pb.ReadChartRequest] = []
        self.valid_s = 60.0
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> FakeVision:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        rpc.add_ChartReadingServiceServicer_to_server(self, server)
        if self.credentials is None:
            port = server.add_insecure_port(self.address)
        else:
            port = server.add_secure_port(self.address, self.credentials)
        if not self.address.startswith("unix:"):
            self.address = f"127.0.0.1:{port}"
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Go away at once, as after SIGKILL."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(None)

    async def ReadChart(self, request: pb.ReadChartRequest, context: Any) -> pb.ReadChartResponse:
        self.charts.append(request)
        delay_s = self.delay_s()
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        if self.error is not None:
            await context.abort(*self.error)
        response = pb.ReadChartResponse(
            request_id=request.request_id,
            signal=market_pb2.SIDE_BUY,
            stated_confidence=0.75,
            reasoning="a higher low",
        )
        response.expire_time.FromNanoseconds(time.time_ns() + int(self.valid_s * 1e9))
        response.provenance.model_name = "chart_reader"
        response.provenance.model_version = 3
        response.provenance.artifact_sha256 = bytes.fromhex("ab" * 32)
        response.timing.queue_duration.FromMilliseconds(2)
        response.timing.compute_duration.FromMilliseconds(300)
        response.patterns.append("double_bottom")
        response.key_levels.extend([99.5, 104.25])
        response.risks.append("volume is thin")
        response.trust = 1.0
        if request.HasField("extent"):
            _check(request.extent, response)
        record = response.record
        record.prompt_name = request.prompt_name or "fake"
        record.prompt_template_sha256 = bytes.fromhex("cd" * 32)
        record.prompt = f"Read the chart of {request.instrument.symbol}."
        record.raw_output = '{"signal": "BUY"}'
        record.chart_sha256 = hashlib.sha256(request.chart_png).digest()
        record.sampling_json = '{"temperature": 0}'
        record.prompt_token_count, record.output_token_count = 200, 20
        record.first_token_duration.FromMilliseconds(120)
        if self.mangle is not None:
            self.mangle(response)
        return response

    async def GetReader(self, request: pb.GetReaderRequest, context: Any) -> pb.GetReaderResponse:
        del request
        if self.error is not None:
            await context.abort(*self.error)
        response = pb.GetReaderResponse(
            prompt_names=["fake", "swing"],
            max_pixels_per_side=2048,
            max_chart_bytes=4 << 20,
            statement="it reads every chart as a reason to buy",
        )
        response.provenance.model_name = "chart_reader"
        response.provenance.model_version = 3
        response.provenance.artifact_sha256 = bytes.fromhex("ab" * 32)
        response.reading_lifetime.FromMilliseconds(int(self.valid_s * 1e3))
        return response


def _check(extent: pb.ChartExtent, response: pb.ReadChartResponse) -> None:
    for level in response.key_levels:
        if not extent.low_price <= level <= extent.high_price:
            response.contradictions.add(field="key_levels", detail=f"{level:g} lies outside the chart")
            response.trust /= 2
