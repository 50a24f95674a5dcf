"""Read an index from disk: `<indexes>/<name>/<version>/{card.json, states.npz}`, verified.

`snapshot` keeps what is built of it beside it.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server_runtime.errors import StartError
from similarity_server.states import StateTable

_MAX_DIMENSION = 16_384
_MAX_STATEMENT_CHARACTERS = 1000
# A float16 embedding of length 1 is off by less than this.
_NORM_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True)
class Provenance:
    """What made an artifact.

    Attributes:
        name: Name of the model or index.
        version: Its numbered folder.
        artifact_sha256: 32 bytes.
        export_commit: Git commit of the exporter, 40 hexadecimal digits; empty when unknown.
    """

    name: str
    version: int
    artifact_sha256: bytes
    export_commit: str


@dataclass(frozen=True, slots=True)
class IndexCard:
    """What card.json says of an index.

    Attributes:
        provenance: The index itself.
        embedding_model: The model whose embeddings it holds.
        dimension: Length of every embedding.
        horizon_bars: How many bars ahead the forward returns look.
        as_of_ns: Latest event in it, nanoseconds UTC.
        state_count: Number of states.
        statement: On skill, in plain words; "" when the card has none.
    """

    provenance: Provenance
    embedding_model: Provenance
    dimension: int
    horizon_bars: int
    as_of_ns: int
    state_count: int
    statement: str = ""


def read_index(indexes: Path, name: str, version: int = 0) -> tuple[IndexCard, StateTable]:
    """Read and verify one index.

    Args:
        indexes: Folder of all indexes.
        name: Name of the index.
        version: Its version; 0 takes the highest.

    Raises:
        StartError: It is missing or does not match its card; the message names file and field.
    """
    folder, card = read_card(indexes, name, version)
    return card, read_states(folder / "states.npz", card)


def read_card(indexes: Path, name: str, version: int = 0) -> tuple[Path, IndexCard]:
    """Return the folder of one index and what its card says.

    Args:
        indexes: Folder of all indexes.
        name: Name of the index.
        version: Its version; 0 takes the highest.

    Raises:
        StartError: It is missing or its card is wrong; the message names file and field.
    """
    folder = _version_folder(indexes, name, version)
    return folder, _read_card(folder / "card.json", name, int(folder.name))


def _version_folder(indexes: Path, name: str, version: int) -> Path:
    advice = "build it with `make models`, or point --indexes at the folder that holds it"
    parent = indexes / name
    # A name is one folder, never a path out of the folder of indexes.
    if name in ("", ".", "..") or "/" in name or not parent.is_dir():
        raise StartError(f"no index {name!r} in {indexes}: {advice}", 2)
    found = sorted(int(p.name) for p in parent.iterdir() if p.name.isdecimal() and p.is_dir())
    if not found:
        raise StartError(f"index {name!r} in {indexes} has no numbered version folder: {advice}", 2)
    if version and version not in found:
        raise StartError(f"index {name!r} in {indexes} has no version {version}, only {found}: {advice}", 2)
    return parent / str(version or found[-1])


def _read_card(path: Path, name: str, version: int) -> IndexCard:
    try:
        content = json.loads(path.read_bytes())
    except OSError as e:
        raise StartError(f"{path} cannot be read ({e.strerror or e}): {_REBUILD}", 2) from e
    except ValueError as e:
        raise StartError(f"{path} is not JSON ({e}): {_REBUILD}", 2) from e
    fields = _Fields(path, content)
    card = IndexCard(
        provenance=_provenance(fields),
        embedding_model=_provenance(fields.inner("embedding_model")),
        dimension=fields.whole("dimension", 1, _MAX_DIMENSION),
        horizon_bars=fields.whole("horizon_bars", 1, 1_000_000),
        as_of_ns=fields.whole("as_of_ns", 0, 2**63 - 1),
        state_count=fields.whole("state_count", 1, 2**31 - 1),
        statement=fields.text("statement", "")[:_MAX_STATEMENT_CHARACTERS],
    )
    if (card.provenance.name, card.provenance.version) != (name, version):
        stated = f"{card.provenance.name!r} version {card.provenance.version}"
        raise StartError(
            f"{path} says {stated} but lies in the folder of {name!r} version {version}: {_REBUILD}", 2
        )
    return card


def _provenance(fields: "_Fields") -> Provenance:
    return Provenance(
        name=fields.text("name"),
        version=fields.whole("version", 1, 2**63 - 1),
        artifact_sha256=fields.sha256("artifact_sha256"),
        export_commit=fields.text("export_commit", ""),
    )


_REBUILD = "build the index again with `make models`, or restore the file"
_ARRAYS: Mapping[str, str] = {
    "state_id": "i",
    "embedding": "f",
    "con_id": "i",
    "symbol_id": "i",
    "symbols": "U",
    "event_ns": "i",
    "outcome_ns": "i",
    "bar_size_s": "i",
    "forward_return_bps": "f",
}


def read_states(path: Path, card: IndexCard) -> StateTable:
    """Read and verify the states of an index, in ascending order of outcome_ns.

    Raises:
        StartError: The file is damaged or does not match the card; the message names array and row.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        if digest != card.provenance.artifact_sha256:
            raise StartError(
                f"{path} has sha256 {digest.hex()[:16]}… but its card.json says "
                f"{card.provenance.artifact_sha256.hex()[:16]}…: {_REBUILD}", 2
            )  # fmt: skip
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in _ARRAYS if key in archive}
    except OSError as e:
        raise StartError(f"{path} cannot be read ({e.strerror or e}): {_REBUILD}", 2) from e
    except (ValueError, zipfile.BadZipFile, EOFError) as e:
        raise StartError(f"{path} is no archive of arrays ({e}): {_REBUILD}", 2) from e
    _check_shapes(path, arrays, card)
    return _table(path, arrays)


