"""A similarity server that speaks the real protocol and does what a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

from fakes.fake_triton import SHA
from tradeserve.similarity.v1 import similarity_service_pb2 as pb
from tradeserve.similarity.v1 import similarity_service_pb2_grpc as rpc

INDEX = "market_states"


class FakeSimilarity(rpc.SimilarityServiceServicer):
    """Serve one index on `address`; `stop()` and `start()` again on the same address at will."""

    def __init__(self, address: str = "127.0.0.1:0") -> None:
        self.address = address
        self.index_version = 1
        self.index_sha256 = "d4" * 32
        self.embedding_model = "gaf_resnet"
        self.embedding_sha256 = SHA["gaf_resnet"]
        self.dimension = 128
        self.delay_s: Callable[[], float] = lambda: 0.0
        self.status: tuple[int, str] | None = None
        self.mangle: Callable[[pb.SearchNeighborsResponse], None] | None = None
        self.searches: list[pb.SearchNeighborsRequest] = []
        self.remaining_ns: list[int] = []
        self.streams = 0
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> FakeSimilarity:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        rpc.add_SimilarityServiceServicer_to_server(self, server)
        port = server.add_insecure_port(self.address)
        if not self.address.startswith("unix:"):
            self.address = f"127.0.0.1:{port}"
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Go away at once, as after SIGKILL."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(None)

    async def GetIndex(self, request: pb.GetIndexRequest, context: Any) -> pb.GetIndexResponse:
        if request.index_name != INDEX:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no index {request.index_name!r} is loaded")
        response = pb.GetIndexResponse(
            dimension=self.dimension, state_count=1000, horizon_bars=6, statement="no skill"
        )
        self._provenance(response.provenance)
        response.embedding_model.model_name = self.embedding_model
        response.embedding_model.model_version = 1
        response.embedding_model.artifact_sha256 = bytes.fromhex(self.embedding_sha256)
        response.as_of_time.FromSeconds(1_700_000_000)
        return response

    async def SearchNeighbors(
        self, request: pb.SearchNeighborsRequest, context: Any
    ) -> pb.SearchNeighborsResponse:
        self.searches.append(request)
        delay_s = self.delay_s()
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        return self._answer(request)

    async def StreamSearchNeighbors(
        self, request_iterator: AsyncIterator[pb.StreamSearchNeighborsRequest], context: Any
    ) -> AsyncIterator[pb.StreamSearchNeighborsResponse]:
        self.streams += 1
        async for message in request_iterator:
            self.searches.append(message.search)
            self.remaining_ns.append(message.remaining_duration.ToNanoseconds())
            delay_s = self.delay_s()
            if delay_s > 0:
                await asyncio.sleep(delay_s)
            response = pb.StreamSearchNeighborsResponse()
            status = self.status or self._wrong(message.search)
            if status is not None:
                response.search.request_id = message.search.request_id
                response.status_code, response.status_message = status
            else:
                response.search.CopyFrom(self._answer(message.search))
            yield response

    async def AddStates(self, request: pb.AddStatesRequest, context: Any) -> pb.AddStatesResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the fake index is fixed")
        raise AssertionError

    async def DeleteStates(self, request: pb.DeleteStatesRequest, context: Any) -> pb.DeleteStatesResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the fake index is fixed")
        raise AssertionError

    def _wrong(self, request: pb.SearchNeighborsRequest) -> tuple[int, str] | None:
        if len(request.embedding_f32) != 4 * self.dimension:
            return 3, "embedding_f32 has the wrong length"
        if request.index_version not in (0, self.index_version):
            return 9, f"index_version {request.index_version} is not loaded"
        return None

    def _answer(self, request: pb.SearchNeighborsRequest) -> pb.SearchNeighborsResponse:
        response = pb.SearchNeighborsResponse(request_id=request.request_id)
        self._provenance(response.provenance)
        before_s = request.before_time.seconds if request.HasField("before_time") else 1_700_000_000
        for rank in range(request.neighbor_count):
            neighbor = response.neighbors.add(
                state_id=rank + 1, similarity=1 - rank / 100, forward_return_bps=rank
            )
            neighbor.instrument.con_id = 4242
            neighbor.instrument.symbol = "TEST"
            neighbor.event_time.FromSeconds(before_s - 3600 * (rank + 10))
            neighbor.bar_duration.FromSeconds(60)
        response.timing.queue_duration.FromMicroseconds(10)
        response.timing.compute_duration.FromMicroseconds(90)
        if self.mangle is not None:
            self.mangle(response)
        return response

    def _provenance(self, provenance: Any) -> None:
        provenance.model_name = INDEX
        provenance.model_version = self.index_version
        provenance.artifact_sha256 = bytes.fromhex(self.index_sha256)
        provenance.export_commit = "c" * 40
