"""Asks Triton and the similarity servers in parallel, each within its share of the budget."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from server_runtime.tracing import TraceParent
from strategy.adapters.forecaster_answers import not_sent, read_forecast
from strategy.adapters.forecaster_checks import VoterCheck
from strategy.adapters.forecaster_keeper import Keeper
from strategy.adapters.forecaster_search import NeighborSearch, neighbors_of
from strategy.adapters.forecaster_specs import WINDOW_COLUMNS, ForecasterSpec
from strategy.adapters.forecaster_voters import (
    AskedVoter,
    LoneVoter,
    ReplicatedCall,
    ReplicatedVoter,
    Voter,
)
from strategy.ports import Forecast, ForecastReply, ForecastRequest, LateAnswer, VoterInfo
from tradeserve_client.answers import Attempt, NoAnswer, Outcome, Reason
from tradeserve_client.budget import ClockNs, LatencyBudget
from tradeserve_client.channel import TlsFiles
from tradeserve_client.errors import ContractError
from tradeserve_client.fan_out import CallGroup, FanOut
from tradeserve_client.metadata import Headers
from tradeserve_client.replicas import ReplicaLimits
from tradeserve_client.resilience import Caller
from tradeserve_client.search_stream import PendingSearch
from tradeserve_client.search_streams import ReplicatedSearch
from tradeserve_client.similarity import SERVICE
from tradeserve_client.triton import INFER_METHOD, TritonClient

_MAX_REMEMBERED_IDS = 1024


class GrpcForecaster:
    """Implements ports.Forecaster on the SDK.

    Where a target names several servers they stand in for each other: a call goes to one that is
    connected and answers, once more to another when its connection is lost, and to a second one when
    the first is slow. With one server nothing of that is on the path.

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
        limits = ReplicaLimits(spec.max_in_flight, spec.breaker_failure_count)
        self._triton = TritonClient(
            spec.triton_target, tls=triton_tls, transport=spec.transport, limits=limits, clock_ns=clock_ns
        )
        self._caller = Caller(self._triton.replicas, INFER_METHOD, self._fan_out, spec.resilience)
        self._voters = self._make_voters()
        self._keepers = [
            Keeper(
                replica.link,
                [voter.checks[place] for voter in self._voters],
                spec.recheck_s,
                spec.look_again_s,
            )
            for place, replica in enumerate(self._triton.replicas.replicas)
        ]
        embedder = spec.embedding_voter
        self._embedder = next((voter for voter in self._voters if voter.spec is embedder), None)
        # The search waits for the embedding, so nothing goes out before that call.
        self._sent_order = sorted(self._voters, key=lambda voter: voter is not self._embedder)
        self._search: NeighborSearch | None = None
        if spec.index.target and embedder is not None:
            self._search = NeighborSearch(
                spec, embedder, on_late=self._report_late, clock_ns=clock_ns, tls=similarity_tls
            )

    @property
    def voters(self) -> Sequence[VoterInfo]:
        """What is known about each voter now."""
        return [voter.info() for voter in self._voters]

    @property
    def similarity(self) -> VoterInfo:
        """What is known about the index now; its problem is "off" when there is no target."""
        if self._search is None or self._embedder is None:
            return VoterInfo(SERVICE, "", problem=Reason.OFF.value)
        checks = sorted(self._embedder.checks, key=lambda check: not check.holds)
        known = (check.contract for check in checks if check.contract is not None)
        contract = next(known, None)
        return self._search.info(contract.artifact_sha256 if contract else None)

    async def start(self) -> Sequence[VoterInfo]:
        """Connect, check contracts, warm up; a service that is away is reported, not fatal.

        Raises:
            ContractError: A server is there and serves something else than the strategy was tested
                with; the message spells every difference out. Everything is closed then.
        """
        try:
            found = await self._first_checks()
            if found:
                raise ContractError(found)
        except BaseException:
            await self.close()
            raise
        for keeper in self._keepers:
            keeper.open()
        if self._search is None:
            return self.voters
        self._search.keep()
        return [*self.voters, self.similarity]

    async def forecast(self, request: ForecastRequest) -> ForecastReply:
        """Ask; return by the end of the forecast share of the budget whatever happened."""
        budget = LatencyBudget.starting_at(request.start_ns, self.spec.total_ns, self._clock_ns)
        deadline_ns = budget.share(self.spec.forecast_share_ns).at_ns
        # What the embedding leaves of its share is the search's: together they have one deadline.
        search_deadline_ns = min(deadline_ns + self.spec.search_share_ns, budget.end_ns)
        outcomes: dict[str, Outcome[Forecast]] = {}
        asked: dict[str, AskedVoter] = {}
        search: PendingSearch | NoAnswer | None = None
        try:
            with self._fan_out.group(deadline_ns) as group:
                self._start_all(group, request, outcomes, asked)
                if self._embedder is not None:
                    # Awaited first, so that the search starts while the others still work.
                    await _finish(self._embedder, asked, outcomes)
                    search = self._start_search(
                        outcomes[self._embedder.spec.name], request, search_deadline_ns
                    )
                for voter in self._voters:
                    await _finish(voter, asked, outcomes)
            neighbors = await neighbors_of(search, deadline_ns)
        except asyncio.CancelledError:
            for call in asked.values():
                call.cancel()
            if isinstance(search, PendingSearch):
                search.cancel()
            raise
        return ForecastReply(
            {voter.spec.name: outcomes[voter.spec.name] for voter in self._voters},
            neighbors,
            _attempts(asked, search),
        )

    async def close(self) -> None:
        """Close the channels; nothing of this object runs afterwards."""
        for keeper in self._keepers:
            await keeper.close()
        if self._search is not None:
            await self._search.close()
        await self._caller.close()
        await self._triton.close()

    # --- start ------------------------------------------------------------------------------------

    def _make_voters(self) -> Sequence[Voter]:
        spec, replicas = self.spec, self._triton.replicas.replicas
        if len(replicas) == 1:
            return [
                LoneVoter(VoterCheck(voter, self._triton, spec, self._clock_ns, replicas[0]))
                for voter in spec.voters
            ]
        return [
            ReplicatedVoter(
                {
                    replica: VoterCheck(voter, self._triton, spec, self._clock_ns, replica)
                    for replica in replicas
                },
                self._caller,
            )
            for voter in spec.voters
        ]

    async def _first_checks(self) -> list[str]:
        checks = [self._check_models(place) for place in range(len(self._triton.replicas.replicas))]
        if self._search is not None:
            checks.append(self._search.first_checks())
        found = [text for part in await asyncio.gather(*checks) for text in part]
        if self._search is not None and self._embedder is not None:
            for check in self._embedder.checks:
                if check.holds and check.contract is not None:
                    found += self._search.embedding_differences(check.contract.artifact_sha256)
        return list(dict.fromkeys(found))

    async def _check_models(self, place: int) -> list[str]:
        replicas = self._triton.replicas.replicas
        if not await replicas[place].link.ready(self.spec.connect_timeout_s):
            return []
        found = [text for voter in self._voters for text in await voter.checks[place].check()]
        return found if len(replicas) == 1 else [f"{replicas[place].target}: {text}" for text in found]

    # --- one forecast -----------------------------------------------------------------------------

    def _start_all(
        self,
        group: CallGroup,
        request: ForecastRequest,
        outcomes: dict[str, Outcome[Forecast]],
        asked: dict[str, AskedVoter],
    ) -> None:
        window = np.ascontiguousarray(request.window, np.float32)
        wrong = self._wrong_window(window)
        headers = _trace_headers(request.decision_id) if self.spec.traced else ()
        for voter in self._sent_order:
            refusal = wrong or voter.refusal()
            prepared = voter.prepared
            if refusal is None and prepared is not None:
                infer = prepared.request(window)
                self._remember(infer.request_id, request.decision_id)
                asked[voter.spec.name] = voter.ask(group, infer, headers)
            else:
                reason, detail = refusal or (Reason.DOWN, "its contract was not checked yet")
                outcomes[voter.spec.name] = not_sent(voter.spec.name, reason, detail, group.deadline_ns)

    def _wrong_window(self, window: NDArray[np.float32]) -> tuple[Reason, str] | None:
        wanted = (self.spec.window_bars, WINDOW_COLUMNS)
        if window.shape != wanted:
            return Reason.REFUSED, f"the window has shape {list(window.shape)}, expected {list(wanted)}"
        if not np.isfinite(window).all():
            return Reason.REFUSED, "the window has values that are not finite"
        return None

    def _start_search(
        self, embedded: Outcome[Forecast], request: ForecastRequest, deadline_ns: int
    ) -> PendingSearch | NoAnswer | None:
        if self._search is None or self._embedder is None:
            return None
        if isinstance(embedded, NoAnswer) or embedded.value.embedding is None:
            return not_sent(
                SERVICE, Reason.NO_INPUT, f"{self._embedder.spec.name} gave no embedding", deadline_ns
            )
        search = self._search.start(
            embedded.value.embedding, embedded.call.artifact_sha256, request.event_ns, deadline_ns
        )
        if isinstance(search, PendingSearch):
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


async def _finish(
    voter: Voter, asked: Mapping[str, AskedVoter], outcomes: dict[str, Outcome[Forecast]]
) -> None:
    name = voter.spec.name
    if name in outcomes:
        return
    outcome = voter.judged(await asked[name].outcome())
    outcomes[name] = (
        outcome if isinstance(outcome, NoAnswer) else read_forecast(outcome, voter.spec.embedding_dimension)
    )


def _attempts(
    asked: Mapping[str, AskedVoter], search: PendingSearch | NoAnswer | None
) -> Mapping[str, Sequence[Attempt]]:
    found: dict[str, Sequence[Attempt]] = {
        name: call.attempts for name, call in asked.items() if isinstance(call, ReplicatedCall)
    }
    if isinstance(search, ReplicatedSearch):
        found[SERVICE] = search.attempts
    return found
