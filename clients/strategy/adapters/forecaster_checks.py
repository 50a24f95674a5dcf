"""Knows of each service whether it may be asked: there, and serving what the strategy was tested with.

A service is asked only after its contract was checked on the connection that stands now. When the
connection was lost, something else may have come up at the address, so everything is checked again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import structlog
from numpy.typing import NDArray

from strategy.adapters.forecaster_specs import (
    WINDOW_COLUMNS,
    ForecasterSpec,
    IndexSpec,
    VoterSpec,
    bar_size_differences,
)
from strategy.ports import VoterInfo
from tradeserve_client.answers import Answer, NoAnswer, Outcome, Reason
from tradeserve_client.budget import ClockNs
from tradeserve_client.channel import Link
from tradeserve_client.contract import SHADOW_VERSION, ModelContract, differences, digest_differences
from tradeserve_client.errors import CallError
from tradeserve_client.fan_out import FanOut
from tradeserve_client.inference import Inference, PreparedModel
from tradeserve_client.replicas import Replica
from tradeserve_client.similarity import SERVICE, IndexInfo, SimilarityClient
from tradeserve_client.triton import INFER_METHOD, TritonClient

Refusal: TypeAlias = tuple[Reason, str]
"""Why a service is not asked: for the program, and in words."""

_DOUBTS = (Reason.DOWN, Reason.CONTRACT_MISMATCH)

_log = structlog.get_logger(__name__)


class Check:
    """Where one service stands.

    Attributes:
        reason: Why it is not asked; None when it may be.
        problem: The same in words, "" when it may be asked.
        on_doubt: Called when it should be checked again now.
    """

    def __init__(self, link: Link, service: str) -> None:
        self.service = service
        self.reason: Reason | None = Reason.DOWN
        self.problem = "its contract was not checked yet"
        self.on_doubt: Callable[[], None] = _nothing
        self._link = link
        self._epoch = -1

    @property
    def target(self) -> str:
        """Where the service is."""
        return self._link.target

    @property
    def holds(self) -> bool:
        """Whether the contract was found good on the connection that stands now."""
        return self.reason is None and self._epoch == self._link.epoch

    @property
    def epoch(self) -> int:
        """Of the connection that stands now; grows with every loss."""
        return self._link.epoch

    def refusal(self) -> Refusal | None:
        """Return why the service is not asked now; None when it may be."""
        if not self._link.is_ready:
            return Reason.DOWN, f"no connection to {self._link.target} ({self._link.state})"
        if self.reason is not None:
            return self.reason, self.problem
        if self._epoch != self._link.epoch:
            return Reason.DOWN, "it was away; its contract is being checked again"
        return None

    async def check(self) -> list[str]:
        """Ask the server what it serves; return how it differs from what is expected."""
        raise NotImplementedError

    async def look_again(self) -> None:
        """See whether the server still serves what was checked; a model can be replaced in place."""
        raise NotImplementedError

    def doubt(self) -> None:
        """Have it checked again before the next call."""
        self._epoch = -1
        self.on_doubt()

    def heed(self, outcome: NoAnswer) -> None:
        """Doubt it when a call says that the server was away, or serves something else."""
        if outcome.call.sent_ns and outcome.reason in _DOUBTS:
            self.doubt()

    def passed(self, epoch: int) -> None:
        """Note that the contract holds."""
        if self.problem:
            _log.info("service_ready", service=self.service, target=self._link.target)
        self.reason, self.problem, self._epoch = None, "", epoch

    def failed(self, reason: Reason, problem: str) -> None:
        """Note why the service can't be asked."""
        if problem != self.problem:
            _log.warning("service_missing", service=self.service, reason=reason.value, problem=problem)
        self.reason, self.problem = reason, problem


