"""Write a small synthetic index to disk, in the format that the exporter writes."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

START_NS = 1_600_000_000_000_000_000
HOUR_NS = 3_600_000_000_000


def unit_vectors(rng: np.random.Generator, count: int, dimension: int) -> NDArray[np.float32]:
    """Return (count, dimension) float32 vectors of length 1."""
    vectors = rng.standard_normal((count, dimension)).astype(np.float32)
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def state_arrays(count: int = 500, dimension: int = 128, seed: int = 1) -> dict[str, NDArray[Any]]:
    """Return the arrays of states.npz; rows are in no order of time."""
    rng = np.random.default_rng(seed)
    event_ns = START_NS + rng.permutation(count).astype(np.int64) * HOUR_NS
    return {
        "state_id": (np.arange(count, dtype=np.int64) + 1) * 10,
        "embedding": unit_vectors(rng, count, dimension).astype(np.float16),
        "con_id": rng.integers(1, 4, count).astype(np.int64),
        "symbol_id": rng.integers(0, 3, count).astype(np.int32),
        "symbols": np.array(["AAA", "BBB", "CCC"]),
        "event_ns": event_ns,
        "outcome_ns": event_ns + 6 * HOUR_NS,
        "bar_size_s": np.full(count, 3600, dtype=np.int32),
        "forward_return_bps": rng.normal(0, 30, count).astype(np.float32),
    }


def write_index(
    indexes: Path,
    arrays: dict[str, NDArray[Any]] | None = None,
    *,
    name: str = "market_states",
    version: int = 1,
    card: dict[str, Any] | None = None,
) -> dict[str, NDArray[Any]]:
    """Write `<indexes>/<name>/<version>/{states.npz,card.json}` and return the arrays.

    Args:
        indexes: Folder of all indexes.
        arrays: What states.npz holds; 500 synthetic states when None.
        name: Name of the index.
        version: Its version.
        card: Fields of card.json to replace; None as a value removes the field.
    """
    arrays = state_arrays() if arrays is None else arrays
    folder = indexes / name / str(version)
    folder.mkdir(parents=True)
    with (folder / "states.npz").open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    embedding = arrays.get("embedding", np.empty((1, 1)))
    content: dict[str, Any] = {
        "name": name,
        "version": version,
        "dimension": int(embedding.shape[-1]),
        "horizon_bars": 6,
        "embedding_model": {"name": "gaf_resnet", "version": 1, "artifact_sha256": "ab" * 32},
        "artifact_sha256": hashlib.sha256((folder / "states.npz").read_bytes()).hexdigest(),
        "export_commit": "0" * 40,
        "as_of_ns": int(arrays["event_ns"].max()) if "event_ns" in arrays else START_NS,
        "state_count": int(embedding.shape[0]),
        "data": "synthetic",
        "statement": "Random vectors, for tests only.",
        **(card or {}),
    }
    kept = {key: value for key, value in content.items() if value is not None}
    (folder / "card.json").write_text(json.dumps(kept), encoding="utf-8")
    return arrays
