"""Asks versions that are tried over a connection, lanes and breakers of their own.

Which one is tried stands in the model's config on the server (`shadow_version`, written by
`tradeserve models shadow NAME --version N --live`). It is looked for in the background, and asked once
its contract was found to be the voter's and a trial inference was answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from strategy.adapters.forecaster_answers import not_sent, read_forecast
from strategy.adapters.forecaster_checks import VoterCheck
from strategy.adapters.forecaster_specs import ForecasterSpec, VoterSpec
from strategy.ports import Forecast, ForecastRequest, ShadowVersion
from tradeserve_client.answers import NoAnswer, Outcome, Reason
from tradeserve_client.budget import ClockNs
from tradeserve_client.channel import TlsFiles
from tradeserve_client.contract import shadow_of
from tradeserve_client.errors import CallError
from tradeserve_client.fan_out import FanOut
from tradeserve_client.replicas import ReplicaLimits
from tradeserve_client.triton import TritonClient

_LOOK_S = 5.0
_MIN_PAUSE_S = 0.05


class ShadowCheck(VoterCheck):
    """Where one version stands that is tried in a voter's place."""

    def __init__(
        self, voter: VoterSpec, version: int, client: TritonClient, plan: ForecasterSpec, clock_ns: ClockNs
    ) -> None:
        # Its file is another one than the voter's, on purpose; inputs and outputs must be the same.
        spec = replace(voter, version=version, artifact_sha256="")
        super().__init__(spec, client, plan, clock_ns, client.replicas.replicas[0])
        self.service = f"{voter.name} v{version} (shadow)"
        self.told = ""

    @property
    def fits(self) -> bool:
        """Whether it may stand in the voter's place, as far as is known."""
        return self.prepared is not None and self.reason is not Reason.CONTRACT_MISMATCH

    @property
    def shadow(self) -> ShadowVersion:
        """Its name for others."""
        digest = self.contract.artifact_sha256 if self.contract else ""
        return ShadowVersion(self.spec.name, self.spec.version, digest)


class GrpcShadowForecaster:
    """Implements ports.ShadowForecaster on the SDK."""

    def __init__(
        self,
        spec: ForecasterSpec,
        *,
        deadline_ns: int,
        max_in_flight: int,
        on_change: Callable[[str], None] | None = None,
        clock_ns: ClockNs = time.monotonic_ns,
        tls: TlsFiles | None = None,
    ) -> None:
        """Make one; `open` starts it.

        Args:
            spec: The voters, and where they are served.
            deadline_ns: What an answer may take, from the question on.
            max_in_flight: Calls open at once per version.
            on_change: Told in words when a version begins or ceases to be asked.
            clock_ns: Monotonic clock.
            tls: Files for an encrypted connection; None for plain text.
        """
        look_s = min(spec.look_again_s, _LOOK_S)
        self._plan = replace(spec, look_again_s=look_s)
        self._deadline_ns = deadline_ns
        self._on_change = on_change or _ignore
        self._clock_ns = clock_ns
        self._fan_out = FanOut(clock_ns=clock_ns)
        limits = ReplicaLimits(max_in_flight, spec.breaker_failure_count)
        self._triton = TritonClient(
            spec.triton_target, tls=tls, transport=spec.transport, limits=limits, clock_ns=clock_ns
        )
        self._tried: dict[str, ShadowCheck] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._triton.link.on_change(self._wake.set)

    @property
    def versions(self) -> Sequence[ShadowVersion]:
        """Those announced now that fit what the strategy expects of the voter."""
        return [check.shadow for check in self._tried.values() if check.fits]

    def open(self) -> None:
        """Connect, and look for versions that are to be tried. Needs a running loop."""
        if self._task is None:
            self._triton.link.open()
            self._task = asyncio.get_running_loop().create_task(self._watch(), name="shadows")

    async def ask(self, shadow: ShadowVersion, request: ForecastRequest) -> Outcome[Forecast]:
        """Ask one what its voter was asked; return by a deadline of its own, which begins now."""
        deadline_ns = self._clock_ns() + self._deadline_ns
        check = self._tried.get(shadow.voter)
        if check is None or check.prepared is None or check.shadow != shadow:
            return not_sent(shadow.voter, Reason.DOWN, "it is not tried any more", deadline_ns)
        refusal = check.refusal()
        if refusal is not None:
            return not_sent(shadow.voter, *refusal, deadline_ns)
        window = np.ascontiguousarray(request.window, np.float32)
        if not np.isfinite(window).all():
            return not_sent(
                shadow.voter, Reason.REFUSED, "the window has values that are not finite", deadline_ns
            )
        with self._fan_out.group(deadline_ns) as group:
            called = await group.start(check.lane, check.prepared.request(window)).outcome()
        outcome = check.judged(called)
        if isinstance(outcome, NoAnswer):
            return outcome
        return read_forecast(outcome, check.spec.embedding_dimension)

    async def close(self) -> None:
        """Close the channel; nothing of this object runs afterwards."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._triton.close()

    async def _watch(self) -> None:
        link = self._triton.link
        while True:
            self._wake.clear()
            if link.is_ready:
                await asyncio.gather(*(self._look(voter) for voter in self._plan.voters))
            fine = link.is_ready and all(check.holds for check in self._tried.values())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._plan.look_again_s if fine else self._plan.recheck_s):
                    await self._wake.wait()
            await asyncio.sleep(_MIN_PAUSE_S)  # a flapping connection must not make this a busy loop

    async def _look(self, voter: VoterSpec) -> None:
        """See which version is to be tried in a voter's place, and check it."""
        try:
            served = await self._triton.contract(
                voter.name, voter.version, timeout_s=self._plan.check_timeout_s
            )
        except CallError:
            return  # what was announced holds until the server says otherwise
        wanted = shadow_of(served.parameters)
        if wanted == served.version:
            wanted = 0  # the strategy uses it by now
        known = self._tried.get(voter.name)
        if known is not None and known.spec.version != wanted:
            del self._tried[voter.name]
            self._on_change(f"{voter.name} v{known.spec.version} is not tried any more")
            known = None
        if not wanted:
            return
        if known is None:
            known = ShadowCheck(voter, wanted, self._triton, self._plan, self._clock_ns)
            known.on_doubt = self._wake.set
            self._tried[voter.name] = known
        if known.holds:
            await known.look_again()
        else:
            await known.check()
        self._tell(known, served.version)

    def _tell(self, check: ShadowCheck, used_version: int) -> None:
        who = f"{check.spec.name} v{check.spec.version} {check.shadow.artifact_sha256[:12]}"
        if check.problem:
            words = f"{who} is tried, but can't be asked: {check.problem}"
        else:
            words = f"{who} is tried beside v{used_version}: asked after each decision, recorded, never used"
        if words != check.told:
            check.told = words
            self._on_change(words)


def _ignore(words: str) -> None:
    """Tell nobody."""
