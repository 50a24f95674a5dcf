"""A voter as the forecaster asks it: on one server, or on several that stand in for each other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from strategy.adapters.forecaster_checks import Refusal, VoterCheck, joint_refusal, lost
from strategy.adapters.forecaster_specs import VoterSpec
from strategy.ports import VoterInfo
from tradeserve_client.answers import Attempt, NoAnswer, Outcome
from tradeserve_client.fan_out import CallGroup, PendingCall
from tradeserve_client.inference import Inference, InferRequest, PreparedModel
from tradeserve_client.metadata import Headers
from tradeserve_client.replicas import Replica
from tradeserve_client.resilience import Called, Caller


class AskedVoter(Protocol):
    """A call to a voter that is under way; await `outcome()` once."""

    async def outcome(self) -> Outcome[Inference]:
        """Return the answer in time, or why there is none."""

    def cancel(self) -> None:
        """Stop waiting."""


class Voter(Protocol):
    """A model that votes."""

    @property
    def spec(self) -> VoterSpec:
        """Which model."""

    @property
    def checks(self) -> Sequence[VoterCheck]:
        """Where it stands on each server."""

    @property
    def prepared(self) -> PreparedModel | None:
        """Requests to it; None while it can't be asked."""

    def info(self) -> VoterInfo:
        """Return what is known, for the screen and the report."""

    def refusal(self) -> Refusal | None:
        """Return why it is not asked now; None when it may be."""

    def ask(self, group: CallGroup, infer: InferRequest, headers: Headers) -> AskedVoter:
        """Send a request of `prepared` now."""

    def judged(self, outcome: Outcome[Inference]) -> Outcome[Inference]:
        """Return what may be believed of what a call gave back; have a server checked that is in doubt."""


class LoneVoter:
    """A voter on one server. A call adds nothing to what the SDK does."""

    __slots__ = ("_check", "checks", "info", "judged", "refusal", "spec")

    def __init__(self, check: VoterCheck) -> None:
        self._check = check
        self.checks: Sequence[VoterCheck] = (check,)
        self.spec = check.spec
        self.info = check.info
        self.judged = check.judged
        self.refusal = check.refusal

    @property
    def prepared(self) -> PreparedModel | None:
        """Requests to it."""
        return self._check.prepared

    def ask(self, group: CallGroup, infer: InferRequest, headers: Headers) -> PendingCall[Inference]:
        """Send a request now."""
        return group.start(self._check.lane, infer, headers)


class ReplicatedVoter:
    """A voter on several servers.

    Only servers whose contract holds, and is the same one, are asked for it: while versions are being
    changed on one after the other, two of them never stand in for each other.
    """

    def __init__(self, checks: dict[Replica, VoterCheck], caller: Caller) -> None:
        self._by_replica = checks
        self._caller = caller
        self.checks: Sequence[VoterCheck] = tuple(checks.values())
        self.spec = self.checks[0].spec

    @property
    def prepared(self) -> PreparedModel | None:
        """Requests to the first server that may be asked."""
        leader = self._leader()
        return leader.prepared if leader else None

    def info(self) -> VoterInfo:
        """Return what is known; it has a problem when no server may be asked."""
        leader, refusal = self._leader(), self.refusal()
        problem = refusal[1] if refusal else ""
        known = leader or next((check for check in self.checks if check.contract), self.checks[0])
        targets = ", ".join(check.target for check in self.checks)
        return replace(known.info(), target=targets, problem=problem)

    def refusal(self) -> Refusal | None:
        """Return why no server is asked now; None when one may be."""
        return joint_refusal((check.target, check.refusal()) for check in self.checks)

    def ask(self, group: CallGroup, infer: InferRequest, headers: Headers) -> ReplicatedCall:
        """Send a request to the best server, and to another one when it needs to be."""
        call = self._call(infer, group.deadline_ns, headers)
        return ReplicatedCall(asyncio.get_running_loop().create_task(call, name=f"ask {self.spec.name}"))

    def judged(self, outcome: Outcome[Inference]) -> Outcome[Inference]:
        """Return it as it is: it was judged by the server that it came from."""
        return outcome

    async def _call(self, infer: InferRequest, deadline_ns: int, headers: Headers) -> Called[Inference]:
        wanted = (infer.model.version, infer.model.artifact_sha256)
        epochs = {replica: check.epoch for replica, check in self._by_replica.items()}

        def may_ask(replica: Replica) -> bool:
            check = self._by_replica[replica]
            prepared = check.prepared
            return (
                check.holds
                and prepared is not None
                and (prepared.version, prepared.artifact_sha256) == wanted
            )

        called = await self._caller.call(
            self.spec.name, infer, deadline_ns, may_ask=may_ask, metadata=dict(headers)
        )
        for attempt in called.attempts:
            if isinstance(attempt.outcome, NoAnswer):
                for check in self.checks:
                    if check.target == attempt.target:
                        check.heed(attempt.outcome)
        if isinstance(called.outcome, NoAnswer) or called.replica is None:
            return called
        answered = self._by_replica[called.replica]
        # Not whether the check holds: another call may have raised doubts on a connection that stands.
        if answered.reason is None and answered.epoch == epochs[called.replica]:
            return called
        return replace(called, outcome=lost(called.outcome))

    def _leader(self) -> VoterCheck | None:
        return next((check for check in self.checks if check.refusal() is None), None)


class ReplicatedCall:
    """A call that may be sent to a second server; await `outcome()` once.

    Attributes:
        attempts: Where it was sent, once the outcome is there.
    """

    __slots__ = ("_task", "attempts")

    def __init__(self, task: asyncio.Task[Called[Inference]]) -> None:
        self._task = task
        self.attempts: Sequence[Attempt] = ()

    async def outcome(self) -> Outcome[Inference]:
        """Return the answer in time, or why there is none."""
        called = await self._task
        self.attempts = called.attempts
        return called.outcome

    def cancel(self) -> None:
        """Stop waiting."""
        self._task.cancel()
