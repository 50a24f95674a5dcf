"""The calls of a decision through the SDK: models in parallel, then the search on a stream."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.context import UnavailableError, need
from bench.in_process import EMBEDDER, INDEX, NEIGHBORS
from tradeserve_client.channel import Transport
from tradeserve_client.fan_out import FanOut
from tradeserve_client.inference import PreparedModel
from tradeserve_client.lane import Lane
from tradeserve_client.search_stream import SearchStream
from tradeserve_client.similarity import SearchQuery, SimilarityClient

_OPEN_S = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """What a decision starts from.

    Attributes:
        window: (1, window_bars, 5) float32.
        event_ns: End of the last bar; only states whose outcome was known then are found.
    """

    window: NDArray[np.float32]
    event_ns: int


async def open_search(address: str, transport: Transport, stack: AsyncExitStack) -> SearchStream:
    """Return a stream of searches that is closed with the stack.

    Raises:
        UnavailableError: The server does not take it.
    """
    client = SimilarityClient(address, transport=transport)
    stack.push_async_callback(client.close)
    stream = SearchStream(client)
    stack.push_async_callback(stream.close)
    if not await stream.ready(_OPEN_S):
        raise UnavailableError(f"no stream of searches to {address}")
    return stream


@dataclass(frozen=True, slots=True)
class DecisionCalls:
    """Asks as the strategy does: the embedder first, the search as soon as its embedding is there.

    Attributes:
        fan_out: Starts the calls.
        lanes: By model.
        models: By name.
        stream: Takes the search.
        deadline_ns: Time from the start on for all of it.
    """

    fan_out: FanOut
    lanes: Mapping[str, Lane]
    models: Mapping[str, PreparedModel]
    stream: SearchStream
    deadline_ns: int

    async def ask(self, case: Case) -> None:
        """Ask every model and the index.

        Raises:
            UnavailableError: One of them did not answer.
        """
        end_ns = self.fan_out.clock_ns() + self.deadline_ns
        with self.fan_out.group(end_ns) as group:
            pending = {
                name: group.start(self.lanes[name], model.request(case.window))
                for name, model in self.models.items()
            }
            embedded = need(await pending.pop(EMBEDDER).outcome())
            query = SearchQuery(INDEX, embedded.outputs["embedding"][0], NEIGHBORS, case.event_ns)
            search = self.stream.start(query, end_ns)
            for call in pending.values():
                need(await call.outcome())
        need(await search.outcome())
