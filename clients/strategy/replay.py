"""Makes recorded decisions again and says where the result differs from the record.

Ensemble, policy and risk are made again from the recorded answers and must agree to the last bit.
The models can be asked again on the recorded windows; their answers may differ in the last digits
on other hardware, so the difference is reported, not judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from journal.rows import DecisionRow, ModelCallRow, OrderIntentRow, ShadowAnswerRow, VisionReadingRow
from market.bars import NS_PER_S
from strategy.core.calibration import Calibration
from strategy.core.decision import Decision, checks_to_json, input_from_json, remake, rules_from_json
from strategy.core.plain import from_json
from strategy.core.shadow import agree, side_of, would_be
from strategy.core.values import Probabilities, Purpose
from strategy.core.vision import VisionLimits, effect_of
from strategy.ports import Clock, Forecaster, ForecastRequest
from strategy.vision_recording import reading_of_row
from tradeserve_client.answers import Answer, CallRecord

WINDOW_COLUMNS = 5


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of one decision that did not come out as recorded."""

    decision_id: str
    field: str
    recorded: object
    remade: object

    def __str__(self) -> str:
        return f"{self.decision_id} {self.field}: recorded {self.recorded!r}, made again {self.remade!r}"


def differences(
    row: DecisionRow, rules: Mapping[str, Any], intents: Sequence[OrderIntentRow]
) -> Iterator[Difference]:
    """Make one decision again and yield what differs.

    Args:
        row: As recorded.
        rules: `config["rules"]` of its run.
        intents: Orders recorded for it.

    Raises:
        ValueError: The record can't be read; the message names the field.
    """
    decision = remake(row.state, rules)
    for field, recorded, remade in _fields(row, decision, intents):
        if recorded != remade:
            yield Difference(row.decision_id, field, recorded, remade)


def _fields(
    row: DecisionRow, decision: Decision, intents: Sequence[OrderIntentRow]
) -> Iterator[tuple[str, object, object]]:
    p = decision.consensus.probabilities
    yield "down_probability", row.down_probability, p.down if p else None
    yield "flat_probability", row.flat_probability, p.flat if p else None
    yield "up_probability", row.up_probability, p.up if p else None
    yield "weights", dict(row.weights), dict(decision.consensus.weights)
    yield "missing", dict(row.missing), dict(decision.consensus.missing)
    signal = decision.signal
    yield "purpose", row.purpose, signal.purpose.value if signal.purpose else None
    yield "strength", row.strength, signal.strength
    yield "risk_checks", list(row.risk_checks), checks_to_json(decision.verdict)
    if row.side != "HOLD":  # HOLD also stands for an entry that was refused on its way out
        yield "side", row.side, signal.side.value
    plan = decision.verdict.plan if decision.verdict else None
    for intent in intents:
        if intent.purpose == Purpose.ENTRY.value and plan is not None:
            yield "quantity", intent.quantity, plan.quantity
            yield "limit_price", intent.limit_price, plan.limit_price
            yield "stop_price", intent.stop_price, plan.stop_price
            yield "take_profit_price", intent.take_profit_price, plan.take_profit_price


def shadow_differences(
    row: DecisionRow, rules: Mapping[str, Any], answers: Sequence[ShadowAnswerRow]
) -> Iterator[Difference]:
    """Make the decisions again that would have been made with the answers of versions that were tried.

    Args:
        row: The real decision, as recorded.
        rules: `config["rules"]` of its run.
        answers: Recorded for it; those that did not come have no decision.

    Raises:
        ValueError: The record can't be read; the message names the field.
    """
    for answer in answers:
        if answer.agrees is None:
            continue
        vote = Answer(Probabilities(*answer.output["probabilities"]), CallRecord(answer.service, "", 0, 0, 0))
        given = input_from_json(row.state)
        other = would_be(given, rules_from_json(rules), answer.service, vote)
        for field, recorded, remade in _shadow_fields(answer, other, agree(remake(row.state, rules), other)):
            if recorded != remade:
                name = f"{answer.service} v{answer.model_version} {field}"
                yield Difference(row.decision_id, name, recorded, remade)


def _shadow_fields(
    answer: ShadowAnswerRow, other: Decision, agrees: bool
) -> Iterator[tuple[str, object, object]]:
    p = other.consensus.probabilities
    yield "down_probability", answer.down_probability, p.down if p else None
    yield "flat_probability", answer.flat_probability, p.flat if p else None
    yield "up_probability", answer.up_probability, p.up if p else None
    yield "side", answer.side, side_of(other).value
    yield "purpose", answer.purpose, other.signal.purpose.value if other.signal.purpose else None
    yield "strength", answer.strength, other.signal.strength
    yield "risk_checks", list(answer.risk_checks), checks_to_json(other.verdict)
    yield "agrees", answer.agrees, agrees


def vision_differences(
    row: DecisionRow, config: Mapping[str, Any], readings: Mapping[str, VisionReadingRow]
) -> Iterator[Difference]:
    """Find again what a reading did to a decision, from the reading as it was recorded.

    Args:
        row: The decision, as recorded.
        config: Of its run.
        readings: By the decision whose chart was read.

    Raises:
        ValueError: The record can't be read; the message names the field.
    """
    effect = input_from_json(row.state).vision
    if effect is None:
        return
    recorded = readings.get(effect.decision_id)
    found = None
    if recorded is not None and recorded.signal is not None:
        calibration = config.get("vision_calibration")
        found = effect_of(
            reading_of_row(recorded),
            None if calibration is None else from_json(Calibration, calibration),
            from_json(VisionLimits, config["vision_limits"]),
            now_ns=effect.now_ns,
            event_ns=row.event_ns,
            bar_ns=config["strategy"]["bar_size_s"] * NS_PER_S,
        )
    if found != effect:
        yield Difference(row.decision_id, "vision", effect, found)


@dataclass(slots=True)
class ModelComparison:
    """How far a service's answers on the recorded windows lie from the recorded ones.

    Attributes:
        compared: Answers that are there both times.
        largest: Largest absolute difference of a probability.
        missing: Answers that did not come this time.
    """

    compared: int = 0
    largest: float = 0.0
    missing: int = 0


async def compare_models(
    decisions: Iterable[DecisionRow],
    calls: Iterable[ModelCallRow],
    forecaster: Forecaster,
    clock: Clock,
) -> dict[str, ModelComparison]:
    """Ask the models again on the recorded windows, one decision after the other."""
    recorded: dict[str, dict[str, Sequence[float]]] = {}
    for call in calls:
        if call.used and "probabilities" in call.output:
            recorded.setdefault(call.decision_id, {})[call.service] = call.output["probabilities"]
    result: dict[str, ModelComparison] = {}
    for row in decisions:
        if row.decision_id not in recorded:
            continue
        window = np.frombuffer(row.window, "<f4").reshape(-1, WINDOW_COLUMNS)
        request = ForecastRequest(row.decision_id, row.con_id, window, row.event_ns, clock.monotonic_ns())
        reply = await forecaster.forecast(request)
        for service, before in recorded[row.decision_id].items():
            comparison = result.setdefault(service, ModelComparison())
            outcome = reply.forecasts.get(service)
            if not isinstance(outcome, Answer):
                comparison.missing += 1
                continue
            p = outcome.value.probabilities
            comparison.compared += 1
            now = (p.down, p.flat, p.up)
            comparison.largest = max(
                comparison.largest, *(abs(a - b) for a, b in zip(before, now, strict=True))
            )
    return result
