"""Knows what each replica serves under each name, and notices when that changes.

A replica is asked only after its contract was read on the connection that stands now. Contracts are
read again after every lost connection, when an answer names another version than the one that was
checked, and every `recheck_s`, because a model can be replaced in place without a connection lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from tradeserve_client.answers import Reason
from tradeserve_client.budget import ClockNs
from tradeserve_client.contract import ExpectedModel, ModelContract, differences
from tradeserve_client.errors import CallError, TradeserveError
from tradeserve_client.replicas import MAX_LANES, Replica

FetchContract: TypeAlias = Callable[[Replica, str, int, float], Awaitable[ModelContract]]
"""Reads (replica, model, version, timeout_s); raises CallError."""
OnContractChange: TypeAlias = Callable[[str, ModelContract, ModelContract], None]
"""Called with (target, what was served, what is served now)."""

_CHECK_TIMEOUT_S = 2.0
_MIN_PAUSE_S = 0.05
NOT_CHECKED = (Reason.DOWN, "its contract was not checked yet")


@dataclass(slots=True)
class Known:
    """What is known of one model on one replica.

    Attributes:
        contract: What was served at the last check; None before the first.
        problem: Why it is not asked; None when it may be.
        epoch: Connection on which it was checked; -1 when it must be checked again.
        lock: Held while it is checked.
    """

    contract: ModelContract | None = None
    problem: tuple[Reason, str] | None = NOT_CHECKED
    epoch: int = -1
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(slots=True)
class _Watched:
    model: str
    version: int
    known: dict[Replica, Known] = field(default_factory=dict)


class ContractWatch:
    """Checks contracts in the background, bounded: one check per replica at a time.

    Attributes:
        recheck_s: Pause between two looks at a contract that holds.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        fetch: FetchContract,
        *,
        expected: Mapping[str, ExpectedModel],
        recheck_s: float,
        clock_ns: ClockNs,
        on_change: OnContractChange | None = None,
    ) -> None:
        if not 0.05 <= recheck_s <= 86_400:
            raise ValueError(f"recheck_s = {recheck_s!r}: give 0.05 to 86400 seconds")
        self.recheck_s = recheck_s
        self._replicas = replicas
        self._fetch = fetch
        self._expected = expected
        self._clock_ns = clock_ns
        self._on_change = on_change
        self._watched: dict[tuple[str, int], _Watched] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        for replica in replicas:
            replica.link.on_change(self._wake.set)

    def known(self, model: str, version: int, replica: Replica) -> Known | None:
        """Return what is known of a model on a replica."""
        watched = self._watched.get((model, version))
        return watched.known.get(replica) if watched else None

    def may_ask(self, model: str, version: int, replica: Replica) -> bool:
        """Return whether the contract was found good on the connection that stands now."""
        known = self.known(model, version, replica)
        return known is not None and known.problem is None and known.epoch == replica.link.epoch

    def is_pinned(self, model: str) -> bool:
        """Return whether the caller said what it expects of a model."""
        return model in self._expected

    def contract(self, model: str, version: int, only: Replica | None = None) -> ModelContract | None:
        """Return the contract of the first replica that may be asked, or of that one."""
        for replica in self._replicas if only is None else (only,):
            if self.may_ask(model, version, replica):
                known = self.known(model, version, replica)
                return known.contract if known else None
        return None

    def problem(self, model: str, version: int) -> tuple[Reason, str]:
        """Return why no replica may be asked; a contract that differs says most."""
        found: list[tuple[Reason, str]] = []
        for replica in self._replicas:
            known = self.known(model, version, replica)
            if known is not None and known.problem is not None and known.problem is not NOT_CHECKED:
                found.append((known.problem[0], f"{replica.target}: {known.problem[1]}"))
            elif not replica.link.is_ready:
                found.append((Reason.DOWN, f"no connection to {replica.target} ({replica.link.state})"))
        mismatches = [problem for problem in found if problem[0] is Reason.CONTRACT_MISMATCH]
        chosen = mismatches or found
        return (chosen[0][0], "; ".join(words for _, words in chosen)) if chosen else NOT_CHECKED

    async def check(
        self, model: str, version: int, timeout_s: float, only: Replica | None = None
    ) -> ModelContract | None:
        """Check a model on every connected replica now; return a contract that holds, or None.

        Returns as soon as one replica, or that one, may be asked; the others are checked in the background.

        Raises:
            TradeserveError: More models than a client keeps track of.
        """
        watched = self._watched.get((model, version))
        if watched is None:
            self._make_room(model)
            watched = self._watched[model, version] = _Watched(model, version)
        self._open()
        loop = asyncio.get_running_loop()
        end_s = loop.time() + timeout_s
        checks = {
            loop.create_task(self._check(watched, replica, min(timeout_s, _CHECK_TIMEOUT_S)))
            for replica in self._replicas
            if replica.link.is_ready and not self.may_ask(model, version, replica)
        }
        try:
            # One that hangs must not keep the others from being asked.
            while checks and self.contract(model, version, only) is None and end_s > loop.time():
                done, checks = await asyncio.wait(
                    checks, timeout=end_s - loop.time(), return_when=asyncio.FIRST_COMPLETED
                )
                for check in done:
                    check.result()
        finally:
            for check in checks:
                check.cancel()
            if checks:
                await asyncio.wait(checks)
        self._wake.set()
        return self.contract(model, version, only)

    def doubt(self, model: str, version: int, replica: Replica, *, ask_meanwhile: bool = True) -> None:
        """Have a contract read again soon.

        Args:
            model: Name.
            version: As it was asked for.
            replica: Whose contract.
            ask_meanwhile: Whether the replica may be asked until then; never for a pinned model.
        """
        known = self.known(model, version, replica)
        if known is not None:
            if self.is_pinned(model) or not ask_meanwhile:
                known.epoch = -1
            self._wake.set()

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def _make_room(self, model: str) -> None:
        if len(self._watched) < MAX_LANES:
            return
        for key, watched in self._watched.items():
            if all(known.contract is None for known in watched.known.values()):
                del self._watched[key]  # a name that no server knows
                return
        raise TradeserveError(f"{model}: more than {MAX_LANES} models; use another client for others")

    def _open(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="contract watch")

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.recheck_s):
                    await self._wake.wait()
            self._wake.clear()
            for watched in tuple(self._watched.values()):
                await asyncio.gather(
                    *(
                        self._check(watched, replica, _CHECK_TIMEOUT_S)
                        for replica in self._replicas
                        if replica.link.is_ready
                    )
                )
            # A flapping connection, or answers that all raise doubt, must not make this a busy loop.
            await asyncio.sleep(_MIN_PAUSE_S)

    async def _check(self, watched: _Watched, replica: Replica, timeout_s: float) -> None:
        known = watched.known.setdefault(replica, Known())
        async with known.lock:
            epoch = replica.link.epoch
            try:
                served = await self._fetch(replica, watched.model, watched.version, timeout_s)
            except CallError as error:
                if error.reason in (Reason.LATE, Reason.BUSY) and known.contract is not None:
                    return  # a slow server says nothing about what it serves
                known.problem = (error.reason, error.detail)
                return
            except TradeserveError as error:  # nothing was sent: the caller's headers can't be
                known.problem = (Reason.REFUSED, str(error))
                return
            before, known.contract = known.contract, served
            found = self._differences(watched, served)
            known.problem = (Reason.CONTRACT_MISMATCH, "; ".join(found)) if found else None
            known.epoch = epoch
        if before is not None and before != served and self._on_change is not None:
            self._on_change(replica.target, before, served)

    def _differences(self, watched: _Watched, served: ModelContract) -> list[str]:
        expected = self._expected.get(watched.model)
        found = differences(expected, served) if expected else []
        if not found and watched.version and watched.version != served.version:
            versions = ", ".join(map(str, served.versions)) or "none"
            found.append(f"{watched.model}: asked for version {watched.version}, served: {versions}")
        return found
