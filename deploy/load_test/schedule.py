"""When the calls of a load test are due. Pure; the same rates over time as ghz's pacers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from load_test.errors import ConfigError

Kind = Literal["const", "step", "line"]
KINDS: tuple[Kind, ...] = ("const", "step", "line")

MAX_CALLS = 1_000_000
"""Most calls of one run: as many as ghz keeps the details of."""


_MIN_STEP_S = 0.01
_TINY = 1e-6  # of a call: what sums of fractions may be off by


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a schedule with one rate.

    Attributes:
        start_s: Since the start of the run.
        end_s: The same.
        rate: Calls per second.
    """

    start_s: float
    end_s: float
    rate: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule by the keys of a ghz config; 0 is "not set" throughout, as in ghz.

    Attributes:
        kind: load-schedule. ghz's "line" changes the rate once a second, and so do we.
        rps: Calls per second of "const".
        start: load-start, calls per second.
        step: load-step: calls per second that each step adds ("line": each second); may be negative.
        end: load-end: the rate that is kept once it is passed.
        step_duration_s: load-step-duration.
        max_duration_s: load-max-duration: when the stepping ends.
        duration_s: duration of the whole run; then `total` does not count.
        total: Calls of the whole run.
    """

    kind: Kind = "const"
    rps: float = 0
    start: float = 0
    step: float = 0
    end: float = 0
    step_duration_s: float = 0
    max_duration_s: float = 0
    duration_s: float = 0
    total: int = 200

    def check(self) -> None:
        """Check that it can be run.

        Raises:
            ConfigError: A key is missing or out of range; it is named.
        """
        if self.kind == "const":
            if self.rps <= 0:
                raise ConfigError("rps: give calls per second; a run without a rate measures nothing")
        else:
            if self.start <= 0:
                raise ConfigError(f"load-start: a {self.kind} schedule needs a rate to start from, above 0")
            if self.step == 0:
                raise ConfigError(f"load-step: a {self.kind} schedule needs a step other than 0")
            if self.start == self.end:
                raise ConfigError("load-end: must differ from load-start")
            if self.kind == "step" and self.step_duration_s < _MIN_STEP_S:
                raise ConfigError(
                    'load-step-duration: a step schedule needs one of 10 ms or more, such as "5s"'
                )
        if self.duration_s <= 0 and self.total <= 0:
            raise ConfigError('duration: give one, such as "30s", or a total number of calls')
        count = self.call_count
        if count > MAX_CALLS:
            raise ConfigError(
                f"duration: more than {MAX_CALLS:,} calls would be made: shorten it or lower the rate"
            )
        if count == 0:
            raise ConfigError("duration: too short for a single call at this rate")

    @property
    def stages(self) -> list[Stage]:
        """Its stages in order, up to the end of the run, each with an end; at most MAX_CALLS of them."""
        last_s = self.duration_s or math.inf
        stages: list[Stage] = []
        made = 0.0

        def add(end_s: float, rate: float) -> bool:
            """Add a stage until end_s or until all calls are made; return whether that was the last."""
            nonlocal made
            start_s = stages[-1].end_s if stages else 0.0
            if not self.duration_s and rate > 0:
                end_s = min(end_s, start_s + (self.total - made) / rate)
            end_s = min(end_s, last_s)
            if end_s > start_s and math.isfinite(end_s):
                stages.append(Stage(start_s, end_s, rate))
                made += rate * (end_s - start_s)
            done = end_s >= last_s or (not self.duration_s and made >= self.total - _TINY)
            return done or rate == 0 or made > MAX_CALLS or len(stages) >= MAX_CALLS

        if self.kind == "const":
            add(last_s, self.rps)
            return stages
        length_s = 1.0 if self.kind == "line" else self.step_duration_s
        number, rate = 0, self.start
        while not self._has_ended(number * length_s, rate):
            if add(min((number + 1) * length_s, self.max_duration_s or math.inf), rate):
                return stages
            number += 1
            rate = max(self.start + self.step * number, 0.0)
        add(last_s, self.end or self._last_rate(length_s))
        return stages

    def _has_ended(self, at_s: float, rate: float) -> bool:
        """Return whether the stepping is over; with load-max-duration only time ends it, as in ghz."""
        if self.max_duration_s:
            return at_s >= self.max_duration_s
        return bool(self.end) and (rate > self.end if self.step > 0 else rate < self.end)

    def _last_rate(self, length_s: float) -> float:
        return max(self.start + self.step * math.floor(self.max_duration_s / length_s), 0.0)

    @property
    def call_count(self) -> int:
        """Calls that it asks for."""
        return math.floor(sum(stage.rate * (stage.end_s - stage.start_s) for stage in self.stages) + _TINY)

    @property
    def length_s(self) -> float:
        """How long it takes to make the calls at the rates asked for."""
        return self.stages[-1].end_s if self.stages else 0.0

    @property
    def mean_rate(self) -> float:
        """Calls per second over the whole run."""
        return self.call_count / self.length_s if self.stages else 0.0

    @property
    def peak_rate(self) -> float:
        """Highest rate of any stage."""
        return max((stage.rate for stage in self.stages), default=0.0)

    def due_s(self) -> NDArray[np.float64]:
        """Return when each call is due, (calls,) float64 seconds since the start, ascending from 0."""
        return self.due_at_s(np.arange(self.call_count, dtype=np.float64))

    def due_at_s(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return when calls are due by their numbers, from 0; those after the last are due at the end."""
        stages = [stage for stage in self.stages if stage.rate > 0]
        if not stages:
            return np.zeros(len(numbers))
        edges_s = np.array([stages[0].start_s, *(stage.end_s for stage in stages)])
        made = np.cumsum([0.0, *(stage.rate * (stage.end_s - stage.start_s) for stage in stages)])
        due: NDArray[np.float64] = np.interp(numbers, made, edges_s)
        return due