class VoterCheck(Check):
    """Where one voter stands, and what its calls need.

    Attributes:
        lane: The way to it, which it shares with all calls for it over the same client.
        prepared: Requests to the version that was checked; None before the first check.
        contract: What is served; None before the first check.
    """

    def __init__(
        self,
        spec: VoterSpec,
        client: TritonClient,
        plan: ForecasterSpec,
        clock_ns: ClockNs,
        replica: Replica,
    ) -> None:
        """Make one.

        Args:
            spec: The voter.
            client: To Triton.
            plan: Shapes and times.
            clock_ns: Monotonic clock.
            replica: Which of the client's servers.
        """
        super().__init__(replica.link, spec.name)
        self.spec = spec
        self.lane = replica.lane(spec.name, INFER_METHOD)
        self.prepared: PreparedModel | None = None
        self.contract: ModelContract | None = None
        self._client = client
        self._replica = replica
        self._plan = plan
        self._expected = spec.expected(plan.window_bars)
        self._trial = FanOut(clock_ns=clock_ns)

    def info(self) -> VoterInfo:
        """Return what is known, for the screen and the report."""
        refusal = self.refusal()
        problem = refusal[1] if refusal else ""
        if self.contract is None:
            return VoterInfo(self.spec.name, self._link.target, problem=problem)
        parameters = self.contract.parameters
        return VoterInfo(
            self.spec.name,
            self._link.target,
            self.contract.version,
            self.contract.artifact_sha256,
            parameters.get("demonstrated_skill", "").lower() == "true",
            parameters.get("statement", ""),
            problem,
        )

    def judged(self, outcome: Outcome[Inference]) -> Outcome[Inference]:
        """Return what may be believed of what a call gave back."""
        if isinstance(outcome, NoAnswer):
            self.heed(outcome)
            return outcome
        return outcome if self.holds else lost(outcome)

    async def check(self) -> list[str]:
        """Compare what is served with what is expected, and try one inference; return the differences."""
        epoch = self._link.epoch
        try:
            contract = await self._contract()
        except CallError as error:
            self.failed(error.reason, error.detail)
            return []
        found = differences(self._expected, contract)
        found += bar_size_differences(contract, self._plan.bar_size_s)
        self.contract = contract
        if found:
            self.failed(Reason.CONTRACT_MISMATCH, "; ".join(found))
            return found
        prepared = self._client.prepare(
            self.spec.name,
            contract.version,
            "window",
            (1, self._plan.window_bars, WINDOW_COLUMNS),
            self._expected.outputs,
            artifact_sha256=contract.artifact_sha256,
        )
        # Readiness says little (a dead backend still reports ready), and the first call is slow.
        self.lane.breaker.reset()
        deadline_ns = self._trial.clock_ns() + int(self._plan.check_timeout_s * 1e9)
        with self._trial.group(deadline_ns) as group:
            outcome = await group.start(
                self.lane, prepared.request(_calm_window(self._plan.window_bars))
            ).outcome()
        if isinstance(outcome, NoAnswer):
            self.failed(outcome.reason, f"a trial inference failed: {outcome.detail}")
            return []
        self.prepared = prepared
        self.passed(epoch)
        return []

    async def look_again(self) -> None:
        """Read the contract; when it is another one than before, check it as at the start."""
        try:
            contract = await self._contract()
        except CallError:
            return  # calls find out by themselves that a server is away or slow
        # That another version is tried beside it says nothing about this one.
        if self.contract is None or _without_shadow(contract) != _without_shadow(self.contract):
            await self.check()

    async def _contract(self) -> ModelContract:
        return await self._client.contract(
            self.spec.name,
            self.spec.version,
            timeout_s=self._plan.check_timeout_s,
            replica=self._replica,
        )


