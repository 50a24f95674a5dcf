"""Calls to Triton (KServe v2 over gRPC): readiness, contracts, and inference with prebuilt bytes.

Only the messages of tritonclient are used; the channel and the calls are ours, because its clients
rebuild every request and serialize it twice.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import grpc
import grpc.aio
from numpy.typing import ArrayLike
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tradeserve_client.answers import Answer, CallRecord, NoAnswer, Outcome, Reason
from tradeserve_client.breaker import CircuitBreaker
from tradeserve_client.budget import Budget, ClockNs, end_ns_of
from tradeserve_client.channel import TlsFiles, Transport
from tradeserve_client.contract import (
    PROMOTED_VERSION,
    ExpectedModel,
    ModelContract,
    TensorSpec,
    canary_of,
)
from tradeserve_client.contract_fetch import fetch_contract
from tradeserve_client.contract_watch import ContractWatch, OnContractChange
from tradeserve_client.fan_out import FanOut, OnLate
from tradeserve_client.inference import Inference, PreparedModel
from tradeserve_client.lane import Lane
from tradeserve_client.metadata import Metadata, MetadataSource
from tradeserve_client.replicas import Replica, ReplicaLimits, ReplicaSet, Targets, any_ready
from tradeserve_client.resilience import CallCounts, Called, Caller, OnOutcome, Resilience
from tradeserve_client.route import Question, Route
from tradeserve_client.sequence import SequenceStep
from tradeserve_client.tensor_request import TensorRequest, TensorRequests

INFER_METHOD = "/inference.GRPCInferenceService/ModelInfer"

_RECHECK_S = 5.0
_CLOSE_GRACE_S = 1.0
_MAX_CONTRACTS = 256
_DOUBTS = (Reason.DOWN, Reason.CONTRACT_MISMATCH, Reason.FAILED)


class TritonClient:
    """One Triton server, or several replicas that serve the same models.

    `infer` asks any model and looks after connections, contracts, retries and hedges. `prepare` and
    `lane` are the parts that a latency-critical caller puts together itself, on the first replica.

    Attributes:
        link: Channel to the first replica, watched.
        replicas: All of them.
    """

    def __init__(
        self,
        target: Targets,
        *,
        tls: TlsFiles | None = None,
        limits: ReplicaLimits | None = None,
        resilience: Resilience | None = None,
        expected: Sequence[ExpectedModel] = (),
        recheck_s: float = _RECHECK_S,
        metadata: MetadataSource | None = None,
        on_late: OnLate | None = None,
        on_outcome: OnOutcome | None = None,
        on_contract_change: OnContractChange | None = None,
        clock_ns: ClockNs = time.monotonic_ns,
        transport: Transport = Transport.GRPC,
    ) -> None:
        """Make a client; it connects with the first call, or with `ready`.

        Args:
            target: host:port or unix:/path; several separated by commas, or a sequence.
            tls: Files for encrypted connections; None for plain text.
            limits: Calls in flight and failures in a row per replica.
            resilience: Retries and hedges of `infer`.
            expected: Contracts; a replica whose model differs is not asked for it.
            recheck_s: Pause between looks at contracts that hold.
            metadata: Headers of every call, or what gives them.
            on_late: Told of every answer that came after its deadline; it is never returned.
            on_outcome: Told of what every call gave back, e.g. CallMetrics.observe.
            on_contract_change: Told when a replica serves something else than before.
            clock_ns: Monotonic clock.
            transport: What carries the calls.

        Raises:
            TradeserveError: A target, a TLS file or a header is unusable.
        """
        self.replicas = ReplicaSet(
            target, tls=tls, metadata=metadata, limits=limits, clock_ns=clock_ns, transport=transport
        )
        self.link = self.replicas.replicas[0].link
        self._clock_ns = clock_ns
        self._on_outcome = on_outcome
        self._stubs = {
            replica: service_pb2_grpc.GRPCInferenceServiceStub(replica.channel)
            for replica in self.replicas.replicas
        }
        fan_out = FanOut(on_late=on_late, clock_ns=clock_ns)
        self._caller = Caller(self.replicas, INFER_METHOD, fan_out, resilience)
        self._watch = ContractWatch(
            self.replicas.replicas,
            self._fetch,
            expected={model.name: model for model in expected},
            recheck_s=recheck_s,
            clock_ns=clock_ns,
            on_change=on_contract_change,
        )
        self._requests: OrderedDict[tuple[str, int], TensorRequests] = OrderedDict()
        self._routes: dict[tuple[str, int], Route] = {}

    @property
    def target(self) -> str:
        """Where it is; the first of several."""
        return self.link.target

    @property
    def counts(self) -> CallCounts:
        """Calls, retries and hedges of `infer` so far."""
        return self._caller.counts

    @property
    def _connected(self) -> Replica:
        """The first replica that is connected, or else the first."""
        replicas = self.replicas.replicas
        return next((replica for replica in replicas if replica.link.is_ready), replicas[0])

    async def ready(self, timeout_s: float) -> bool:
        """Connect, bounded; return whether any replica is connected."""
        return await self.replicas.ready(timeout_s)

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        *,
        budget: Budget,
        version: int = 0,
        outputs: Sequence[str] = (),
        metadata: Metadata | None = None,
        sequence: SequenceStep | None = None,
    ) -> Outcome[Inference]:
        """Ask a model; return its answer in time, or why there is none.

        The first call to a model reads its contract within the same budget. A step of a sequence is
        sent once, to the replica that its id belongs to.

        Args:
            model: Name.
            inputs: Every input by name: arrays of the model's dtypes, with the batch first.
            budget: Seconds from now, a Deadline, or the LatencyBudget that the call is part of.
            version: 0 for the promoted one, or the newest where none is promoted.
            outputs: Names of the outputs wanted; none given means all.
            metadata: Headers of this call, beside the client's.
            sequence: Its place in a sequence, for a model with state.

        Raises:
            WrongRequestError: A tensor is missing, unknown, or of the wrong dtype or shape, or a step of
                a sequence is not what the model takes; the message names it and what to do.
            TradeserveError: The headers can't be made or sent.
            ValueError: The budget is no time.
        """
        deadline_ns = end_ns_of(budget, self._clock_ns)
        route = self._routes.get((model, version))
        if route is not None and route.holds and sequence is None:
            request = route.requests.request(inputs, outputs)
            outcome = await self._caller.ask_only(route.lane, request, deadline_ns, metadata)
            if not (
                isinstance(outcome, Answer) and outcome.value.model_version == route.version and route.holds
            ):
                question = Question(model, inputs, deadline_ns, version, outputs, metadata)
                outcome = await self._followed_up(route, request, outcome, question)
        else:
            outcome = await self._infer(
                Question(model, inputs, deadline_ns, version, outputs, metadata, sequence)
            )
        if self._on_outcome is not None:
            self._on_outcome(outcome)
        return outcome

    async def _infer(self, question: Question) -> Outcome[Inference]:
        model, version, sequence = question.model, question.version, question.sequence
        only = self._holder(sequence)
        contract = self._watch.contract(model, version, only)
        if contract is None:
            contract = await self._first_check(model, version, question.deadline_ns, only)
        if contract is None:
            problem = self._watch.problem(model, version)
            return NoAnswer(*problem, CallRecord(model, "", 0, question.deadline_ns, 0))
        if not version and sequence is None and (canary := self._canary(contract)):
            tried = await self._infer(replace(question, version=canary))
            # A canary that is gone, or broken, must not cost its callers an answer.
            if isinstance(tried, Answer) or tried.reason in (Reason.LATE, Reason.BUSY):
                return tried
        self._lay_route(contract, version)
        return await self._settled(await self._ask(contract, question), contract, question)

    async def _followed_up(
        self, route: Route, request: TensorRequest, outcome: Outcome[Inference], question: Question
    ) -> Outcome[Inference]:
        """Return what `_infer` would, when the first thing that it would have done gave this."""
        called = await self._caller.retried(
            Called(outcome, route.replica),
            question.model,
            request,
            question.deadline_ns,
            self._may_ask(question),
            question.metadata,
        )
        return await self._settled(called, route.contract, question)

    async def _settled(
        self, called: Called[Inference], contract: ModelContract, question: Question
    ) -> Outcome[Inference]:
        """Return what becomes of a call: asked once more when the version is gone, and checked."""
        model, version = question.model, question.version
        may_repeat = not version and question.sequence is None
        if may_repeat and called.replica is not None and _is_unloaded(called.outcome):
            # The version may have been replaced just now, or only here: once more where one is served.
            self._watch.doubt(model, version, called.replica, ask_meanwhile=False)
            newer = await self._first_check(model, version, question.deadline_ns)
            if newer is not None:
                contract = newer
                called = await self._ask(contract, question)
        if called.replica is None:
            return called.outcome
        return self._checked(called.outcome, called.replica, contract, version)

    async def is_server_ready(self, *, timeout_s: float) -> bool:
        """Return whether the server says it is ready; False also when it can't be reached."""
        stub = self._stubs[self._connected]
        try:
            response = await stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError:
            return False
        return bool(response.ready)

    async def is_model_ready(self, model: str, version: int = 0, *, timeout_s: float) -> bool:
        """Return whether the server says that the model is ready; False also when unreachable."""
        request = service_pb2.ModelReadyRequest(name=model, version=str(version) if version else "")
        stub = self._stubs[self._connected]
        try:
            response = await stub.ModelReady(request, timeout=timeout_s)
        except grpc.aio.AioRpcError:
            return False
        return bool(response.ready)

    async def contract(
        self, model: str, version: int = 0, *, timeout_s: float, replica: Replica | None = None
    ) -> ModelContract:
        """Return what the server serves under a name: this replica, or else the first that is connected.

        Without a wanted version it is the promoted one's. When the wanted version is not among those
        served, it is that of the promoted one, or the newest, so that the difference can be spelled out.

        Raises:
            CallError: No answer; ServerDownError when the model is not loaded.
        """
        return await self._fetch(replica or self._connected, model, version, timeout_s)

    def lane(self, service: str, *, breaker: CircuitBreaker, max_in_flight: int = 32) -> Lane:
        """Return the way to one model for a CallGroup."""
        return Lane(service, self.link.channel, INFER_METHOD, breaker=breaker, max_in_flight=max_in_flight)

    def prepare(
        self,
        model: str,
        version: int,
        input_name: str,
        shape: Sequence[int],
        outputs: Sequence[TensorSpec],
        *,
        artifact_sha256: str = "",
    ) -> PreparedModel:
        """Return a request of fixed shape, serialized but for its id and input."""
        return PreparedModel(model, version, input_name, shape, outputs, artifact_sha256=artifact_sha256)

    async def close(self) -> None:
        """Close the channels; nothing of this object runs afterwards."""
        await self._watch.close()
        await self._caller.close()
        # Calls that were given up run out at the server: one that is cut off there can crash Triton 24.10.
        await self.replicas.close(_CLOSE_GRACE_S)

    # --- contracts --------------------------------------------------------------------------------

    async def _first_check(
        self, model: str, version: int, deadline_ns: int, only: Replica | None = None
    ) -> ModelContract | None:
        """Connect if need be and read the contract, within what is left."""
        left_s = (deadline_ns - self._clock_ns()) / 1e9
        self.replicas.open()
        links = [replica.link for replica in self.replicas.replicas if only in (None, replica)]
        if left_s <= 0 or not await any_ready(links, left_s):
            return None
        left_s = (deadline_ns - self._clock_ns()) / 1e9
        return await self._watch.check(model, version, left_s, only) if left_s > 0 else None

    def _holder(self, sequence: SequenceStep | None) -> Replica | None:
        """Return the one replica that has a sequence's state."""
        replicas = self.replicas.replicas
        return None if sequence is None else replicas[sequence.replica_index(len(replicas))]

    async def _ask(self, contract: ModelContract, question: Question) -> Called[Inference]:
        requests = self._requests_to(contract, question.version)
        return await self._caller.call(
            question.model,
            requests.request(question.inputs, question.outputs, question.sequence),
            question.deadline_ns,
            may_ask=self._may_ask(question),
            metadata=question.metadata,
            once=question.sequence is not None,
        )

    def _may_ask(self, question: Question) -> Callable[[Replica], bool]:
        only = self._holder(question.sequence)

        def may_ask(replica: Replica) -> bool:
            return only in (None, replica) and self._watch.may_ask(question.model, question.version, replica)

        return may_ask

    def _lay_route(self, contract: ModelContract, version: int) -> None:
        """Remember what the next call to a model needs, where there is nothing to choose."""
        model = contract.name
        if len(self.replicas.replicas) > 1:
            return
        (replica,) = self.replicas.replicas
        known = self._watch.known(model, version, replica)
        tries_canary = not version and not self._watch.is_pinned(model) and canary_of(contract.parameters)[0]
        if tries_canary or known is None or known.contract is not contract:
            return
        if len(self._routes) >= _MAX_CONTRACTS:
            self._routes.clear()
        lane = replica.lane(model, INFER_METHOD)
        self._routes[model, version] = Route(replica, known, lane, self._requests_to(contract, version))

    def _canary(self, contract: ModelContract) -> int:
        """Return the version that this call tries, 0 mostly; who pinned a contract tries none."""
        version, share = canary_of(contract.parameters)
        chosen = share > 0 and not self._watch.is_pinned(contract.name) and random.random() < share
        return version if chosen and version in contract.versions else 0

    def _requests_to(self, contract: ModelContract, version: int) -> TensorRequests:
        # A version that is loaded to be tried must not answer those who asked for the promoted one.
        asked = version or (contract.version if PROMOTED_VERSION in contract.parameters else 0)
        requests = self._requests.get((contract.name, asked))
        if requests is None or requests.contract != contract:
            requests = self._requests[contract.name, asked] = TensorRequests(contract, asked)
            if len(self._requests) > _MAX_CONTRACTS:
                self._requests.popitem(last=False)
        return requests

    def _checked(
        self, outcome: Outcome[Inference], replica: Replica, contract: ModelContract, version: int
    ) -> Outcome[Inference]:
        """Return the outcome with what is known of its artifact, unless that may not be what was checked."""
        model = contract.name
        if isinstance(outcome, NoAnswer):
            if outcome.call.sent_ns and outcome.reason in _DOUBTS:
                self._watch.doubt(model, version, replica)
            return outcome
        known = self._watch.known(model, version, replica)
        checked = known.contract if known else None
        served = outcome.value.model_version
        if checked is None or checked.version != served or not self._watch.may_ask(model, version, replica):
            self._watch.doubt(model, version, replica)
            if self._watch.is_pinned(model):
                detail = f"{replica.target} answered with version {served} just as what it serves changed"
                return NoAnswer(Reason.CONTRACT_MISMATCH, detail, outcome.call)
            return Answer(outcome.value, replace(outcome.call, artifact_sha256=""))
        if checked is contract:
            return outcome
        return Answer(outcome.value, replace(outcome.call, artifact_sha256=checked.artifact_sha256))

    async def _fetch(self, replica: Replica, model: str, version: int, timeout_s: float) -> ModelContract:
        return await fetch_contract(self._stubs[replica], model, version, timeout_s)


def _is_unloaded(outcome: Outcome[Inference]) -> bool:
    """Return whether Triton said that the model, or this version of it, is not loaded."""
    return (
        isinstance(outcome, NoAnswer)
        and outcome.reason is Reason.DOWN
        and outcome.call.received_ns > 0
        and not outcome.detail.startswith("UNAVAILABLE")
    )
