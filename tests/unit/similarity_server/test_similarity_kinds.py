import numpy as np
import pytest

from similarity_server import building
from similarity_server.filters import Filter
from similarity_server.kinds import choose, lists_for
from similarity_server.main_index import MainIndex
from similarity_server.states import StateTable


@pytest.mark.parametrize(
    ("count", "dimension", "kind"),
    [
        (1, 128, "Flat"),
        (20_000, 128, "Flat"),
        (20_001, 128, "IVF1,PQ64x4fs,RFlat"),
        (399_999, 128, "IVF1,PQ64x4fs,RFlat"),
        (1_000_000, 128, "IVF4096,PQ64x4fs,RFlat"),
        (1_000_000, 512, "IVF1,PQ256x4fs,RFlat"),
        (1_000_000, 127, "Flat"),
    ],
)
def test_the_kind_follows_size_and_dimension(count: int, dimension: int, kind: str) -> None:
    assert str(choose(count, dimension)) == kind


def test_a_kind_can_be_asked_for() -> None:
    assert choose(10**6, 128, "flat").exact
    assert choose(100, 128, "pq").codes == "IVF1,PQ64x4fs"
    assert choose(10**6, 128, "ivf", nprobe=8, k_factor=4).nprobe == 8


def test_a_kind_that_does_not_fit_says_what_does() -> None:
    with pytest.raises(ValueError, match="needs an even dimension, not 127: choose 'flat'"):
        choose(10**6, 127, "pq")
    with pytest.raises(ValueError, match="choose one of auto, flat, pq, ivf"):
        choose(1, 128, "hnsw")


@pytest.mark.parametrize("count", [1, 39, 100, 5_000, 10**6])
def test_every_inverted_list_has_enough_states_to_train_on(count: int) -> None:
    lists = lists_for(count)
    assert lists == 1 or lists * 39 <= count


KINDS = ["flat", "pq", "ivf"]
FILTERS = [
    Filter(),
    Filter(con_ids=frozenset({2})),
    Filter(con_ids=frozenset({1, 2, 3, 4})),
    Filter(bar_ns=60 * 10**9),
    Filter(con_ids=frozenset({99})),
    Filter(con_ids=frozenset({1, 5}), bar_ns=300 * 10**9),
]


def wants(table: StateTable, filter_: Filter, row: int) -> bool:
    return bool(
        (filter_.before_ns is None or table.outcome_ns[row] < filter_.before_ns)
        and (not filter_.con_ids or int(table.con_id[row]) in filter_.con_ids)
        and (filter_.bar_ns is None or table.bar_ns[row] == filter_.bar_ns)
    )


def check(main: MainIndex, filter_: Filter, deleted: set[int]) -> float:
    """Check that only wanted rows come, and all there are when there are few; return the recall."""
    table = main.table
    wanted = np.array([i for i in range(len(table)) if wants(table, filter_, i) and i not in deleted], int)
    found = total = 0
    for row in range(0, len(table), max(1, len(table) // 40)):
        query = table.embedding[row]
        similarity, rows = main.search(query, 10, filter_)
        assert set(rows.tolist()) <= set(wanted.tolist())
        assert len(set(rows.tolist())) == len(rows) == min(10, len(wanted))
        assert np.all(np.diff(similarity) <= 0)
        assert similarity == pytest.approx(table.embedding[rows] @ query, abs=1e-5)
        best = np.sort(table.embedding[wanted] @ query)[::-1][:10]
        found += int(np.sum(similarity >= best[-1] - 1e-6)) if len(best) else 0
        total += len(best)
    return found / total if total else 1.0


@pytest.mark.parametrize("in_time_order", [True, False])
@pytest.mark.parametrize("wanted", KINDS)
def test_every_kind_finds_what_the_filter_wants(make_table, wanted: str, in_time_order: bool) -> None:
    # More than are compared one by one, so that the codes are searched with the filter.
    table = make_table(30_000, in_time_order=in_time_order)
    main = building.build(table, choose(len(table), table.dimension, wanted), recall_queries=100)
    assert main.recall_at_10 >= 0.9
    assert main.recall_queries == (0 if wanted == "flat" else 100)
    deleted = {3, 4_000, 29_999}
    assert all(main.delete(row + 1) for row in deleted)
    assert not main.delete(4)
    assert not main.delete(10**9)
    middle = int(np.sort(table.outcome_ns)[20_000])
    early = int(np.sort(table.outcome_ns)[30])
    for filter_ in FILTERS:
        for before_ns in (None, middle, early, 0):
            recall = check(main, Filter(before_ns, filter_.con_ids, filter_.bar_ns), deleted)
            assert recall >= (1.0 if wanted == "flat" else 0.9), (filter_, before_ns)


def test_inverted_lists_that_hold_too_few_wanted_states_are_widened(make_table) -> None:
    table = make_table(30_000)
    main = building.build(table, choose(len(table), table.dimension, "ivf", nprobe=1), recall_queries=50)
    assert main.kind.lists == 512
    # All states of the cluster that is searched for are of another instrument.
    query = table.embedding[0]
    near = np.argsort(-(table.embedding @ query))[:15_000]
    table.con_id[:] = 1
    table.con_id[near] = 2
    of_another = building.build(table, main.kind, recall_queries=50)
    _, rows = of_another.search(query, 256, Filter(con_ids=frozenset({1})))
    assert len(rows) == 256
    assert set(table.con_id[rows].tolist()) == {1}


def test_recall_is_measured_on_states_that_do_not_find_themselves(make_table) -> None:
    table = make_table(3_000)
    main = building.build(table, choose(len(table), table.dimension, "flat"))
    queries = np.arange(0, 3_000, 60)
    nearest = building.exact_neighbors(table, queries)
    assert all(row not in rows for row, rows in zip(queries.tolist(), nearest, strict=True))
    assert building.recall_at_10(main, queries) >= 0.99  # of equally near ones another may be found
