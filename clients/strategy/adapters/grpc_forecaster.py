"""Asks Triton and the similarity server in parallel, each within its share of the budget."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from server_runtime.tracing import TraceParent
from strategy.adapters.forecaster_answers import read_forecast
from strategy.adapters.forecaster_checks import IndexCheck, Keeper, VoterCheck
from strategy.adapters.forecaster_specs import WINDOW_COLUMNS, ForecasterSpec
from strategy.core.values import Neighbor
from strategy.ports import Forecast, ForecastReply, ForecastRequest, LateAnswer, VoterInfo
from tradeserve_client.answers import Answer, CallRecord, NoAnswer, Outcome, Reason
from tradeserve_client.breaker import CircuitBreaker
from tradeserve_client.budget import ClockNs, LatencyBudget
from tradeserve_client.channel import TlsFiles
from tradeserve_client.errors import ContractError
from tradeserve_client.fan_out import CallGroup, FanOut, Headers, PendingCall
from tradeserve_client.search_stream import PendingSearch, SearchStream
from tradeserve_client.similarity import SERVICE, Matches, SearchQuery, SimilarityClient
from tradeserve_client.triton import Inference, TritonClient

_MAX_REMEMBERED_IDS = 1024


class GrpcForecaster:
    """Implements ports.Forecaster on the SDK.

    Attributes:
        spec: Who votes, where, and in how much time.
    """

    def __init__(
        self,
        spec: ForecasterSpec,
        *,
        on_late: Callable[[LateAnswer], None] | None = None,
        clock_ns: ClockNs = time.monotonic_ns,
        triton_tls: TlsFiles | None = None,
        similarity_tls: TlsFiles | None = None,
    ) -> None:
        self.spec = spec
        self._clock_ns = clock_ns
        self._on_late = on_late
        self._decisions: OrderedDict[str, str] = OrderedDict()
        self._fan_out = FanOut(on_late=self._report_late, clock_ns=clock_ns)
        self._triton = TritonClient(spec.triton_target, tls=triton_tls, transport=spec.transport)
        self._voters = [VoterCheck(voter, self._triton, spec, clock_ns) for voter in spec.voters]
        self._keepers = [Keeper(self._triton.link, self._voters, spec.recheck_s, spec.look_again_s)]
        self._similarity: SimilarityClient | None = None
        self._stream: SearchStream | None = None
        self._index: IndexCheck | None = None
        embedder = spec.embedding_voter
        self._embedder = next((voter for voter in self._voters if voter.spec is embedder), None)
        # The search waits for the embedding, so nothing goes out before that call.
        self._sent_order = sorted(self._voters, key=lambda voter: voter is not self._embedder)
        if spec.index.target and embedder is not None:
            self._similarity = SimilarityClient(
                spec.index.target, tls=similarity_tls, transport=spec.transport, clock_ns=clock_ns
            )
            self._stream = SearchStream(
                self._similarity,
                on_late=self._report_late,
                clock_ns=clock_ns,
                max_in_flight=spec.max_in_flight,
                breaker=CircuitBreaker(clock_ns, failure_count=spec.breaker_failure_count),
            )
            self._index = IndexCheck(spec.index, self._similarity, embedder, spec.check_timeout_s)
            self._keepers.append(
                Keeper(self._similarity.link, [self._index], spec.recheck_s, spec.look_again_s)
            )

    @property
    def voters(self) -> Sequence[VoterInfo]:
        """What is known about each voter now."""
        return [voter.info() for voter in self._voters]

    @property
    def similarity(self) -> VoterInfo:
        """What is known about the index now; its problem is "off" when there is no target."""
        if self._index is None:
            return VoterInfo(SERVICE, "", problem=Reason.OFF.value)
        info = self._index.voter_info()
        if not info.problem and self._embedder is not None:
            return replace(info, problem="; ".join(self._index.embedding_differences(self._embedder)))
        return info

    async def start(self) -> Sequence[VoterInfo]:
        """Connect, check contracts, warm up; a service that is away is reported, not fatal.

        Raises:
            ContractError: A server is there and serves something else than the strategy was tested
                with; the message spells every difference out. Everything is closed then.
        """
        try:
            found = [text for part in await self._first_checks() for text in part]
            if self._index is not None and self._embedder is not None and self._embedder.holds:
                found += self._index.embedding_differences(self._embedder)
            if found:
                raise ContractError(found)
        except BaseException:
            await self.close()
            raise
        for keeper in self._keepers:
            keeper.open()
        return [*self.voters, self.similarity] if self._index is not None else self.voters

    async def forecast(self, request: ForecastRequest) -> ForecastReply:
        """Ask; return by the end of the forecast share of the budget whatever happened."""
        budget = LatencyBudget.starting_at(request.start_ns, self.spec.total_ns, self._clock_ns)
        deadline_ns = budget.share(self.spec.forecast_share_ns).at_ns
        # What the embedding leaves of its share is the search's: together they have one deadline.
        search_deadline_ns = min(deadline_ns + self.spec.search_share_ns, budget.end_ns)
        outcomes: dict[str, Outcome[Forecast]] = {}
        search: PendingSearch | Outcome[Matches] | None = None
        try:
            with self._fan_out.group(deadline_ns) as group:
                pending = self._start_all(group, request, outcomes)
                if self._embedder is not None:
                    # Awaited first, so that the search starts while the others still work.
                    await self._finish(self._embedder, pending, outcomes)
                    search = self._start_search(
                        outcomes[self._embedder.spec.name], request, search_deadline_ns
                    )
                for voter in self._voters:
                    await self._finish(voter, pending, outcomes)
            neighbors = await _neighbors(search, deadline_ns)
        except asyncio.CancelledError:
            if isinstance(search, PendingSearch):
                search.cancel()
            raise
        return ForecastReply(
            {voter.spec.name: outcomes[voter.spec.name] for voter in self._voters}, neighbors
        )

    async def close(self) -> None:
        """Close the channels; nothing of this object runs afterwards."""
        for keeper in self._keepers:
            await keeper.close()
        if self._stream is not None:
            await self._stream.close()
        if self._similarity is not None:
            await self._similarity.close()
        await self._triton.close()

    # --- start ------------------------------------------------------------------------------------

    async def _first_checks(self) -> list[list[str]]:
        checks = [self._check_models()]
        if self._index is not None:
            checks.append(self._check_index(self._index))
        return list(await asyncio.gather(*checks))

    async def _check_models(self) -> list[str]:
        if not await self._triton.link.ready(self.spec.connect_timeout_s):
            return []
        return [text for voter in self._voters for text in await voter.check()]

    async def _check_index(self, index: IndexCheck) -> list[str]:
        assert self._similarity is not None
        assert self._stream is not None
        self._stream.open()
        if not await self._similarity.link.ready(self.spec.connect_timeout_s):
            return []
        return await index.check()

    # --- one forecast -----------------------------------------------------------------------------

    def _start_all(
        self, group: CallGroup, request: ForecastRequest, outcomes: dict[str, Outcome[Forecast]]
    ) -> dict[str, PendingCall[Inference]]:
        window = np.ascontiguousarray(request.window, np.float32)
        wrong = self._wrong_window(window)
        pending: dict[str, PendingCall[Inference]] = {}
        headers = _trace_headers(request.decision_id) if self.spec.traced else ()
        for voter in self._sent_order:
            refusal = wrong or voter.refusal()
            if refusal is None and voter.prepared is not None:
                infer = voter.prepared.request(window)
                self._remember(infer.request_id, request.decision_id)
                pending[voter.spec.name] = group.start(voter.lane, infer, headers)
            else:
                reason, detail = refusal or (Reason.DOWN, "its contract was not checked yet")
                outcomes[voter.spec.name] = _not_sent(voter.spec.name, reason, detail, group.deadline_ns)
        return pending

    def _wrong_window(self, window: NDArray[np.float32]) -> tuple[Reason, str] | None:
        wanted = (self.spec.window_bars, WINDOW_COLUMNS)
        if window.shape != wanted:
            return Reason.REFUSED, f"the window has shape {list(window.shape)}, expected {list(wanted)}"
        if not np.isfinite(window).all():
            return Reason.REFUSED, "the window has values that are not finite"
        return None

    async def _finish(
        self,
        voter: VoterCheck,
        pending: Mapping[str, PendingCall[Inference]],
        outcomes: dict[str, Outcome[Forecast]],
    ) -> None:
        name = voter.spec.name
        if name in outcomes:
            return
        outcome = await pending[name].outcome()
        if isinstance(outcome, NoAnswer):
            if outcome.call.sent_ns and outcome.reason in (Reason.DOWN, Reason.CONTRACT_MISMATCH):
                voter.doubt()
                self._keepers[0].wake()
            outcomes[name] = outcome
        elif not voter.holds:
            # The connection changed while the answer was under way: who sent it is not certain.
            detail = "the connection was lost during the call"
            outcomes[name] = NoAnswer(Reason.DOWN, detail, outcome.call)
        else:
            outcomes[name] = read_forecast(outcome, voter.spec.embedding_dimension)

    def _start_search(
        self, embedded: Outcome[Forecast], request: ForecastRequest, deadline_ns: int
    ) -> PendingSearch | Outcome[Matches] | None:
        if self._stream is None or self._index is None or self._embedder is None:
            return None
        if isinstance(embedded, NoAnswer) or embedded.value.embedding is None:
            return _not_sent(
                SERVICE, Reason.NO_INPUT, f"{self._embedder.spec.name} gave no embedding", deadline_ns
            )
        refusal = self._index.refusal()
        if refusal is not None:
            return _not_sent(SERVICE, *refusal, deadline_ns)
        found = self._index.embedding_differences(self._embedder)
        if found:
            return _not_sent(SERVICE, Reason.CONTRACT_MISMATCH, "; ".join(found), deadline_ns)
        index = self.spec.index
        query = SearchQuery(
            index.name, embedded.value.embedding, index.neighbor_count, request.event_ns, index.version
        )
        search = self._stream.start(query, deadline_ns)
        self._remember(search.request_id, request.decision_id)
        return search

    # --- late answers -----------------------------------------------------------------------------

    def _remember(self, request_id: str, decision_id: str) -> None:
        self._decisions[request_id] = decision_id
        if len(self._decisions) > _MAX_REMEMBERED_IDS:
            self._decisions.popitem(last=False)

    def _report_late(self, service: str, request_id: str, late_ns: int) -> None:
        if self._on_late is not None:
            decision_id = self._decisions.get(request_id, "")
            self._on_late(LateAnswer(decision_id, service, request_id, late_ns, "dropped"))


def _trace_headers(decision_id: str) -> Headers:
    """Name the decision as the parent: its UUID is the trace, the last half of it the span."""
    trace_id = int(decision_id, 16)
    return (("traceparent", TraceParent(trace_id, trace_id & 0xFFFF_FFFF_FFFF_FFFF).header),)


def _not_sent(service: str, reason: Reason, detail: str, deadline_ns: int) -> NoAnswer:
    return NoAnswer(reason, detail, CallRecord(service, "", 0, deadline_ns, 0))


async def _neighbors(
    search: PendingSearch | Outcome[Matches] | None, deadline_ns: int
) -> Outcome[Sequence[Neighbor]]:
    if search is None:
        return _not_sent(SERVICE, Reason.OFF, "no similarity target is configured", deadline_ns)
    outcome = await search.outcome() if isinstance(search, PendingSearch) else search
    if isinstance(outcome, NoAnswer):
        return outcome
    return Answer(
        tuple(
            Neighbor(
                match.state_id,
                match.con_id,
                match.symbol,
                match.event_ns,
                match.bar_size_s,
                match.similarity,
                match.forward_return_bps,
            )
            for match in outcome.value.matches
        ),
        outcome.call,
    )
