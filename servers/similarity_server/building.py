"""Build the main part of an index: train, add, measure what it finds. Runs off the event loop.

FAISS keeps its number of threads per thread of the process, so each function here sets it.
"""

import faiss
import numpy as np
import structlog
from numpy.typing import NDArray

from similarity_server.filters import EVERYTHING, Filter, Groups
from similarity_server.kinds import IndexKind, training_states
from similarity_server.main_index import MainIndex
from similarity_server.states import GrowingTable, StateTable

_log = structlog.get_logger()
_SEED = 7
_RECALL_QUERIES = 500
_NEIGHBORS = 10
_ADD_ROWS = 50_000
_BLOCK_ROWS = 100_000


def build(
    table: StateTable, kind: IndexKind, *, threads: int = 1, recall_queries: int = _RECALL_QUERIES
) -> MainIndex:
    """Build an index of a table, and measure its recall.

    Args:
        table: States, in ascending order of outcome_ns.
        kind: How it is to be searched.
        threads: Threads of FAISS for training and adding.
        recall_queries: States that are kept out of the training and searched for afterwards.
    """
    faiss.omp_set_num_threads(threads)
    try:
        groups = Groups.of(table)
        if kind.exact:
            flat = faiss.IndexFlatIP(table.dimension)
            flat.add(table.embedding)
            return MainIndex(table, kind, flat, groups)
        # For vectors of length 1 the nearest by distance are the nearest by cosine.
        codes = faiss.index_factory(table.dimension, kind.codes, faiss.METRIC_L2)
        shuffled = np.random.default_rng(_SEED).permutation(len(table))
        held_out, rest = np.split(shuffled, [min(recall_queries, len(table) // 4)])
        _log.info("training", kind=str(kind), states=len(table))
        codes.train(table.embedding[np.sort(rest[: training_states(kind)])])
        for first in range(0, len(table), _ADD_ROWS):
            codes.add(table.embedding[first : first + _ADD_ROWS])
        main = MainIndex(table, kind, codes, groups)
        return MainIndex(table, kind, codes, groups, recall_at_10(main, held_out), len(held_out))
    finally:
        faiss.omp_set_num_threads(1)


def recall_at_10(main: MainIndex, queries: NDArray[np.int64], wanted: Filter = EVERYTHING) -> float:
    """Measure the share of the ten nearest that searches find; a query does not find itself.

    Args:
        main: What is searched.
        queries: (n,) rows that are searched for.
        wanted: Which states count.
    """
    nearest = exact_neighbors(main.table, queries, wanted)
    found = total = 0
    for row, expected in zip(queries.tolist(), nearest, strict=True):
        rows = main.search(main.table.embedding[row], _NEIGHBORS + 1, wanted)[1]
        rows = rows[rows != row][:_NEIGHBORS]
        found += len(np.intersect1d(rows, expected))
        total += len(expected)
    return found / max(1, total)


def exact_neighbors(
    table: StateTable, queries: NDArray[np.int64], wanted: Filter = EVERYTHING
) -> list[NDArray[np.int64]]:
    """Find the ten nearest rows of each query by comparing all, block by block; not itself."""
    vectors = table.embedding[queries]
    best = np.full((len(queries), _NEIGHBORS), -np.inf, dtype=np.float32)
    rows = np.full((len(queries), _NEIGHBORS), -1, dtype=np.int64)
    counts = wanted.mask(table.con_id, table.bar_ns, table.outcome_ns)
    for first in range(0, len(table), _BLOCK_ROWS):
        last = min(len(table), first + _BLOCK_ROWS)
        similarity = vectors @ table.embedding[first:last].T
        similarity[:, ~counts[first:last]] = -np.inf
        own = np.flatnonzero((queries >= first) & (queries < last))
        similarity[own, queries[own] - first] = -np.inf
        keep = min(_NEIGHBORS, last - first)
        top = np.argpartition(-similarity, keep - 1, axis=1)[:, :keep]
        both = np.concatenate((best, np.take_along_axis(similarity, top, axis=1)), axis=1)
        both_rows = np.concatenate((rows, top + first), axis=1)
        order = np.argsort(-both, axis=1, kind="stable")[:, :_NEIGHBORS]
        best = np.take_along_axis(both, order, axis=1)
        rows = np.take_along_axis(both_rows, order, axis=1)
    return [one[np.isfinite(score)] for one, score in zip(rows, best, strict=True)]


def merged(main: MainIndex, store: GrowingTable, new: StateTable, kind: IndexKind) -> MainIndex:
    """Return a main part that has new states too; the old one stays as it is.

    An index of codes is copied and gets the codes of the new ones: neither its training nor its
    vectors change. An exact one, and one that has outgrown its kind, is built anew, in order of
    time and without what was deleted.

    Args:
        main: What there is.
        store: Holds its table; grows.
        new: What is added, in ascending order of outcome_ns.
        kind: How so many states are to be searched; one for fewer than now changes nothing.
    """
    alive = main.alive()
    table = store.append(new)
    if main.kind.exact or kind.rank > main.kind.rank:
        table = table.rows(np.concatenate((alive, np.ones(len(new), dtype=bool)))).in_time_order()
        store.replace(table)
        return build(table, kind)
    faiss.omp_set_num_threads(1)
    codes = faiss.clone_index(main.codes)
    codes.add(new.embedding)
    groups = main.groups.and_those_behind(Groups.of(new, first=len(main.table)))
    result = MainIndex(table, main.kind, codes, groups, main.recall_at_10, main.recall_queries)
    for state_id in main.table.state_id[~alive].tolist():
        result.delete(state_id)
    return result
