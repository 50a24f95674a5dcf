"""`strategy replay`: reads decisions from the journal and makes them again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from journal.migrations import check_database
from journal.queries import JournalReader, RunSummary
from journal.rows import DecisionRow, ModelCallRow, OrderIntentRow, ShadowAnswerRow, VisionReadingRow
from strategy.adapters.clock import SystemClock
from strategy.adapters.forecaster_specs import IndexSpec
from strategy.adapters.grpc_forecaster import GrpcForecaster
from strategy.composition import forecaster_spec
from strategy.config import StrategyConfig
from strategy.replay import Difference, compare_models, differences, shadow_differences, vision_differences

_SHOWN_DIFFERENCES = 20
_PATIENCE_NS = 5_000_000_000
LATEST = "latest"


async def replay(
    database_url: str, run_id: str, models_with: StrategyConfig | None, say: Callable[[str], None]
) -> bool:
    """Make every decision of a run again.

    Args:
        database_url: postgresql://…
        run_id: A run, or "latest".
        models_with: Where the models are served, to ask them again; None leaves them.
        say: Called with each line of the result.

    Returns:
        Whether every decision came out as recorded.

    Raises:
        JournalError: There is no such run, or the database is away.
        ContractError: Other models are served than the run used.
    """
    await check_database(database_url)
    async with JournalReader(database_url) as reader:
        summary = await _run(reader, run_id)
        decisions = await reader.decisions(summary.run.run_id)
        intents: dict[str, list[OrderIntentRow]] = {}
        for intent in await reader.rows_of(OrderIntentRow, summary.run.run_id):
            intents.setdefault(intent.decision_id, []).append(intent)
        answers: dict[str, list[ShadowAnswerRow]] = {}
        for answer in await reader.rows_of(ShadowAnswerRow, summary.run.run_id):
            answers.setdefault(answer.decision_id, []).append(answer)
        readings = {
            reading.decision_id: reading
            for reading in await reader.rows_of(VisionReadingRow, summary.run.run_id)
        }
        calls = await reader.rows_of(ModelCallRow, summary.run.run_id) if models_with else []
    rules = summary.run.config["rules"]
    found: list[Difference] = []
    for row in decisions:
        found += differences(row, rules, intents.get(row.decision_id, ()))
    _tell(say, summary.run.run_id, len(decisions), found)
    if answers:
        found += _shadows(say, decisions, rules, answers)
    if readings:
        found += _readings(say, decisions, summary.run.config, readings)
    if models_with is not None:
        spec = replace(
            forecaster_spec(models_with),
            index=IndexSpec(),
            forecast_share_ns=_PATIENCE_NS,
            total_ns=_PATIENCE_NS,
        )
        forecaster = GrpcForecaster(spec)
        await forecaster.start()
        try:
            comparisons = await compare_models(decisions, calls, forecaster, SystemClock())
        finally:
            await forecaster.close()
        for service, comparison in sorted(comparisons.items()):
            say(
                f"{service}: {comparison.compared} windows asked again, largest difference of a probability "
                f"{comparison.largest:.2e}, {comparison.missing} without an answer"
            )
    return not found


async def _run(reader: JournalReader, run_id: str) -> RunSummary:
    if run_id != LATEST:
        return await reader.run(run_id)
    latest = await reader.runs(limit=1)
    return latest[0] if latest else await reader.run("none yet")


def _shadows(
    say: Callable[[str], None],
    decisions: Sequence[DecisionRow],
    rules: Mapping[str, Any],
    answers: Mapping[str, Sequence[ShadowAnswerRow]],
) -> Sequence[Difference]:
    found: list[Difference] = []
    for row in decisions:
        found += shadow_differences(row, rules, answers.get(row.decision_id, ()))
    count = sum(answer.agrees is not None for of_one in answers.values() for answer in of_one)
    say(f"shadows: {count} would-be decisions made again, {len(found)} fields different")
    for difference in found[:_SHOWN_DIFFERENCES]:
        say(f"  {difference}")
    return found


def _readings(
    say: Callable[[str], None],
    decisions: Sequence[DecisionRow],
    config: Mapping[str, Any],
    readings: Mapping[str, VisionReadingRow],
) -> Sequence[Difference]:
    found: list[Difference] = []
    heard = [row for row in decisions if row.state.get("vision")]
    for row in heard:
        found += vision_differences(row, config, readings)
    say(f"vision: what readings did to {len(heard)} decisions found again, {len(found)} different")
    for difference in found[:_SHOWN_DIFFERENCES]:
        say(f"  {difference}")
    return found


def _tell(say: Callable[[str], None], run_id: str, count: int, found: Sequence[Difference]) -> None:
    changed = len({difference.decision_id for difference in found})
    say(f"run {run_id}: {count} decisions made again, {count - changed} as recorded, {changed} different")
    for difference in found[:_SHOWN_DIFFERENCES]:
        say(f"  {difference}")
    if len(found) > _SHOWN_DIFFERENCES:
        say(f"  and {len(found) - _SHOWN_DIFFERENCES} more differences")
