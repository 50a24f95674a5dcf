from __future__ import annotations

from pathlib import Path

import pytest

from strategy.ports import ConnectionState
from strategy.trading_state import StateError, TradingGate, TradingState


@pytest.fixture
def changes() -> list[tuple[TradingState, str]]:
    return []


@pytest.fixture
def gate(tmp_path: Path, changes: list[tuple[TradingState, str]]) -> TradingGate:
    return TradingGate(tmp_path / "deep" / "killed.json", lambda *change: changes.append(change))


def ready(gate: TradingGate) -> None:
    gate.connection(ConnectionState.READY, "")
    gate.started()


def test_nothing_is_entered_before_the_start_is_complete(gate: TradingGate) -> None:
    assert not gate.may_enter
    gate.connection(ConnectionState.READY, "")
    assert not gate.may_enter
    gate.started()
    assert gate.may_enter
    assert gate.reason == ""


@pytest.mark.parametrize(
    "state", [ConnectionState.CONNECTING, ConnectionState.RECONCILING, ConnectionState.DISCONNECTED]
)
def test_without_a_reconciled_connection_nothing_goes_out(gate: TradingGate, state: ConnectionState) -> None:
    ready(gate)
    gate.connection(state, "1100 connectivity lost")
    assert (gate.state, gate.reason) == (TradingState.DISCONNECTED, "1100 connectivity lost")
    assert not gate.may_enter
    assert not gate.may_exit


def test_a_pause_stops_entries_and_allows_exits(gate: TradingGate) -> None:
    ready(gate)
    gate.pause("")
    assert (gate.state, gate.may_enter, gate.may_exit) == (TradingState.PAUSED, False, True)
    gate.resume()
    assert gate.may_enter


def test_a_halt_is_not_resumed(gate: TradingGate) -> None:
    ready(gate)
    gate.halt("drawdown")
    gate.halt("another reason comes later")
    assert gate.reason == "drawdown"
    with pytest.raises(StateError, match="halted \\(drawdown\\)"):
        gate.resume()


def test_a_kill_is_latched_until_reset_and_then_paused(gate: TradingGate, tmp_path: Path) -> None:
    ready(gate)
    gate.kill("fat finger")
    again = TradingGate(tmp_path / "deep" / "killed.json", lambda *_: None)
    ready(again)
    assert (again.state, again.reason) == (TradingState.KILLED, "fat finger")
    with pytest.raises(StateError, match="reset the kill switch first"):
        again.resume()
    again.reset_kill()
    assert again.state is TradingState.PAUSED
    assert not TradingGate(tmp_path / "deep" / "killed.json", lambda *_: None).killed


def test_a_kill_is_not_reset_while_the_brokers_state_is_unknown(gate: TradingGate) -> None:
    gate.kill("drill")
    with pytest.raises(StateError, match="not reconciled"):
        gate.reset_kill()


def test_an_unreadable_latch_counts_as_a_kill(tmp_path: Path) -> None:
    (tmp_path / "killed.json").write_text("{")
    gate = TradingGate(tmp_path / "killed.json", lambda *_: None)
    assert gate.killed
    assert "delete it to reset" in gate.reason


def test_a_disk_that_is_full_does_not_keep_a_kill_from_stopping(tmp_path: Path) -> None:
    gate = TradingGate(tmp_path / "file" / "killed.json", lambda *_: None)
    (tmp_path / "file").touch()
    ready(gate)
    gate.kill("drill")
    assert gate.killed
    assert "a restart will NOT stay killed" in gate.reason


def test_each_change_is_told_once(gate: TradingGate, changes: list[tuple[TradingState, str]]) -> None:
    ready(gate)
    gate.connection(ConnectionState.READY, "")
    gate.pause("lunch")
    gate.pause("lunch")
    assert [state for state, _ in changes] == [
        TradingState.STARTING,
        TradingState.TRADING,
        TradingState.PAUSED,
    ]
