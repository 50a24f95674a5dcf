"""The search for past states like the present one, on one similarity server or on several."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from strategy.adapters.forecaster_answers import not_sent
from strategy.adapters.forecaster_checks import IndexCheck, Refusal, joint_refusal
from strategy.adapters.forecaster_keeper import Keeper
from strategy.adapters.forecaster_specs import ForecasterSpec, VoterSpec
from strategy.core.values import Neighbor
from strategy.ports import VoterInfo
from tradeserve_client.answers import Answer, NoAnswer, Outcome, Reason
from tradeserve_client.breaker import CircuitBreaker
from tradeserve_client.budget import ClockNs
from tradeserve_client.channel import TlsFiles
from tradeserve_client.fan_out import OnLate
from tradeserve_client.replicas import split_targets
from tradeserve_client.search_stream import PendingSearch, SearchStream
from tradeserve_client.search_streams import SearchStreams
from tradeserve_client.similarity import SERVICE, Matches, SearchQuery, SimilarityClient


class NeighborSearch:
    """Searches with the embedding of one voter."""

    def __init__(
        self,
        spec: ForecasterSpec,
        voter: VoterSpec,
        *,
        on_late: OnLate,
        clock_ns: ClockNs,
        tls: TlsFiles | None,
    ) -> None:
        self._spec = spec
        self._voter = voter
        self._clients = [
            SimilarityClient(target, tls=tls, transport=spec.transport, clock_ns=clock_ns)
            for target in split_targets(spec.index.target)
        ]
        self._streams = [
            SearchStream(
                client,
                on_late=on_late,
                clock_ns=clock_ns,
                max_in_flight=spec.max_in_flight,
                breaker=CircuitBreaker(clock_ns, failure_count=spec.breaker_failure_count),
            )
            for client in self._clients
        ]
        self._checks = [
            IndexCheck(spec.index, client, voter, spec.check_timeout_s) for client in self._clients
        ]
        self._keepers = [
            Keeper(client.link, [check], spec.recheck_s, spec.look_again_s)
            for client, check in zip(self._clients, self._checks, strict=True)
        ]
        self._check_of = dict(zip(self._streams, self._checks, strict=True))
        several = len(self._streams) > 1
        self._replicas = (
            SearchStreams(self._streams, resilience=spec.resilience, clock_ns=clock_ns) if several else None
        )

    async def first_checks(self) -> list[str]:
        """Connect to every server and compare what it holds; return the differences."""
        for stream in self._streams:
            stream.open()
        found = await asyncio.gather(*map(self._first_check, self._clients, self._checks))
        return [text for part in found for text in part]

    def keep(self) -> None:
        """Keep the checks up to date from now on."""
        for keeper in self._keepers:
            keeper.open()

    def embedding_differences(self, served_sha256: str) -> list[str]:
        """Return why embeddings of a model with this digest can't be looked up in an index that is there."""
        found = [text for check in self._checks for text in check.embedding_differences(served_sha256)]
        return list(dict.fromkeys(found))

    def info(self, served_sha256: str | None) -> VoterInfo:
        """Return what is known of the index; it has a problem when no server may be asked.

        Args:
            served_sha256: Of the voter that makes embeddings; None while it is not known.
        """
        found = [self._info(check, served_sha256) for check in self._checks]
        if len(found) == 1:
            return found[0]
        well = next((info for info in found if not info.problem), None)
        problem = "" if well else "; ".join(f"{info.target}: {info.problem}" for info in found)
        return replace(well or found[0], target=", ".join(info.target for info in found), problem=problem)

    def start(
        self, embedding: NDArray[np.float32], served_sha256: str, event_ns: int, deadline_ns: int
    ) -> PendingSearch | NoAnswer:
        """Send a search now.

        Args:
            embedding: (dimension,) float32, L2-normalised.
            served_sha256: Of the model that made it.
            event_ns: Only states whose outcome was known before this instant, nanoseconds UTC.
            deadline_ns: Monotonic.
        """
        refusal = joint_refusal((check.target, _refusal(check, served_sha256)) for check in self._checks)
        if refusal is not None:
            return not_sent(SERVICE, *refusal, deadline_ns)
        index = self._spec.index
        query = SearchQuery(index.name, embedding, index.neighbor_count, event_ns, index.version)
        if self._replicas is None:
            return self._streams[0].start(query, deadline_ns)
        return self._replicas.start(
            query, deadline_ns, lambda stream: _refusal(self._check_of[stream], served_sha256) is None
        )

    async def close(self) -> None:
        """Close the streams and channels."""
        for keeper in self._keepers:
            await keeper.close()
        for stream in self._streams:
            await stream.close()
        for client in self._clients:
            await client.close()

    async def _first_check(self, client: SimilarityClient, check: IndexCheck) -> list[str]:
        return await check.check() if await client.link.ready(self._spec.connect_timeout_s) else []

    def _info(self, check: IndexCheck, served_sha256: str | None) -> VoterInfo:
        info = check.voter_info()
        if info.problem or served_sha256 is None:
            return info
        return replace(info, problem="; ".join(check.embedding_differences(served_sha256)))


def _refusal(check: IndexCheck, served_sha256: str) -> Refusal | None:
    refusal = check.refusal()
    if refusal is not None:
        return refusal
    found = check.embedding_differences(served_sha256)
    return (Reason.CONTRACT_MISMATCH, "; ".join(found)) if found else None


async def neighbors_of(
    search: PendingSearch | NoAnswer | None, deadline_ns: int
) -> Outcome[Sequence[Neighbor]]:
    """Wait for a search and return what it found; None is a search that is not configured."""
    if search is None:
        return not_sent(SERVICE, Reason.OFF, "no similarity target is configured", deadline_ns)
    outcome = search if isinstance(search, NoAnswer) else await search.outcome()
    return outcome if isinstance(outcome, NoAnswer) else Answer(_neighbors(outcome.value), outcome.call)


def _neighbors(found: Matches) -> Sequence[Neighbor]:
    return tuple(
        Neighbor(
            match.state_id,
            match.con_id,
            match.symbol,
            match.event_ns,
            match.bar_size_s,
            match.similarity,
            match.forward_return_bps,
        )
        for match in found.matches
    )
