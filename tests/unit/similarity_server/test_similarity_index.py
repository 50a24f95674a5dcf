import threading
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fakes.similarity_index import HOUR_NS, START_NS, state_arrays, unit_vectors, write_index
from similarity_server.added import AddedStates, DeltaFullError
from similarity_server.artifact import IndexCard, Provenance
from similarity_server.index import Limits, Match, StateIndex
from similarity_server.index import built as built_index
from similarity_server.loading import load_index
from similarity_server.states import State, StateTable

Vectors = NDArray[np.float32]
Times = NDArray[np.int64]

DIMENSION = 8


def some_state(state_id: int, outcome_ns: int = START_NS) -> State:
    return State(state_id, 1, "AAA", outcome_ns - HOUR_NS, outcome_ns, HOUR_NS, 1.0)


def built(embeddings: Vectors, outcome_ns: Times, max_added: int = 1000) -> StateIndex:
    """An index of rows whose state_id is their place, from 1, in order of time."""
    count = len(embeddings)
    order = np.argsort(outcome_ns, kind="stable")
    table = StateTable(
        state_id=order + 1,
        embedding=np.ascontiguousarray(embeddings[order]),
        con_id=np.ones(count, dtype=np.int64),
        symbol_id=np.zeros(count, dtype=np.int32),
        symbols=("AAA",),
        event_ns=outcome_ns[order] - HOUR_NS,
        outcome_ns=outcome_ns[order],
        bar_ns=np.full(count, HOUR_NS),
        forward_return_bps=np.zeros(count, dtype=np.float32),
    )
    of = Provenance("market_states", 1, b"\0" * 32, "")
    card = IndexCard(of, of, embeddings.shape[1], 6, int(table.event_ns.max()), count)
    return built_index(card, table, Limits(max_added))


def check(
    found: list[Match],
    query: Vectors,
    embeddings: Vectors,
    outcome_ns: Times,
    count: int,
    before_ns: int | None,
) -> None:
    """Compare with a brute-force search in numpy; rows whose cosines differ by rounding may swap."""
    cosines = embeddings @ query
    known = [i for i in range(len(embeddings)) if before_ns is None or outcome_ns[i] < before_ns]
    best = sorted((float(cosines[i]) for i in known), reverse=True)[:count]
    rows = [m.state.state_id - 1 for m in found]
    assert [m.similarity for m in found] == pytest.approx(best, abs=1e-5)
    assert [m.similarity for m in found] == pytest.approx(cosines[rows].tolist(), abs=1e-5)
    assert len(set(rows)) == len(rows)
    assert set(rows) <= set(known)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    main=st.integers(1, 60),
    delta=st.integers(0, 40),
    count=st.integers(1, 256),
    before=st.none() | st.integers(-2, 22),
)
def test_the_merged_nearest_are_those_of_a_brute_force_search(
    seed: int, main: int, delta: int, count: int, before: int | None
) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit_vectors(rng, main + delta, DIMENSION)
    # Few distinct instants: many states share the one that before_time names.
    outcome_ns = START_NS + rng.integers(0, 20, main + delta) * HOUR_NS
    ids = list(range(1, main + delta + 1))
    index = built(vectors[:main], outcome_ns[:main])
    added = index.add(
        [some_state(ids[i], int(outcome_ns[i])) for i in range(main, main + delta)], vectors[main:]
    )
    assert added == delta
    query = unit_vectors(rng, 1, DIMENSION)[0]
    before_ns = None if before is None else START_NS + before * HOUR_NS
    found = index.search(query, count, before_ns)
    check(found, query, vectors, outcome_ns, count, before_ns)


def test_equal_similarities_come_in_order_of_their_ids() -> None:
    rng = np.random.default_rng(0)
    vector = unit_vectors(rng, 1, DIMENSION)
    index = built(np.repeat(vector, 3, axis=0), np.array([3, 1, 2]) * HOUR_NS)
    index.add([some_state(9), some_state(7)], np.repeat(vector, 2, axis=0))
    assert [m.state.state_id for m in index.search(vector[0], 5)] == [1, 2, 3, 7, 9]


def test_a_state_is_known_only_after_its_outcome() -> None:
    rng = np.random.default_rng(0)
    vectors = unit_vectors(rng, 2, DIMENSION)
    index = built(vectors[:1], np.array([START_NS]))
    index.add([some_state(2, START_NS)], vectors[1:])
    assert index.search(vectors[0], 10, START_NS) == []
    assert [m.state.state_id for m in index.search(vectors[0], 10, START_NS + 1)] == [1, 2]


