from __future__ import annotations

from dataclasses import replace
from typing import Any

from fakes.engine_world import World
from journal.rows import DecisionRow, ModelCallRow, OrderIntentRow
from strategy.core.decision import rules_to_json
from strategy.core.values import Probabilities
from strategy.replay import compare_models, differences


async def recorded(world: World) -> tuple[list[DecisionRow], dict[str, list[OrderIntentRow]], dict[str, Any]]:
    await world.start()
    for up in (0.7, 0.1, 0.6, 0.34):
        world.forecaster.probabilities = Probabilities(0.8 - up, 0.2, up)
        await world.bar()
    rows = [row for row in world.journal.rows if isinstance(row, DecisionRow)]
    intents: dict[str, list[OrderIntentRow]] = {}
    for row in world.journal.durable:
        if isinstance(row, OrderIntentRow):
            intents.setdefault(row.decision_id, []).append(row)
    return rows, intents, rules_to_json(world.rules)


async def test_every_recorded_decision_comes_out_the_same(world: World) -> None:
    rows, intents, rules = await recorded(world)
    assert len(rows) == 4
    assert intents
    for row in rows:
        assert list(differences(row, rules, intents.get(row.decision_id, ()))) == []


async def test_a_changed_record_is_named_by_decision_and_field(world: World) -> None:
    rows, intents, rules = await recorded(world)
    assert rows[0].up_probability is not None
    changed = replace(rows[0], up_probability=rows[0].up_probability + 1e-12)
    (difference,) = differences(changed, rules, intents[changed.decision_id])
    assert (difference.decision_id, difference.field) == (changed.decision_id, "up_probability")


async def test_a_changed_limit_shows_in_the_risk_checks_or_the_order(world: World) -> None:
    rows, intents, rules = await recorded(world)
    rules["risk"]["max_position_pct"] = 1.0
    fields = {difference.field for difference in differences(rows[0], rules, intents[rows[0].decision_id])}
    assert {"risk_checks", "quantity"} <= fields


async def test_models_asked_again_are_compared_with_the_record(world: World) -> None:
    rows, _, _ = await recorded(world)
    calls = [row for row in world.journal.rows if isinstance(row, ModelCallRow)]
    world.forecaster.probabilities = Probabilities(0.46, 0.2, 0.34)
    found = await compare_models(rows[-1:], calls, world.forecaster, world.clock)
    assert {name: comparison.compared for name, comparison in found.items()} == {
        "gaf_resnet": 1,
        "lstm_cnn": 1,
    }
    assert max(comparison.largest for comparison in found.values()) < 1e-12
