import threading

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.similarity_index import HOUR_NS, START_NS, unit_vectors
from similarity_server import building
from similarity_server.added import DeltaFullError
from similarity_server.artifact import IndexCard, Provenance
from similarity_server.filters import Filter
from similarity_server.index import Limits, StateIndex
from similarity_server.kinds import choose
from similarity_server.main_index import MainIndex
from similarity_server.states import GrowingTable, State, StateTable

DIMENSION = 8


def card_of(count: int, dimension: int = DIMENSION) -> IndexCard:
    of = Provenance("market_states", 1, b"\0" * 32, "")
    return IndexCard(of, of, dimension, 6, START_NS, count)


def states_of(rng: np.random.Generator, ids: range) -> list[State]:
    return [
        State(i, int(rng.integers(1, 4)), f"S{i % 3}", START_NS, START_NS + int(rng.integers(0, 30)) * HOUR_NS,
              int(rng.choice([60, 300])) * 10**9, float(i))
        for i in ids
    ]  # fmt: skip


def index_of(states: list[State], vectors: np.ndarray, limits: Limits, kind: str = "flat") -> StateIndex:
    table = StateTable.of(states, vectors).in_time_order()
    dimension = vectors.shape[1]
    main = building.build(table, choose(len(table), dimension, kind), recall_queries=20)
    return StateIndex(card_of(len(table), dimension), main, limits)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.lists(st.sampled_from(["add", "delete", "merge", "search", "search"]), min_size=1, max_size=25),
)
def test_after_any_changes_a_search_finds_what_a_brute_force_search_does(seed: int, steps: list[str]) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit_vectors(rng, 400, DIMENSION)
    states = states_of(rng, range(1, 401))
    index = index_of(states[:20], vectors[:20], Limits(max_added=400))
    live, known = set(range(20)), 20
    for step in steps:
        if step == "add":
            count = int(rng.integers(0, 15))
            again = [int(i) for i in rng.integers(0, known, 3)]
            rows = [*again, *range(known, known + count)]
            assert index.add([states[i] for i in rows], vectors[rows]) == count
            live |= set(range(known, known + count))
            known += count
        elif step == "delete":
            rows = [int(i) for i in rng.integers(0, known + 5, 4)]
            assert index.delete([i + 1 for i in rows]) == len(live & set(rows))
            live -= set(rows)
        elif step == "merge":
            index.merge()
            assert index.added_count == 0
        else:
            query = unit_vectors(rng, 1, DIMENSION)[0]
            wanted = Filter(
                before_ns=None if rng.random() < 0.5 else START_NS + int(rng.integers(0, 31)) * HOUR_NS,
                con_ids=frozenset(rng.integers(1, 5, rng.integers(0, 3)).tolist()),
                bar_ns=None if rng.random() < 0.5 else 60 * 10**9,
            )
            expected = sorted(
                (
                    float(vectors[i] @ query)
                    for i in live
                    if (wanted.before_ns is None or states[i].outcome_ns < wanted.before_ns)
                    and (not wanted.con_ids or states[i].con_id in wanted.con_ids)
                    and wanted.bar_ns in (None, states[i].bar_ns)
                ),
                reverse=True,
            )[:10]
            found = index.search(query, 10, wanted)
            assert [m.similarity for m in found] == pytest.approx(expected, abs=1e-5)
            assert {m.state.state_id - 1 for m in found} <= live
            assert all(m.state == states[m.state.state_id - 1] for m in found)
        assert len(index) == len(live)


def test_a_deleted_id_is_not_used_again_and_stays_deleted_through_merges() -> None:
    rng = np.random.default_rng(0)
    vectors, states = unit_vectors(rng, 6, DIMENSION), states_of(rng, range(1, 7))
    index = index_of(states[:3], vectors[:3], Limits())
    index.add(states[3:5], vectors[3:5])
    assert index.delete([2, 4, 4, 77]) == 2
    for _ in range(2):
        assert index.add([states[1], states[3]], vectors[[1, 3]]) == 0
        assert {m.state.state_id for m in index.search(vectors[1], 10)} == {1, 3, 5}
        index.merge()
    assert index.deleted == {2, 4}
    assert (len(index), index.deleted_count) == (3, 2)


