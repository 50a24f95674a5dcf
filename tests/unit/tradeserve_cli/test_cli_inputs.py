from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tradeserve_cli.arguments import UsageError
from tradeserve_cli.inputs import fitted, made_up, read_array, read_arrays
from tradeserve_client.contract import TensorSpec

WINDOW = TensorSpec("window", "FP32", (-1, 60, 5))


def write(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def test_an_array_reads_the_same_from_every_kind_of_file(tmp_path: Path) -> None:
    wanted = np.array([[1.5, 2.0], [3.0, -4.0]])
    np.save(tmp_path / "a.npy", wanted)
    np.savez(tmp_path / "b.npz", x=wanted)
    write(tmp_path / "c.csv", "low,high\n1.5,2\n3,-4\n")
    write(tmp_path / "d.csv", "1.5,2\n\n3,-4\n")
    write(tmp_path / "e.json", "[[1.5, 2], [3, -4]]")
    write(tmp_path / "f.json", '{"x": [[1.5, 2], [3, -4]]}')
    for name in ("a.npy", "b.npz", "c.csv", "d.csv", "e.json", "f.json"):
        np.testing.assert_array_equal(read_array(tmp_path / name), wanted, err_msg=name)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.csv", "1,2\n3\n", "row 1: '1,2' is not 1 numbers"),
        ("x.csv", "a,b\n1,2\nx,3\n", "row 3: 'x,3' is not 2 numbers"),
        ("x.csv", "a,b\n", "holds no row of numbers"),
        ("x.csv", "", "holds no row of numbers"),
        ("x.json", "[[1], [2, 3]]", "the lists differ in length"),
        ("x.json", '["a"]', "holds something else than numbers"),
        ("x.json", "[1,", "is not a .json file"),
        ("x.json", "[" * 100_000, "is not a .json file"),
        ("x.npy", "[1]", "is not a .npy file"),
        ("x.npz", "[1]", "is not a .npz file"),
        ("x.txt", "1", "unknown kind of file: give .npy, .npz, .csv or .json"),
    ],
)
def test_a_file_that_is_something_else_is_named_with_what_is_wrong(
    tmp_path: Path, name: str, content: str, words: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(UsageError) as raised:
        read_array(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert words in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.npy: can't be read: No such file"):
        read_array(tmp_path / "nowhere.npy")


def test_an_array_of_objects_is_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(UsageError, match=r"is not a \.npy file"):
        read_array(tmp_path / "x.npy")


def test_several_inputs_come_by_name_and_an_unknown_name_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", json.dumps({"a": [1], "b": [2.5]}))
    assert set(read_arrays(path, ("a", "b"))) == {"a", "b"}
    with pytest.raises(UsageError, match=r"holds 'b'; the model's inputs are a"):
        read_arrays(path, ("a",))
    with pytest.raises(UsageError, match="holds one array, but the model has the inputs a, b"):
        read_arrays(write(tmp_path / "y.json", "[1]"), ("a", "b"))


def test_an_input_gets_the_models_dtype_and_the_batch_that_is_missing() -> None:
    array = fitted(np.ones((60, 5)), WINDOW, "file")
    assert array.dtype == np.float32
    assert array.shape == (1, 60, 5)
    assert fitted(np.array([[1.0, 2.0]]), TensorSpec("x", "INT64", (-1, 2)), "file").dtype == np.int64


@pytest.mark.parametrize(
    ("values", "spec", "words"),
    [
        (
            np.ones((59, 5)),
            WINDOW,
            r"file: input 'window' has shape \[1, 59, 5\], the model wants \[-1, 60, 5\]",
        ),
        (np.ones((0, 60, 5)), WINDOW, r"has shape \[0, 60, 5\]"),
        (np.array([[1.5]]), TensorSpec("x", "INT64", (-1, 1)), "values that INT64 can't hold"),
        (np.array([[300]]), TensorSpec("x", "UINT8", (-1, 1)), "values that UINT8 can't hold"),
        (np.array([[np.nan]]), TensorSpec("x", "INT32", (-1, 1)), "values that INT32 can't hold"),
        (np.array([[1e300]]), TensorSpec("x", "FP32", (-1, 1)), "values that FP32 can't hold"),
        (np.array([["a"]]), TensorSpec("x", "FP32", (-1, 1)), "not numbers"),
        (np.array([[1]]), TensorSpec("x", "BYTES", (-1, 1)), "has dtype BYTES"),
    ],
)
def test_an_input_that_does_not_fit_is_refused_in_words(
    values: np.ndarray[Any, Any], spec: TensorSpec, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        fitted(values, spec, "file")


def test_made_up_bars_are_bars_and_the_seed_makes_them_again() -> None:
    window = made_up(WINDOW, 3)
    opens, highs, lows, closes, volumes = np.moveaxis(window[0], 1, 0)
    assert window.shape == (1, 60, 5)
    assert window.dtype == np.float32
    assert (highs >= np.maximum(opens, closes)).all()
    assert (lows > 0).all()
    assert (lows <= np.minimum(opens, closes)).all()
    assert (volumes > 0).all()
    np.testing.assert_array_equal(window, made_up(WINDOW, 3))
    assert not np.array_equal(window, made_up(WINDOW, 4))


def test_other_inputs_are_made_up_by_their_dtype_and_open_shapes_are_refused() -> None:
    assert made_up(TensorSpec("x", "INT32", (-1, 3)), 0).dtype == np.int32
    assert made_up(TensorSpec("x", "BOOL", (-1, 3)), 0).dtype == np.bool_
    with pytest.raises(UsageError, match="give it as a file"):
        made_up(TensorSpec("x", "FP32", (-1, -1)), 0)
