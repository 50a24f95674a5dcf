from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fakes.similarity_index import state_arrays, write_index
from server_runtime.errors import StartError
from similarity_server.artifact import read_index

Array = NDArray[Any]
Change = Callable[[Array], Array]


def message_of(indexes: Path, name: str = "market_states", version: int = 0) -> str:
    with pytest.raises(StartError) as caught:
        read_index(indexes, name, version)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_an_index_that_is_not_there_is_named_with_where_it_was_sought(tmp_path: Path) -> None:
    assert f"no index 'market_states' in {tmp_path}" in message_of(tmp_path)
    (tmp_path / "market_states").mkdir()
    assert "has no numbered version folder" in message_of(tmp_path)


def test_a_version_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    write_index(tmp_path, state_arrays(5, 8))
    assert "has no version 3, only [1]" in message_of(tmp_path, version=3)


@pytest.mark.parametrize("name", ["../market_states", "..", "a/b", ".", ""])
def test_a_name_never_leaves_the_folder_of_indexes(tmp_path: Path, name: str) -> None:
    write_index(tmp_path, state_arrays(5, 8))
    assert "no index" in message_of(tmp_path / "market_states", name)


def test_a_damaged_file_does_not_match_its_card(tmp_path: Path) -> None:
    write_index(tmp_path, state_arrays(5, 8))
    path = tmp_path / "market_states" / "1" / "states.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "states.npz has sha256" in message_of(tmp_path)


@pytest.mark.parametrize("file", ["states.npz", "card.json"])
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    write_index(tmp_path, state_arrays(5, 8))
    (tmp_path / "market_states" / "1" / file).unlink()
    assert f"{file} cannot be read (No such file or directory)" in message_of(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]"])
def test_a_card_that_is_no_object_is_refused(tmp_path: Path, content: bytes) -> None:
    write_index(tmp_path, state_arrays(5, 8))
    (tmp_path / "market_states" / "1" / "card.json").write_bytes(content)
    assert "card.json" in message_of(tmp_path)


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ({"dimension": None}, "dimension must be a whole number"),
        ({"dimension": True}, "dimension must be a whole number"),
        ({"dimension": 9}, "embedding has shape (5, 8), its card says (5, 9)"),
        ({"state_count": 4}, "state_id has shape (5,), its card says (4,)"),
        ({"artifact_sha256": "xyz"}, "artifact_sha256 must be a SHA-256"),
        ({"horizon_bars": 0}, "horizon_bars must be a whole number from 1"),
        ({"embedding_model": None}, "embedding_model is no object"),
        ({"embedding_model": {"name": "m", "version": 1}}, "embedding_model.artifact_sha256 must be"),
        ({"name": "other"}, "says 'other' version 1 but lies in the folder of 'market_states' version 1"),
        ({"version": 2}, "says 'market_states' version 2 but lies in"),
    ],
)
def test_a_card_that_is_wrong_names_the_field(tmp_path: Path, card: dict[str, Any], words: str) -> None:
    write_index(tmp_path, state_arrays(5, 8), card=card)
    assert words in message_of(tmp_path)


def changed(**changes: Change) -> dict[str, Array]:
    arrays = state_arrays(5, 8)
    for name, change in changes.items():
        arrays[name] = change(arrays[name].copy())
    return arrays


def at_2(value: float) -> Change:
    def change(array: Array) -> Array:
        array[2] = value
        return array

    return change


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (changed(embedding=at_2(0)), "embedding is not finite with length 1 in row 2"),
        (changed(embedding=at_2(np.nan)), "embedding is not finite with length 1 in row 2"),
        (changed(symbol_id=at_2(3)), "symbol_id has no symbol in row 2"),
        (changed(symbol_id=at_2(-1)), "symbol_id has no symbol in row 2"),
        (changed(outcome_ns=at_2(0)), "outcome_ns is before event_ns in row 2"),
        (changed(bar_size_s=at_2(0)), "bar_size_s is not positive in row 2"),
        (changed(forward_return_bps=at_2(np.inf)), "forward_return_bps is not finite in row 2"),
        (changed(state_id=at_2(10)), "state_id is there twice in row 2"),
        (changed(con_id=lambda a: a.astype(np.float64)), "con_id has type float64"),
        (changed(symbols=lambda a: a.reshape(1, 3)), "symbols has shape (1, 3)"),
        ({k: v for k, v in state_arrays(5, 8).items() if k != "outcome_ns"}, "lacks the array 'outcome_ns'"),
    ],
)
def test_arrays_that_are_wrong_name_the_array_and_the_row(
    tmp_path: Path, arrays: dict[str, NDArray[Any]], words: str
) -> None:
    write_index(tmp_path, arrays)
    assert words in message_of(tmp_path)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    arrays = state_arrays(5, 8)
    arrays["symbols"] = np.array([{"a": 1}, None, 3], dtype=object)
    write_index(tmp_path, arrays)
    assert "is no archive of arrays" in message_of(tmp_path)


def test_rows_come_in_order_of_their_outcomes(tmp_path: Path) -> None:
    arrays = write_index(tmp_path, state_arrays(50, 8))
    _, table = read_index(tmp_path, "market_states")
    assert np.all(np.diff(table.outcome_ns) >= 0)
    assert sorted(table.state_id.tolist()) == sorted(arrays["state_id"].tolist())
