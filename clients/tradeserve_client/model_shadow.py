"""Ask two versions of a model the same questions and say how their answers differ; nothing acts on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradeserve_client.answers import Answer, Outcome
from tradeserve_client.inference import Inference
from tradeserve_client.triton import TritonClient


@dataclass(frozen=True, slots=True)
class Question:
    """One inference that both versions are asked for.

    Attributes:
        origin: Where it comes from, for the record: a decision's id, a file and its row.
        inputs: Every input by name, with the batch first.
    """

    origin: str
    inputs: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class ShadowAnswers:
    """What both versions said to one question.

    Attributes:
        origin: Of the question.
        live: What the version in use answered, and when.
        shadow: The same of the version that is tried.
    """

    origin: str
    live: Outcome[Inference]
    shadow: Outcome[Inference]

    def record(self) -> Mapping[str, Any]:
        """Return it as a document for a line of JSON."""
        return {
            "origin": self.origin,
            "recorded_ns": time.time_ns(),
            "live": _side(self.live),
            "shadow": _side(self.shadow),
        }


@dataclass(slots=True)
class Comparison:
    """How two versions differ, over all questions so far.

    Attributes:
        question_count: How many were asked.
        live_unanswered_count: Questions that the version in use did not answer in time.
        shadow_unanswered_count: The same of the version that is tried.
        max_abs_difference: Output -> the largest difference of one number; inf when the shapes differ.
        row_count: Rows of the outputs that name a class (two numbers or more).
        same_class_count: Those whose largest number is at the same place in both.
        live_ms: Round trips of the version in use.
        shadow_ms: The same of the version that is tried.
    """

    question_count: int = 0
    live_unanswered_count: int = 0
    shadow_unanswered_count: int = 0
    max_abs_difference: dict[str, float] = field(default_factory=dict)
    row_count: int = 0
    same_class_count: int = 0
    live_ms: list[float] = field(default_factory=list)
    shadow_ms: list[float] = field(default_factory=list)

    def add(self, answers: ShadowAnswers) -> None:
        """Count one question."""
        self.question_count += 1
        for outcome, times in ((answers.live, self.live_ms), (answers.shadow, self.shadow_ms)):
            if isinstance(outcome, Answer):
                times.append(outcome.call.round_trip_ns / 1e6)
        self.live_unanswered_count += not isinstance(answers.live, Answer)
        self.shadow_unanswered_count += not isinstance(answers.shadow, Answer)
        if isinstance(answers.live, Answer) and isinstance(answers.shadow, Answer):
            for name, live in answers.live.value.outputs.items():
                self._compare(name, live, answers.shadow.value.outputs[name])

    def _compare(self, name: str, live: NDArray[Any], shadow: NDArray[Any]) -> None:
        if live.shape != shadow.shape:
            self.max_abs_difference[name] = float("inf")
            return
        apart = np.abs(live.astype(np.float64) - shadow.astype(np.float64))
        # What is not a number in one of them differs beyond measure, in both it agrees.
        apart = np.where(np.isnan(apart) & (np.isnan(live) != np.isnan(shadow)), np.inf, np.nan_to_num(apart))
        largest = float(apart.max(initial=0.0))
        self.max_abs_difference[name] = max(self.max_abs_difference.get(name, 0.0), largest)
        if live.ndim == 2 and live.shape[1] >= 2:
            self.row_count += len(live)
            self.same_class_count += int((live.argmax(1) == shadow.argmax(1)).sum())


async def compare(
    client: TritonClient,
    model: str,
    live_version: int,
    shadow_version: int,
    questions: Iterable[Question],
    *,
    budget_s: float = 1.0,
    on_answers: Callable[[ShadowAnswers], None] | None = None,
) -> Comparison:
    """Ask both versions every question, one after the other; who goes first changes.

    Args:
        client: To the Triton that has both loaded.
        model: Name.
        live_version: The version in use.
        shadow_version: The version that is tried.
        questions: What to ask.
        budget_s: Seconds for each answer.
        on_answers: Told of every pair of answers, to record them.

    Raises:
        WrongRequestError: A question does not fit the model.
    """
    comparison = Comparison()
    for number, question in enumerate(questions):
        order = (live_version, shadow_version) if number % 2 else (shadow_version, live_version)
        outcomes = {
            version: await client.infer(model, question.inputs, budget=budget_s, version=version)
            for version in order
        }
        answers = ShadowAnswers(question.origin, outcomes[live_version], outcomes[shadow_version])
        comparison.add(answers)
        if on_answers is not None:
            on_answers(answers)
    return comparison


def _side(outcome: Outcome[Inference]) -> Mapping[str, Any]:
    if isinstance(outcome, Answer):
        call = outcome.call
        return {
            "answered": True,
            "version": outcome.value.model_version,
            "artifact_sha256": call.artifact_sha256,
            "request_id": call.request_id,
            "round_trip_ms": round(call.round_trip_ns / 1e6, 3),
            "outputs": {name: array.tolist() for name, array in outcome.value.outputs.items()},
        }
    return {"answered": False, "reason": str(outcome.reason), "detail": outcome.detail}