def test_adding_a_state_that_is_there_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    vectors = unit_vectors(rng, 4, DIMENSION)
    index = built(vectors[:1], np.array([START_NS]))
    states = [some_state(1), some_state(5), some_state(5)]
    assert index.add(states, vectors[1:]) == 1
    assert index.add(states, vectors[1:]) == 0
    assert len(index) == 2
    (first, second) = index.search(vectors[0], 10)
    assert (first.state.state_id, first.state.forward_return_bps) == (1, 0.0)
    assert second.similarity == pytest.approx(float(vectors[0] @ vectors[2]), abs=1e-6)


def test_the_latest_event_moves_with_what_is_added() -> None:
    vectors = unit_vectors(np.random.default_rng(0), 2, DIMENSION)
    index = built(vectors[:1], np.array([START_NS]))
    index.add([some_state(2, START_NS + 5 * HOUR_NS)], vectors[1:])
    assert index.as_of_ns == START_NS + 4 * HOUR_NS


def test_what_does_not_fit_is_not_added_in_part() -> None:
    vectors = unit_vectors(np.random.default_rng(0), 3, DIMENSION)
    added = AddedStates(DIMENSION, capacity=2)
    with pytest.raises(DeltaFullError, match="3 new states do not fit beside 0 of at most 2"):
        added.add([some_state(i) for i in (1, 2, 3)], vectors)
    assert len(added) == 0
    assert added.add([some_state(i) for i in (1, 2)], vectors[:2]) == 2
    assert added.add([some_state(i) for i in (1, 2)], vectors[:2]) == 0


def test_searching_while_another_thread_adds_finds_nothing_wrong() -> None:
    rng = np.random.default_rng(0)
    vectors = unit_vectors(rng, 600, DIMENSION)
    index = built(vectors[:100], START_NS + np.arange(100) * HOUR_NS)
    failures = []

    def add() -> None:
        for row in range(100, 600, 5):
            rows = range(row, row + 5)
            index.add([some_state(i + 1, START_NS + i * HOUR_NS) for i in rows], vectors[row : row + 5])

    thread = threading.Thread(target=add)
    thread.start()
    searches = 0
    while thread.is_alive() or searches < 50:
        searches += 1
        for match in index.search(vectors[searches % 600], 20, START_NS + 300 * HOUR_NS):
            expected = float(vectors[match.state.state_id - 1] @ vectors[searches % 600])
            if abs(match.similarity - expected) > 1e-5 or match.state.outcome_ns >= START_NS + 300 * HOUR_NS:
                failures.append(match)
    thread.join()
    assert failures == []
    assert len(index) == 600
    assert index.search(vectors[599], 1)[0].state.state_id == 600


def test_a_search_keeps_to_one_core_on_whatever_thread_it_runs() -> None:
    index = built(unit_vectors(np.random.default_rng(1), 20, DIMENSION), START_NS + np.arange(20))
    cores: list[int] = []

    def search() -> None:
        faiss.omp_set_num_threads(4)  # as on a machine of four cores
        index.search(index.main.table.embedding[0], 3)
        cores.append(faiss.omp_get_max_threads())

    thread = threading.Thread(target=search)
    thread.start()
    thread.join()
    assert cores == [1]


def test_rounded_embeddings_are_normalised_and_rows_keep_their_facts(tmp_path: Path) -> None:
    arrays = write_index(tmp_path)
    index, sequence = load_index(tmp_path, "market_states")
    assert sequence == 0
    for row in (0, 123, 499):
        query = arrays["embedding"][row].astype(np.float32)
        (best, *_) = index.search(query / np.linalg.norm(query), 3)
        assert best.similarity == pytest.approx(1.0, abs=1e-6)
        assert best.similarity <= 1.0
        assert best.state == State(
            state_id=int(arrays["state_id"][row]),
            con_id=int(arrays["con_id"][row]),
            symbol=str(arrays["symbols"][arrays["symbol_id"][row]]),
            event_ns=int(arrays["event_ns"][row]),
            outcome_ns=int(arrays["outcome_ns"][row]),
            bar_ns=int(arrays["bar_size_s"][row]) * 10**9,
            forward_return_bps=float(arrays["forward_return_bps"][row]),
        )


def test_the_highest_version_is_loaded_unless_one_is_named(tmp_path: Path) -> None:
    for version in (1, 2, 10):
        write_index(tmp_path, state_arrays(20, DIMENSION), version=version)
    assert load_index(tmp_path, "market_states")[0].card.provenance.version == 10
    assert load_index(tmp_path, "market_states", 2)[0].card.provenance.version == 2