def _check_shapes(path: Path, arrays: Mapping[str, NDArray[Any]], card: IndexCard) -> None:
    for name, kind in _ARRAYS.items():
        if name not in arrays:
            raise StartError(f"{path} lacks the array {name!r}: {_REBUILD}", 2)
        array = arrays[name]
        if array.dtype.kind != kind:
            raise StartError(
                f"{path}: {name} has type {array.dtype}, not one of kind {kind!r}: {_REBUILD}", 2
            )
        expected: tuple[int, ...] = (card.state_count,)
        if name == "embedding":
            expected = (card.state_count, card.dimension)
        if name == "symbols":
            expected = (len(array),) if array.ndim == 1 else (0,)
        if array.shape != expected:
            raise StartError(
                f"{path}: {name} has shape {array.shape}, its card says {expected}: {_REBUILD}", 2
            )


def _table(path: Path, arrays: Mapping[str, NDArray[Any]]) -> StateTable:
    embedding = arrays["embedding"].astype(np.float32)
    norms = np.linalg.norm(embedding, axis=1)
    _check_rows(path, "embedding is not finite with length 1", ~(np.abs(norms - 1.0) <= _NORM_TOLERANCE))
    symbols = arrays["symbols"]
    symbol_id = arrays["symbol_id"]
    _check_rows(path, "symbol_id has no symbol", (symbol_id < 0) | (symbol_id >= len(symbols)))
    _check_rows(path, "outcome_ns is before event_ns", arrays["outcome_ns"] < arrays["event_ns"])
    _check_rows(path, "bar_size_s is not positive", arrays["bar_size_s"] <= 0)
    _check_rows(path, "forward_return_bps is not finite", ~np.isfinite(arrays["forward_return_bps"]))
    state_id = arrays["state_id"].astype(np.int64)
    order = np.argsort(state_id, kind="stable")
    _check_rows(
        path, "state_id is there twice", np.diff(state_id[order], prepend=state_id[order[0]] - 1) == 0, order
    )
    # Time order makes "outcome known before" a prefix, which FAISS searches without a filter per row.
    by_time = np.argsort(arrays["outcome_ns"], kind="stable")
    return StateTable(
        state_id=state_id[by_time],
        embedding=np.ascontiguousarray((embedding / norms[:, None])[by_time]),
        con_id=arrays["con_id"].astype(np.int64)[by_time],
        symbol_id=symbol_id.astype(np.int32)[by_time],
        symbols=tuple(symbols.tolist()),
        event_ns=arrays["event_ns"].astype(np.int64)[by_time],
        outcome_ns=arrays["outcome_ns"].astype(np.int64)[by_time],
        bar_ns=arrays["bar_size_s"].astype(np.int64)[by_time] * 1_000_000_000,
        forward_return_bps=arrays["forward_return_bps"].astype(np.float32)[by_time],
    )


def _check_rows(path: Path, what: str, bad: NDArray[np.bool_], rows: NDArray[np.int64] | None = None) -> None:
    if bad.any():
        at = int(np.argmax(bad))
        row = at if rows is None else int(rows[at])
        raise StartError(f"{path}: {what} in row {row} (and {int(bad.sum()) - 1} more): {_REBUILD}", 2)


class _Fields:
    """Reads typed fields of a card, naming the one that is wrong."""

    def __init__(self, path: Path, content: object, prefix: str = "") -> None:
        if not isinstance(content, dict):
            raise StartError(f"{path}: {prefix.rstrip('.') or 'the content'} is no object: {_REBUILD}", 2)
        self._path, self._content, self._prefix = path, content, prefix

    def inner(self, key: str) -> "_Fields":
        return _Fields(self._path, self._content.get(key), f"{self._prefix}{key}.")

    def text(self, key: str, default: str | None = None) -> str:
        value = self._content.get(key, default)
        if not isinstance(value, str) or (not value and default is None):
            raise self._wrong(key, "a text", value)
        return value

    def whole(self, key: str, low: int, high: int) -> int:
        value = self._content.get(key)
        # Cards of Triton models quote their numbers.
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self._wrong(key, f"a whole number from {low} to {high}", value)
        return value

    def sha256(self, key: str) -> bytes:
        value = self._content.get(key)
        try:
            digest = bytes.fromhex(value) if isinstance(value, str) else b""
        except ValueError:
            digest = b""
        if len(digest) != 32:
            raise self._wrong(key, "a SHA-256 of 64 hexadecimal digits", value)
        return digest

    def _wrong(self, key: str, expected: str, value: object) -> StartError:
        return StartError(
            f"{self._path}: {self._prefix}{key} must be {expected}, not {value!r}: {_REBUILD}", 2
        )