def test_what_was_deleted_while_a_merge_ran_stays_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors, states = unit_vectors(rng, 30, DIMENSION), states_of(rng, range(1, 31))
    index = index_of(states[:10], vectors[:10], Limits())
    index.add(states[10:20], vectors[10:20])
    merged = building.merged

    def slow(*arguments):
        result = merged(*arguments)
        assert index.delete([3, 15]) == 2
        assert index.add(states[20:25], vectors[20:25]) == 5
        assert len(index) == 23
        return result

    monkeypatch.setattr(building, "merged", slow)
    assert index.merge() == 10
    expected = set(range(1, 26)) - {3, 15}
    assert {m.state.state_id for m in index.search(vectors[0], 30)} == expected
    assert (len(index), index.added_count) == (23, 5)


def test_a_merge_that_fails_loses_nothing_and_the_next_one_takes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors, states = unit_vectors(rng, 30, DIMENSION), states_of(rng, range(1, 31))
    index = index_of(states[:10], vectors[:10], Limits(max_added=15))
    index.add(states[10:20], vectors[10:20])

    def fails(*_):
        index.add(states[20:25], vectors[20:25])
        raise MemoryError("no memory left")

    with monkeypatch.context() as patched:
        patched.setattr(building, "merged", fails)
        with pytest.raises(MemoryError):
            index.merge()
    everything = set(range(1, 26))
    assert {m.state.state_id for m in index.search(vectors[0], 30)} == everything
    with pytest.raises(DeltaFullError):
        index.add(states[25:30], vectors[25:30])
    assert index.merge() == 15
    assert {m.state.state_id for m in index.search(vectors[0], 30)} == everything
    assert index.add(states[25:30], vectors[25:30]) == 5


def test_an_index_that_outgrows_its_kind_is_rebuilt_by_the_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("similarity_server.kinds._FLAT_STATES", 500)
    rng = np.random.default_rng(0)
    vectors, states = unit_vectors(rng, 800, 16), states_of(rng, range(1, 801))
    index = index_of(states[:450], vectors[:450], Limits())
    index.delete([7])
    index.add(states[450:], vectors[450:])
    assert index.main.kind.exact
    index.merge()
    assert str(index.main.kind) == "IVF1,PQ8x4fs,RFlat"
    assert len(index) == len(index.main) == 799
    assert index.search(vectors[799], 1)[0].state == states[799]
    assert 7 not in {m.state.state_id for m in index.search(vectors[6], 200)}


@pytest.mark.parametrize("kind", ["flat", "pq", "ivf"])
def test_searches_go_on_while_states_are_added_deleted_and_merged(kind: str) -> None:
    rng = np.random.default_rng(0)
    vectors, states = unit_vectors(rng, 4_000, 16), states_of(rng, range(1, 4_001))
    index = index_of(states[:2_000], vectors[:2_000], Limits(), kind)
    wrong: list[str] = []
    finished = threading.Event()
    gone: set[int] = set()

    def search() -> None:
        own = np.random.default_rng(1)
        while not finished.is_set():
            gone_before = set(gone)
            query = vectors[own.integers(0, 4_000)]
            found = index.search(query, 20)
            if len({m.state.state_id for m in found}) != 20:
                wrong.append("a state is missing or there twice")
            for match in found:
                if match.state.state_id in gone_before:
                    wrong.append(f"{match.state.state_id} was deleted")
                if abs(match.similarity - float(vectors[match.state.state_id - 1] @ query)) > 1e-5:
                    wrong.append(f"{match.state.state_id} has a wrong similarity")

    def merge() -> None:
        while not finished.is_set():
            index.merge()

    threads = [
        threading.Thread(target=search),
        threading.Thread(target=search),
        threading.Thread(target=merge),
    ]
    for thread in threads:
        thread.start()
    try:
        for row in range(2_000, 4_000, 40):
            index.add(states[row : row + 40], vectors[row : row + 40])
            victims = [int(i) for i in rng.integers(1, row, 3)]
            index.delete(victims)
            gone.update(victims)
    finally:
        finished.set()
        for thread in threads:
            thread.join()
    index.merge()
    assert wrong == []
    assert len(index) == len(index.main) == 4_000 - len(gone)
    assert index.search(vectors[3_999], 1)[0].state.state_id == 4_000


