"""Speak tradeserve.similarity.v1: the only part of the server that sees protobuf answers."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence

import grpc
import numpy as np
import structlog

from server_runtime import errors
from server_runtime.calls import arrival_ns
from server_runtime.conversations import Conversation
from server_runtime.deadlines import refuse_late, remaining_s
from server_runtime.metrics import ServerMetrics
from server_runtime.turns import Turns
from similarity_server.artifact import Provenance
from similarity_server.index import Match
from similarity_server.keeper import IndexKeeper
from similarity_server.outcomes import summarize
from similarity_server.requests import (
    MAX_STATES_PER_CALL,
    parse_request_id,
    parse_search,
    parse_state,
    parse_state_ids,
)
from tradeserve.common.v1 import provenance_pb2
from tradeserve.similarity.v1 import similarity_service_pb2 as pb
from tradeserve.similarity.v1 import similarity_service_pb2_grpc as pb_grpc

_log = structlog.get_logger()

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["SimilarityService"].full_name
_STREAM_METHOD = f"/{SERVICE_NAME}/StreamSearchNeighbors"
_UNARY_METHOD = f"/{SERVICE_NAME}/SearchNeighbors"
_NS = 1_000_000_000
# Parsing this many states takes about as long as one search; then searches get their turn.
_STATES_PER_TURN = 32


class SimilarityServicer(pb_grpc.SimilarityServiceServicer):
    """Serves one index."""

    def __init__(self, keeper: IndexKeeper, metrics: ServerMetrics, turns: Turns | None = None) -> None:
        """Serve an index.

        Args:
            keeper: Holds what is searched, and changes it.
            metrics: Where stages are counted.
            turns: The order in which searches are done; its own when None.
        """
        self._keeper = keeper
        self._index = keeper.index
        self._metrics = metrics
        self._turns = turns or Turns()
        self._provenance = _provenance(keeper.index.card.provenance)
        self._embedding_model = _provenance(keeper.index.card.embedding_model)

    async def GetIndex(
        self, request: pb.GetIndexRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetIndexResponse:
        """Describe the index that is loaded."""
        del context
        self._check_name(request.index_name)
        card, main = self._index.card, self._index.main
        response = pb.GetIndexResponse(
            provenance=self._provenance,
            embedding_model=self._embedding_model,
            dimension=card.dimension,
            state_count=len(self._index),
            horizon_bars=card.horizon_bars,
            statement=card.statement,
            index_kind=str(main.kind),
            recall_at_10=main.recall_at_10,
            recall_query_count=main.recall_queries,
            unmerged_count=self._index.added_count,
            deleted_count=self._index.deleted_count,
            durable=self._keeper.durable,
            sequence=self._keeper.sequence,
        )
        response.as_of_time.FromNanoseconds(self._index.as_of_ns)
        return response

    async def SearchNeighbors(
        self, request: pb.SearchNeighborsRequest, context: grpc.aio.ServicerContext
    ) -> pb.SearchNeighborsResponse:
        """Search for one caller."""
        since_ns = arrival_ns()
        return await self._turns.run(
            lambda: self._search(request, since_ns, _UNARY_METHOD), remaining_s(context)
        )

    async def StreamSearchNeighbors(
        self,
        request_iterator: AsyncIterator[pb.StreamSearchNeighborsRequest],
        context: grpc.aio.ServicerContext,
    ) -> AsyncIterator[pb.StreamSearchNeighborsResponse]:
        """Search over one stream; a search that fails leaves the stream open."""
        del context
        async for response in Conversation(self._search_on_stream).responses(request_iterator):
            yield response

    async def AddStates(
        self, request: pb.AddStatesRequest, context: grpc.aio.ServicerContext
    ) -> pb.AddStatesResponse:
        """Add states to the index, all or none."""
        del context
        parse_request_id(request.request_id)
        self._check_name(request.index_name)
        if len(request.states) > MAX_STATES_PER_CALL:
            raise errors.InvalidFieldError(
                "states", f"holds {len(request.states)} states: send at most {MAX_STATES_PER_CALL} per call"
            )
        dimension = self._index.card.dimension
        states = []
        embeddings = np.empty((len(request.states), dimension), dtype=np.float32)
        for position, message in enumerate(request.states):
            state, embeddings[position] = parse_state(message, dimension, position)
            states.append(state)
            if position % _STATES_PER_TURN == _STATES_PER_TURN - 1:
                await asyncio.sleep(0)
        added = await self._keeper.add(states, embeddings)
        _log.info(
            "states added",
            request_id=request.request_id,
            added=added,
            sent=len(states),
            durable=self._keeper.durable,
        )
        return pb.AddStatesResponse(
            request_id=request.request_id, added_count=added, state_count=len(self._index)
        )

    async def DeleteStates(
        self, request: pb.DeleteStatesRequest, context: grpc.aio.ServicerContext
    ) -> pb.DeleteStatesResponse:
        """Delete states from the index, all or none."""
        del context
        parse_request_id(request.request_id)
        self._check_name(request.index_name)
        deleted = await self._keeper.delete(parse_state_ids(request.state_ids))
        _log.info(
            "states deleted", request_id=request.request_id, deleted=deleted, durable=self._keeper.durable
        )
        return pb.DeleteStatesResponse(
            request_id=request.request_id, deleted_count=deleted, state_count=len(self._index)
        )

    def _search_on_stream(
        self,
        request: pb.StreamSearchNeighborsRequest,
        send: Callable[[pb.StreamSearchNeighborsResponse], None],
    ) -> None:
        start_ns = time.monotonic_ns()
        self._turns.arrived()
        left_s = None
        if request.HasField("remaining_duration"):
            left = request.remaining_duration
            left_s = left.seconds + left.nanos / _NS
        try:
            future = self._turns.start(lambda: self._search(request.search, start_ns, _STREAM_METHOD), left_s)
        except errors.ServeError as e:
            send(self._refusal(request, e))
            return

        def answer(ended: "asyncio.Future[pb.SearchNeighborsResponse]") -> None:
            if ended.cancelled():
                return
            try:
                response = pb.StreamSearchNeighborsResponse(search=ended.result())
                if left_s is not None:
                    refuse_late(left_s - (time.monotonic_ns() - start_ns) / _NS, 0.0)
            except errors.ServeError as e:
                response = self._refusal(request, e)
            except Exception:  # noqa: BLE001 - the stream stays open for the other searches; it is logged
                _log.exception("search failed", request_id=request.search.request_id)
                fault = errors.InternalError("a fault of the server: its log has the cause")
                response = self._refusal(request, fault)
            else:
                self._metrics.count_call(f"{_STREAM_METHOD} message", "OK")
            send(response)

        if future.done():  # a callback would wait for the loop
            answer(future)
        else:
            future.add_done_callback(answer)

    def _refusal(
        self, request: pb.StreamSearchNeighborsRequest, error: errors.ServeError
    ) -> pb.StreamSearchNeighborsResponse:
        self._metrics.count_call(f"{_STREAM_METHOD} message", errors.code_of(error).name)
        return pb.StreamSearchNeighborsResponse(
            # The caller matches answers by id, so a refusal carries it too; an absurdly long one is cut.
            search=pb.SearchNeighborsResponse(request_id=request.search.request_id[:64]),
            status_code=errors.code_number(error),
            status_message=str(error),
            status_field=error.field,
        )

    def _search(
        self, request: pb.SearchNeighborsRequest, since_ns: int, method: str
    ) -> pb.SearchNeighborsResponse:
        start_ns = time.monotonic_ns()
        parse_request_id(request.request_id)
        self._check_name(request.index_name)
        self._check_version(request.index_version)
        search = parse_search(request, self._index.card.dimension)
        response = pb.SearchNeighborsResponse(request_id=request.request_id, provenance=self._provenance)
        neighbors = response.neighbors
        matches = self._index.search(search.query, search.count, search.wanted)
        for match in matches:
            state = match.state
            neighbor = neighbors.add(
                state_id=state.state_id,
                similarity=match.similarity,
                forward_return_bps=state.forward_return_bps,
            )
            neighbor.instrument.con_id = state.con_id
            neighbor.instrument.symbol = state.symbol
            neighbor.event_time.seconds, neighbor.event_time.nanos = divmod(state.event_ns, _NS)
            neighbor.bar_duration.seconds, neighbor.bar_duration.nanos = divmod(state.bar_ns, _NS)
        _write_outcomes(response, matches)
        end_ns = time.monotonic_ns()
        timing = response.timing
        timing.queue_duration.seconds, timing.queue_duration.nanos = divmod(start_ns - since_ns, _NS)
        timing.compute_duration.seconds, timing.compute_duration.nanos = divmod(end_ns - start_ns, _NS)
        self._metrics.observe_stage(method, "queue", start_ns - since_ns)
        self._metrics.observe_stage(method, "compute", end_ns - start_ns)
        return response

    def _check_name(self, name: str) -> None:
        served = self._index.card.provenance.name
        if name != served:
            raise errors.NotFoundError(
                f"no index {name[:64]!r} is loaded, only {served!r}",
                field="index_name",
                metadata={"served": served},
            )

    def _check_version(self, pinned: int) -> None:
        served = self._index.card.provenance.version
        if pinned < 0:
            raise errors.InvalidFieldError(
                "index_version", f"is {pinned}: pin a version from 1, or send 0 for any"
            )
        if pinned not in (0, served):
            raise errors.WrongVersionError(
                f"version {pinned} is pinned but version {served} is loaded: start the server on the pinned "
                "version, or test the caller with the loaded one",
                field="index_version",
                metadata={"served": str(served)},
            )


def _write_outcomes(response: pb.SearchNeighborsResponse, matches: Sequence[Match]) -> None:
    outcomes = summarize(
        np.array([match.similarity for match in matches]),
        np.array([match.state.forward_return_bps for match in matches]),
    )
    if outcomes is not None:
        message = response.outcomes
        message.neighbor_count = outcomes.neighbor_count
        message.mean_return_bps = outcomes.mean_return_bps
        message.hit_rate = outcomes.hit_rate
        message.dispersion_bps = outcomes.dispersion_bps
        message.effective_count = outcomes.effective_count


def _provenance(of: Provenance) -> provenance_pb2.ModelProvenance:
    return provenance_pb2.ModelProvenance(
        model_name=of.name,
        model_version=of.version,
        artifact_sha256=of.artifact_sha256,
        export_commit=of.export_commit,
    )
