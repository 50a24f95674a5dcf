"""Inputs for models from files: .npy, .npz, .csv and JSON; or made up."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from tradeserve_cli.arguments import UsageError
from tradeserve_client.contract import TensorSpec
from tradeserve_client.tensors import DTYPES

MAX_FILE_BYTES = 64 * 1024 * 1024

_BAR_COLUMNS = 5


def read_arrays(path: Path, names: Sequence[str]) -> Mapping[str, NDArray[Any]]:
    """Read a file that holds one array, or several by name (.npz, a JSON object).

    Args:
        path: .npy, .npz, .csv or .json.
        names: Of the model's inputs; a file with one array is that of the only one.

    Raises:
        UsageError: The file can't be read, or holds something else.
    """
    content = _read(path)
    if isinstance(content, Mapping):
        unknown = sorted(set(content) - set(names))
        if unknown:
            raise UsageError(f"{path}: holds {unknown[0]!r}; the model's inputs are {', '.join(names)}")
        return content
    if len(names) != 1:
        raise UsageError(
            f"{path}: holds one array, but the model has the inputs {', '.join(names)}: "
            "give NAME=FILE for each, or an .npz or a JSON object with these names"
        )
    return {names[0]: content}


def read_array(path: Path) -> NDArray[Any]:
    """Read a file that holds one array.

    Raises:
        UsageError: The file can't be read, or holds something else.
    """
    content = _read(path)
    if isinstance(content, Mapping):
        if len(content) != 1:
            raise UsageError(f"{path}: holds {', '.join(content) or 'nothing'}; one array is wanted")
        content = next(iter(content.values()))
    return content


def fitted(array: NDArray[Any], spec: TensorSpec, where: object) -> NDArray[Any]:
    """Return an array as a model wants it: its dtype, and a batch of one where the batch is missing.

    Raises:
        UsageError: The shape is another, or values do not survive the conversion.
    """
    dtype = DTYPES.get(spec.dtype)
    if dtype is None:
        raise UsageError(f"input {spec.name!r} has dtype {spec.dtype}, which this command can't send")
    if array.ndim == len(spec.shape) - 1:
        array = array[np.newaxis]
    agree = array.ndim == len(spec.shape) and all(
        wanted in (-1, length) for wanted, length in zip(spec.shape, array.shape, strict=True)
    )
    if not agree or not array.size:
        raise UsageError(
            f"{where}: input {spec.name!r} has shape {list(array.shape)}, the model wants {list(spec.shape)}"
        )
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_):
        raise UsageError(f"{where}: input {spec.name!r} holds {array.dtype}, not numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        converted = np.ascontiguousarray(array, dtype)
    exact = np.issubdtype(dtype, np.floating) or np.array_equal(converted, array)
    if not exact or bool(np.isfinite(array).all()) != bool(np.isfinite(converted).all()):
        raise UsageError(f"{where}: input {spec.name!r} has values that {spec.dtype} can't hold")
    return converted


def made_up(spec: TensorSpec, seed: int) -> NDArray[Any]:
    """Return made-up values: a random walk of bars for a window of five columns, else noise.

    Raises:
        UsageError: The shape is open beyond the batch.
    """
    dtype = DTYPES.get(spec.dtype)
    shape = (1, *spec.shape[1:]) if spec.shape and spec.shape[0] == -1 else spec.shape
    if dtype is None or -1 in shape:
        raise UsageError(f"--random: input {spec} has no fixed shape of numbers: give it as a file")
    dice = np.random.default_rng(seed)
    if spec.name == "window" and len(shape) == 3 and shape[2] == _BAR_COLUMNS:
        return _bars(dice, shape[0], shape[1]).astype(dtype)
    if np.issubdtype(dtype, np.floating):
        return dice.standard_normal(shape).astype(dtype)
    return dice.integers(0, 2 if dtype == np.bool_ else 10, shape).astype(dtype)


def _bars(dice: np.random.Generator, batch: int, bars: int) -> NDArray[np.float64]:
    """Return (batch, bars, 5) open, high, low, close, volume, as a price could move."""
    closes = 100 * np.exp(np.cumsum(dice.normal(0, 1e-3, (batch, bars)), axis=1))
    opens = np.concatenate((np.full((batch, 1), 100.0), closes[:, :-1]), axis=1)
    spread = np.abs(dice.normal(0, 0.02, (batch, bars)))
    highs, lows = np.maximum(opens, closes) + spread, np.minimum(opens, closes) - spread
    return np.stack([opens, highs, lows, closes, dice.uniform(1e3, 1e5, (batch, bars))], axis=2)


def _read(path: Path) -> NDArray[Any] | Mapping[str, NDArray[Any]]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(f"{path}: is larger than {MAX_FILE_BYTES // 2**20} MiB")
        match path.suffix.lower():
            case ".npy":
                array: NDArray[Any] = np.load(path, allow_pickle=False)
                return array
            case ".npz":
                with np.load(path, allow_pickle=False) as arrays:
                    return dict(arrays)
            case ".csv":
                return _csv(path)
            case ".json":
                return _json(json.loads(path.read_text()), path)
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror or error}") from error
    except (ValueError, EOFError, RecursionError, csv.Error, BadZipFile) as error:
        raise UsageError(f"{path}: is not a {path.suffix} file: {error}") from error
    raise UsageError(f"{path}: unknown kind of file: give .npy, .npz, .csv or .json")


def _csv(path: Path) -> NDArray[np.float64]:
    with path.open(newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    first = 1 if rows and not _are_numbers(rows[0]) else 0  # a header
    for number, row in enumerate(rows[first:], first + 1):
        if len(row) != len(rows[-1]) or not _are_numbers(row):
            raise UsageError(f"{path}: row {number}: {','.join(row)[:60]!r} is not {len(rows[-1])} numbers")
    if len(rows) == first:
        raise UsageError(f"{path}: holds no row of numbers")
    return np.array([[float(cell) for cell in row] for row in rows[first:]])


def _are_numbers(cells: Sequence[str]) -> bool:
    try:
        return bool([float(cell) for cell in cells])
    except ValueError:
        return False


def _json(content: Any, path: Path) -> NDArray[Any] | Mapping[str, NDArray[Any]]:
    if isinstance(content, dict):
        return {str(name): _numbers(values, f"{path}: {name}") for name, values in content.items()}
    return _numbers(content, str(path))


def _numbers(values: Any, where: str) -> NDArray[Any]:
    try:
        array = np.array(values)
    except ValueError as error:
        raise UsageError(f"{where}: the lists differ in length") from error
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_):
        raise UsageError(f"{where}: holds something else than numbers")
    return array
