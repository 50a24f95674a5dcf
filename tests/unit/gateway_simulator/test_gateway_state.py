from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway_simulator import FaultError, StateError, WireError
from gateway_simulator.faults import Fault, read_faults
from gateway_simulator.replay import Replay
from gateway_simulator.state import StateFile
from gateway_simulator.wire import FieldReader, encode, parse_versions, split

FLAT = (100.0, 100.02, 50.0)


def restored(path: Path, desk: Callable[..., Any]) -> Any:
    replay = Replay(desk(FLAT).replay.session)
    return StateFile(path).load(replay, "DU1", 1_000_000)


def test_a_restart_has_everything_a_client_was_told(desk: Callable[..., Any], tmp_path: Path) -> None:
    one = desk(FLAT)
    one.bracket(80, limit=100.02, profit=103.0, stop=99.0)
    one.step(3)
    path = tmp_path / "state.json"
    StateFile(path).save(one.exchange)
    again = restored(path, desk)
    assert again.orders == one.exchange.orders
    assert again.executions == one.exchange.executions
    assert again.account.cash == one.exchange.account.cash
    assert again.account.holdings == one.exchange.account.holdings
    assert again.replay.moves == one.replay.moves
    assert again.replay.now_ns == one.replay.now_ns
    assert again.next_id(7) == one.exchange.next_id(7)


def test_ids_go_on_after_a_restart(desk: Callable[..., Any], tmp_path: Path) -> None:
    one = desk(FLAT)
    first = one.place("BUY", 10)
    path = tmp_path / "state.json"
    StateFile(path).save(one.exchange)
    one.exchange = restored(path, desk)
    second = one.place("BUY", 10)
    assert second.perm_id == first.perm_id + 1
    assert len({one.exec_id for one in one.exchange.executions}) == 2


def test_fresh_starts_do_not_share_permanent_ids(desk: Callable[..., Any]) -> None:
    replay = desk(FLAT).replay
    starts = [StateFile(None).load(replay, "DU1", 1.0) for _ in range(5)]
    assert len({one.next_perm_id for one in starts}) == 5
    assert len({one.exec_prefix for one in starts}) == 5


def test_a_state_file_of_another_session_is_refused(desk: Callable[..., Any], tmp_path: Path) -> None:
    one = desk(FLAT)
    path = tmp_path / "state.json"
    StateFile(path).save(one.exchange)
    path.write_bytes(path.read_bytes().replace(b'"fingerprint":"test"', b'"fingerprint":"other"'))
    with pytest.raises(StateError, match="another session"):
        restored(path, desk)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format":1,"fingerprint":"test"}'])
def test_a_damaged_state_file_says_what_to_do(
    desk: Callable[..., Any], tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with pytest.raises(StateError, match=r"delete it|another --state-file"):
        restored(path, desk)


def test_a_fault_script_is_read(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    path.write_text('[{"at_bar": 3, "kind": "1100"}, {"at_bar": 5, "kind": "reject_orders", "value": 2}]')
    assert read_faults(path, ["A"]) == (Fault(3, "1100"), Fault(5, "reject_orders", 2))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "not JSON"),
        ("{}", "must be a JSON list"),
        ('["x"]', "fault 0: must be an object"),
        ('[{"at_bar": 0, "kind": "flood"}]', "fault 0: kind must be one of"),
        ('[{"at_bar": -1, "kind": "1100"}]', "fault 0: at_bar"),
        ('[{"at_bar": 0, "kind": "1100", "when": 1}]', "unknown key 'when'"),
        ('[{"at_bar": 0, "kind": "stall_ms"}]', "stall_ms needs a value"),
        ('[{"at_bar": 0, "kind": "halt", "symbol": "B"}]', "halt needs a symbol of the session"),
    ],
)
def test_a_bad_fault_is_named(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "faults.json"
    path.write_text(text)
    with pytest.raises(FaultError, match=named):
        read_faults(path, ["A"])


def test_fields_survive_the_wire() -> None:
    frame = encode(4, 2, "AÖ", 1.5, True, False, "")
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    assert split(frame[4:]) == ["4", "2", "AÖ", "1.5", "1", "0", ""]


@pytest.mark.parametrize("body", [b"no end", b"\xff\0"])
def test_a_body_that_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        split(body)


def test_a_request_that_is_too_short_is_refused() -> None:
    with pytest.raises(WireError, match="has only 2 fields"):
        FieldReader(["9", "8"]).skip(3)


def test_unset_numbers_are_none() -> None:
    assert FieldReader(["1.7976931348623157E308"]).number() is None
    assert FieldReader([""]).number() is None
    assert FieldReader(["2147483647"]).integer() == 0


@pytest.mark.parametrize(
    ("text", "versions"), [("v157..176", (157, 176)), ("v100..178 +PACEAPI", (100, 178))]
)
def test_version_ranges_are_read(text: str, versions: tuple[int, int]) -> None:
    assert parse_versions(text) == versions


def test_a_version_range_that_is_none_is_refused() -> None:
    with pytest.raises(WireError, match="unreadable version range"):
        parse_versions("hello")
