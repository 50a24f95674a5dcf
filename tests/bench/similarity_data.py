"""The index that the similarity section searches: many clustered states, built once and kept.

Run as a program, so that the memory that building takes is not the benchmark's:
`python tests/bench/similarity_data.py --folder build/bench-cache/similarity`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server_runtime import logs
from similarity_server import building, snapshot
from similarity_server.artifact import read_card
from similarity_server.kinds import AUTO, choose
from similarity_server.loading import snapshots_of
from similarity_server.states import StateTable

INDEX = "clustered"
DIMENSION = 128
START_NS = 1_500_000_000_000_000_000
MINUTE_NS = 60_000_000_000
CON_IDS = 200
_STATES_PER_CLUSTER = 250
_NOISE = 0.65  # the cosine of two members of a cluster is about 1 / (1 + noise^2) = 0.7
_SEED = 11
_BLOCK = 50_000


def centers(states: int) -> NDArray[np.float32]:
    """Return the centers of the clusters of so many states, (n, 128) float32."""
    count = max(1, states // _STATES_PER_CLUSTER)
    return np.random.default_rng(_SEED).standard_normal((count, DIMENSION)).astype(np.float32)


def members(of: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Draw members of clusters, (count, 128) float32 of length 1."""
    rng = np.random.default_rng(seed)
    drawn = np.empty((count, DIMENSION), dtype=np.float32)
    for first in range(0, count, _BLOCK):
        last = min(count, first + _BLOCK)
        block = of[rng.integers(0, len(of), last - first)]
        block += _NOISE * rng.standard_normal(block.shape, dtype=np.float32)
        drawn[first:last] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return drawn


def table(states: int) -> StateTable:
    """Return the states: one a minute, of 200 instruments."""
    rng = np.random.default_rng(_SEED + 1)
    event_ns = START_NS + np.arange(states, dtype=np.int64) * MINUTE_NS
    return StateTable(
        state_id=np.arange(1, states + 1, dtype=np.int64),
        embedding=members(centers(states), states, _SEED + 2),
        con_id=rng.integers(1, CON_IDS + 1, states),
        symbol_id=np.zeros(states, dtype=np.int32),
        symbols=("TEST",),
        event_ns=event_ns,
        outcome_ns=event_ns + 6 * MINUTE_NS,
        bar_ns=np.full(states, MINUTE_NS),
        forward_return_bps=rng.normal(0, 30, states).astype(np.float32),
    )


def prepare(folder: Path, states: int) -> Path:
    """Build the index unless it is there.

    Args:
        folder: Of the indexes that are kept; one per number of states.
        states: Number of states.

    Returns:
        The folder of indexes to serve from.
    """
    kind = choose(states, DIMENSION, AUTO)
    key = f"{states}x{DIMENSION}-{kind.codes or kind}-{kind.nprobe}-{kind.k_factor}-v{snapshot.FORMAT}"
    indexes = folder / key.replace(",", "-")
    version = indexes / INDEX / "1"
    if (snapshots_of(version) / "complete").exists():
        return indexes
    version.mkdir(parents=True, exist_ok=True)
    digest = "ab" * 32
    card = {
        "name": INDEX, "version": 1, "dimension": DIMENSION, "horizon_bars": 6, "artifact_sha256": digest,
        "embedding_model": {"name": "synthetic", "version": 1, "artifact_sha256": digest},
        "as_of_ns": START_NS + states * MINUTE_NS, "state_count": states, "statement": "Synthetic.",
    }  # fmt: skip
    (version / "card.json").write_text(json.dumps(card))
    _, read = read_card(indexes, INDEX)
    began = time.monotonic()
    main = building.build(table(states), kind)
    snapshot.write(snapshots_of(version), read, main)
    facts = {
        "seconds": round(time.monotonic() - began, 1),
        "kind": str(main.kind),
        "recall": main.recall_at_10,
    }
    (snapshots_of(version) / "complete").write_text(json.dumps(facts))
    return indexes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build the index of the similarity benchmark.")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--states", type=int, default=1_000_000)
    arguments = parser.parse_args()
    logs.configure("bench", json=False, stream=sys.stderr, level="warning")
    os.nice(10)
    print(prepare(arguments.folder, arguments.states))
