from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fakes.similarity_index import HOUR_NS, START_NS, unit_vectors
from similarity_server.artifact import IndexCard, Provenance
from similarity_server.states import StateTable

MakeTable = Callable[..., StateTable]
MakeCard = Callable[[StateTable], IndexCard]


@pytest.fixture
def make_table() -> MakeTable:
    """Make a table of clustered states; state_id counts from 1 in the order of the rows."""

    def make(count: int, dimension: int = 16, seed: int = 0, *, in_time_order: bool = True) -> StateTable:
        rng = np.random.default_rng(seed)
        centers = unit_vectors(rng, max(1, count // 50), dimension)
        drawn = centers[rng.integers(0, len(centers), count)] + 0.1 * unit_vectors(rng, count, dimension)
        hours = rng.integers(0, max(2, count // 3), count)
        event_ns = START_NS + (np.sort(hours) if in_time_order else hours).astype(np.int64) * HOUR_NS
        return StateTable(
            state_id=np.arange(1, count + 1, dtype=np.int64),
            embedding=(drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32),
            con_id=rng.integers(1, 6, count),
            symbol_id=rng.integers(0, 2, count).astype(np.int32),
            symbols=("AAA", "BBB"),
            event_ns=event_ns,
            outcome_ns=event_ns + HOUR_NS,
            bar_ns=rng.choice(np.array([60, 300]) * 10**9, count),
            forward_return_bps=rng.normal(0, 30, count).astype(np.float32),
        )

    return make


@pytest.fixture
def make_card() -> MakeCard:
    """Make the card of a table."""

    def make(table: StateTable) -> IndexCard:
        of = Provenance("market_states", 1, b"\x01" * 32, "")
        return IndexCard(of, of, table.dimension, 6, int(table.event_ns.max()), len(table))

    return make
