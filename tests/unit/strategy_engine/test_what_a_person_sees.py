from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import pytest

from fakes.engine_world import World
from journal.rows import RiskEventRow
from strategy.ports import ConnectionState
from strategy.screen import Screen
from strategy.trading_state import TradingState


def shown(world: World, part: str) -> list[str]:
    return [line for line in world.text.getvalue().splitlines() if part in line]


def recorded(world: World, kind: str) -> list[str]:
    rows = [row for row in world.journal.rows if isinstance(row, RiskEventRow)]
    return [row.detail for row in rows if row.kind == kind]


async def test_a_lost_connection_is_one_alarm_and_not_one_per_attempt(world: World) -> None:
    engine = await world.start()
    engine.on_state(TradingState.DISCONNECTED, "connection reset by peer")
    for _ in range(2):
        engine.on_state(TradingState.DISCONNECTED, "connecting to 127.0.0.1:4002 as client 7")
        engine.on_state(TradingState.DISCONNECTED, "attempt failed: nothing answers")
    engine.on_state(TradingState.TRADING, "")

    assert shown(world, "! state:") == ["    ! state: disconnected: connection reset by peer"]
    assert not shown(world, "connecting to")
    assert shown(world, "state: trading") == ["state: trading"]
    assert len(recorded(world, "state")) == 6


async def test_a_kill_that_an_earlier_run_latched_is_told_with_the_way_out(world: World) -> None:
    world.gate.kill("too hot")
    engine = await world.start()
    await world.until(lambda: engine.started)
    assert shown(world, "! state:") == ["    ! state: killed: too hot"]
    (line,) = shown(world, "no orders until")
    assert "killed.json" in line
    assert recorded(world, "state") == ["killed: too hot"]


async def test_the_end_of_a_run_is_no_alarm(world: World) -> None:
    engine = await world.start()
    await world.stop()
    engine.on_state(TradingState.DISCONNECTED, "closed")
    assert shown(world, "closed") == ["state: disconnected: closed"]


async def test_a_bracket_that_never_arrived_is_told_once_and_forgotten(world: World) -> None:
    world.broker.fill_entries = False
    await world.start()
    await world.bar()
    (intent,) = world.broker.placed
    world.broker.become(ConnectionState.DISCONNECTED, "connection reset by peer")
    world.broker.listener.on_reconciled(dataclasses.replace(world.broker.snapshot, working_orders=()))
    world.broker.become(ConnectionState.READY, "")

    (line,) = shown(world, "order missing")
    assert f"ACME: entry, stop, target ({intent.entry_ref})" in line
    assert recorded(world, "order missing")
    await world.bar()
    assert [sent.intent_id for sent in world.broker.placed].count(intent.intent_id) == 1


async def test_where_rows_go_is_told_and_recorded_until_the_end(world: World) -> None:
    engine = await world.start()
    engine.on_recording("nothing listens at there; rows go to the spool")
    await world.stop()
    engine.on_recording("7 rows stay in the spool")

    assert recorded(world, "journal") == ["nothing listens at there; rows go to the spool"]
    assert shown(world, "journal:") == [
        "    ! journal: nothing listens at there; rows go to the spool",
        "journal: 7 rows stay in the spool",
    ]


async def test_an_entry_that_is_cancelled_unfilled_is_shown(world: World) -> None:
    world.broker.fill_entries = False
    await world.start()
    await world.bar()
    await world.bar()  # asks for the cancel of what the last bar sent
    (line,) = shown(world, "order ACME: Cancelled")
    assert "not filled" in line


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_screen_on_a_full_disk_loses_lines_and_nothing_else() -> None:
    with contextlib.suppress(OSError), Path("/dev/full").open("w", buffering=1) as full:  # closing fails too
        screen = Screen("never", full)
        screen.line("lost")
        screen.attention("lost too")
        reached = True
    assert reached
