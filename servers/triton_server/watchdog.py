"""Notice what Triton doesn't: a model whose stub process died, a server that hangs; and heal it.

Readiness is not asked: a model with a dead stub says it is ready. Every model computes a row of
zeros every few seconds instead.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import grpc
import structlog

from triton_server.probe import Health, ProbeResult, ServedModel, TritonProbe

log = structlog.get_logger(__name__)

# Of a model's last probes: with several instances, only some meet the one that is dead.
_REMEMBERED_PROBES = 6
_FAILURES_TO_RELOAD = 2
_FAILURES_TO_RESTART = 3
# Triton 2.51 never frees a model whose dead stub was sent a request: a process entry and 1 MB of shared
# memory each, until the server itself is restarted.
_RELOADS_PER_SERVER = 8


@dataclass(frozen=True, slots=True)
class WatchdogSettings:
    """How often the watchdog looks and how long it waits.

    Attributes:
        interval_s: Between two rounds of probes while all is well.
        suspicious_interval_s: Between two rounds while a model fails.
        probe_timeout_s: What one inference may take.
        reload_timeout_s: What unloading, and loading, may take.
    """

    interval_s: float = 2.0
    suspicious_interval_s: float = 0.25
    probe_timeout_s: float = 5.0
    reload_timeout_s: float = 30.0


class Remedy(Enum):
    """What to do about a model."""

    NONE = "none"
    RELOAD = "reload"
    RESTART = "restart"


@dataclass(slots=True)
class ModelHealth:
    """What the last probes of one model say; pure, so that it is tested without a server."""

    _recent: deque[Health] = field(default_factory=lambda: deque(maxlen=_REMEMBERED_PROBES))

    @property
    def is_suspicious(self) -> bool:
        """Whether a recent probe failed."""
        return any(health not in {Health.ANSWERED, Health.WAITS} for health in self._recent)

    def record(self, health: Health) -> Remedy:
        """Add a probe and say what to do now."""
        self._recent.append(health)
        curable = sum(seen in {Health.STUB_DEAD, Health.NOT_LOADED} for seen in self._recent)
        if health in {Health.STUB_DEAD, Health.NOT_LOADED} and curable >= _FAILURES_TO_RELOAD:
            self._recent.clear()
            return Remedy.RELOAD
        silent = list(self._recent)[-_FAILURES_TO_RESTART:]
        if len(silent) == _FAILURES_TO_RESTART and all(
            seen in {Health.LATE, Health.UNREACHABLE} for seen in silent
        ):
            self._recent.clear()
            return Remedy.RESTART
        return Remedy.NONE


@dataclass(slots=True)
class RestartBudget:
    """Restarts allowed in a sliding window of time, so that a hopeless server is given up."""

    limit: int = 10
    window_s: float = 300.0
    _starts: deque[float] = field(default_factory=deque)

    def spend(self, now_s: float) -> bool:
        """Take one restart; False when the budget is spent."""
        while self._starts and now_s - self._starts[0] > self.window_s:
            self._starts.popleft()
        if len(self._starts) >= self.limit:
            return False
        self._starts.append(now_s)
        return True

    def backoff_s(self) -> float:
        """Give the pause before the next restart: none at first, then doubling up to 5 s."""
        return 0.0 if len(self._starts) <= 1 else min(5.0, 0.25 * 2.0 ** (len(self._starts) - 2))


class Watchdog:
    """Probe the models of one running server."""

    def __init__(self, probe: TritonProbe, models: Sequence[ServedModel], settings: WatchdogSettings) -> None:
        self._probe = probe
        self._models = list(models)
        self._settings = settings
        self._health: dict[tuple[str, str], ModelHealth] = {}
        self._failed_before: set[tuple[str, str]] = set()
        self._reloads = 0

    async def watch(self) -> str:
        """Probe and reload until the server itself has to be restarted.

        Returns:
            Why it has to.
        """
        while True:
            await self._look_again()
            suspicious = any(health.is_suspicious for health in self._health.values())
            await asyncio.sleep(
                self._settings.suspicious_interval_s if suspicious else self._settings.interval_s
            )
            results = await asyncio.gather(
                *(self._probe.infer(model, self._settings.probe_timeout_s) for model in self._models)
            )
            to_reload: dict[str, str] = {}
            for model, result in zip(self._models, results, strict=True):
                self._note_failure(model, result)
                remedy = self._health[model.name, model.version].record(result.health)
                if remedy is Remedy.RESTART:
                    return f"model {model.name} version {model.version}: {result.health.value}"
                if remedy is Remedy.RELOAD:
                    to_reload[model.name] = result.detail
            self._reloads += len(to_reload)
            if self._reloads > _RELOADS_PER_SERVER:
                return f"models had to be reloaded {self._reloads} times"
            for name, reason in to_reload.items():
                if not await self._reload(name, reason):
                    return f"model {name} can't be unloaded and loaded again"

    async def _look_again(self) -> None:
        """Follow versions that were loaded or retired meanwhile; a model that has none is missing."""
        try:
            served = await self._probe.served_models(self._settings.probe_timeout_s)
        except grpc.aio.AioRpcError:  # the probes will tell
            served = []
        present = {model.name for model in served}
        self._models = served + [model for model in self._models if model.name not in present]
        keys = [(model.name, model.version) for model in self._models]
        self._health = {key: self._health.get(key) or ModelHealth() for key in keys}

    async def _reload(self, name: str, reason: str) -> bool:
        """Reload a model; False when the server hangs over it."""
        start = time.monotonic()
        log.warning("model is reloaded", model=name, reason=reason)
        try:
            await self._probe.reload(name, self._settings.reload_timeout_s)
        except grpc.aio.AioRpcError as e:
            log.error("model could not be reloaded", model=name, reason=e.details() or e.code().name)
            return e.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
        log.info("model is back", model=name, took_s=round(time.monotonic() - start, 2))
        return True

    def _note_failure(self, model: ServedModel, result: ProbeResult) -> None:
        """Log a failure that no remedy follows once, not at every probe."""
        key = (model.name, model.version)
        if result.health is not Health.FAILED:
            self._failed_before.discard(key)
        elif key not in self._failed_before:
            self._failed_before.add(key)
            log.error("model fails on zeros", model=model.name, version=model.version, reason=result.detail)