def test_what_searches_faster_is_asked_when_nothing_is_left_out_and_made_anew_by_a_merge() -> None:
    rng = np.random.default_rng(0)
    vectors, states = unit_vectors(rng, 3_100, 16), states_of(rng, range(1, 3_101))
    made: list[faiss.Index] = []

    def accelerate(main: MainIndex) -> faiss.Index:
        flat = faiss.IndexFlatIP(main.table.dimension)
        flat.add(main.table.embedding)
        made.append(flat)
        return flat

    table = StateTable.of(states[:3_000], vectors[:3_000]).in_time_order()
    main = building.build(table, choose(3_000, 16, "flat"))
    index = StateIndex(card_of(3_000, 16), main, Limits(), accelerate=accelerate)
    index.add(states[3_000:], vectors[3_000:])
    query = unit_vectors(rng, 1, 16)[0]
    best = sorted(range(3_100), key=lambda row: -float(vectors[row] @ query))

    def found(wanted: Filter | None = None) -> list[int]:
        return [m.state.state_id - 1 for m in index.search(query, 20, wanted)]

    for _ in range(2):
        assert found() == best[:20]
        assert found(Filter(con_ids=frozenset({2}))) == [i for i in best if states[i].con_id == 2][:20]
        index.merge()
    index.delete([best[0] + 1])
    assert found() == best[1:21]
    assert [one.ntotal for one in made] == [3_000, 3_100]
    made[1].reset()  # now it finds nothing, which shows when it is asked
    assert found() == best[1:21], "not after a deletion"
    assert found(Filter(bar_ns=60 * 10**9)) != [], "not with a filter"


def test_what_does_not_fit_in_all_is_refused() -> None:
    rng = np.random.default_rng(0)
    vectors, states = unit_vectors(rng, 12, DIMENSION), states_of(rng, range(1, 13))
    index = index_of(states[:10], vectors[:10], Limits(max_states=11))
    with pytest.raises(DeltaFullError, match="2 new states do not fit beside 10 of at most 11"):
        index.add(states[10:], vectors[10:])
    assert index.add(states[9:11], vectors[9:11]) == 1


def test_a_table_that_was_handed_out_does_not_change_when_it_grows(make_table) -> None:
    first = make_table(100)
    store = GrowingTable.of(first)
    for seed in range(1, 5):
        before = store.table()
        copy = before.embedding.copy()
        more = make_table(9_000, seed=seed)
        after = store.append(more)
        assert len(after) == len(before) + 9_000
        assert np.array_equal(before.embedding, copy)
        assert np.array_equal(after.embedding[: len(before)], copy)
        assert np.array_equal(after.outcome_ns[len(before) :], more.outcome_ns)


def test_symbols_keep_their_meaning_when_tables_with_others_are_joined() -> None:
    rng = np.random.default_rng(0)
    vectors = unit_vectors(rng, 4, DIMENSION)
    states = [State(i, 1, symbol, 1, 2, 3, 0.0) for i, symbol in enumerate("BACA")]
    store = GrowingTable.of(StateTable.of(states[:2], vectors[:2]))
    table = store.append(StateTable.of(states[2:], vectors[2:]))
    assert [state.symbol for state in table.states(np.arange(4))] == ["B", "A", "C", "A"]