class IndexCheck(Check):
    """Where the index of past states stands.

    Attributes:
        info: What it holds; None before the first check.
    """

    def __init__(self, spec: IndexSpec, client: SimilarityClient, voter: VoterSpec, timeout_s: float) -> None:
        super().__init__(client.link, SERVICE)
        self.spec = spec
        self.info: IndexInfo | None = None
        self._client = client
        self._voter = voter
        self._timeout_s = timeout_s

    def voter_info(self) -> VoterInfo:
        """Return what is known, for the screen and the report."""
        refusal = self.refusal()
        index = self.info.index if self.info else None
        return VoterInfo(
            SERVICE,
            self._link.target,
            index.version if index else 0,
            index.artifact_sha256 if index else "",
            statement=self.info.statement if self.info else "",
            problem=refusal[1] if refusal else "",
        )

    def embedding_differences(self, served_sha256: str) -> list[str]:
        """Return why embeddings of the voter's model with this digest can't be looked up in this index."""
        if self.info is None:
            return []
        built_from = self.info.embedding_model
        if built_from.artifact_sha256 == served_sha256 and built_from.name == self._voter.name:
            return []
        served = f"{served_sha256[:12]}…" if served_sha256 else "without a stated sha256"
        built = f"{built_from.name} {built_from.artifact_sha256[:12]}…"
        return [f"index {self.spec.name}: built from {built}, but {self._voter.name} {served} is served"]

    async def check(self) -> list[str]:
        """Compare the loaded index with what is expected; return the differences."""
        epoch = self._link.epoch
        try:
            info = await self._client.get_index(self.spec.name, timeout_s=self._timeout_s)
        except CallError as error:
            self.failed(error.reason, error.detail)
            return []
        who = f"index {self.spec.name}"
        found: list[str] = []
        if info.index.name != self.spec.name:
            found.append(f"{who}: the server answers for an index named {info.index.name!r}")
        if self.spec.version and self.spec.version != info.index.version:
            found.append(f"{who}: expected version {self.spec.version}, served: {info.index.version}")
        found += digest_differences(who, self.spec.artifact_sha256, info.index.artifact_sha256)
        if info.dimension != self._voter.embedding_dimension:
            found.append(
                f"{who}: holds embeddings of length {info.dimension}, {self._voter.name} makes "
                f"{self._voter.embedding_dimension}"
            )
        self.info = info
        if found:
            self.failed(Reason.CONTRACT_MISMATCH, "; ".join(found))
        else:
            self.passed(epoch)
        return found

    async def look_again(self) -> None:
        """Read what is loaded; when it is another index than before, check it as at the start."""
        try:
            info = await self._client.get_index(self.spec.name, timeout_s=self._timeout_s)
        except CallError:
            return  # searches find out by themselves that a server is away or slow
        known = self.info
        if known is None or (info.index, info.embedding_model, info.dimension) != (
            known.index,
            known.embedding_model,
            known.dimension,
        ):
            await self.check()


def lost(answer: Answer[Inference]) -> NoAnswer:
    """Return why an answer is not used: the connection changed under it, so who sent it is not certain."""
    return NoAnswer(Reason.DOWN, "the connection was lost during the call", answer.call)


def joint_refusal(refusals: Iterable[tuple[str, Refusal | None]]) -> Refusal | None:
    """Return why none of the servers of a service may be asked; None when one may.

    A contract that differs says most.

    Args:
        refusals: Of each server, with its target.
    """
    found: list[tuple[str, Refusal]] = []
    for target, refusal in refusals:
        if refusal is None:
            return None
        found.append((target, refusal))
    if len(found) == 1:
        return found[0][1]
    mismatch = any(reason is Reason.CONTRACT_MISMATCH for _, (reason, _) in found)
    words = "; ".join(f"{target}: {words}" for target, (_, words) in found)
    return Reason.CONTRACT_MISMATCH if mismatch else Reason.DOWN, words


def _nothing() -> None:
    """Do nothing: nobody keeps this check up to date."""


def _without_shadow(contract: ModelContract) -> ModelContract:
    parameters = {key: value for key, value in contract.parameters.items() if key != SHADOW_VERSION}
    return replace(contract, parameters=parameters)


def _calm_window(window_bars: int) -> NDArray[np.float32]:
    """Return a plausible window: small moves around 100, so that no scale in the model is zero."""
    closes = 100.0 + 0.1 * np.sin(np.arange(window_bars, dtype=np.float64))
    opens = np.roll(closes, 1)
    window = np.empty((window_bars, WINDOW_COLUMNS), np.float32)
    window[:, 0], window[:, 3] = opens, closes
    window[:, 1] = np.maximum(opens, closes) + 0.05
    window[:, 2] = np.minimum(opens, closes) - 0.05
    window[:, 4] = 1000.0 + 10.0 * np.arange(window_bars)
    return window
