"""The main part of an index: searched without a lock, replaced as a whole, changed only by deletions."""

import faiss
import numpy as np
from numpy.typing import NDArray

from similarity_server.filters import EVERYTHING, Filter, Groups
from similarity_server.kinds import IndexKind
from similarity_server.states import StateTable

Found = tuple[NDArray[np.float32], NDArray[np.int64]]
# So few rows are compared one by one: about a millisecond for 128 dimensions. Codes would have to
# be scanned widely to find enough of them.
_FEW = 8_192
_FEW_OF_FLAT = 2_048
# A filter that keeps a share f of the states looks into 1/f times the lists, up to this.
_MAX_WIDENING = 16
NOTHING: Found = (np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64))


def cosines(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the inner product of every row with a query, (n,) float32.

    Not with BLAS: its threads wait for each other for milliseconds when the cores are busy, and its
    last bit depends on what other rows are there.
    """
    products: NDArray[np.float32] = np.einsum("ij,j->i", vectors, query)
    return products


class MainIndex:
    """States that are searched by codes and compared exactly, or exactly alone.

    Attributes:
        table: Its states.
        kind: How it is searched.
        codes: The FAISS index: of codes, or of the vectors themselves when the kind is exact.
        groups: Rows by instrument and bar.
        recall_at_10: Measured when it was built; 1 when it is exact.
        recall_queries: Queries behind that; 0 when it is exact.
        exact: Searches all vectors exactly, faster than this processor does: on a GPU. Asked when
            there is nothing to leave out; None for never.
    """

    def __init__(
        self,
        table: StateTable,
        kind: IndexKind,
        codes: faiss.Index,
        groups: Groups,
        recall_at_10: float = 1.0,
        recall_queries: int = 0,
    ) -> None:
        self.table = table
        self.kind = kind
        self.codes = codes
        self.groups = groups
        self.recall_at_10 = recall_at_10
        self.recall_queries = recall_queries
        self.exact: faiss.Index | None = None
        self._by_id = np.argsort(table.state_id, kind="stable").astype(np.int32)
        # Not searchsorted's `sorter`: it would copy the order of a million states for each id.
        self._ids = table.state_id[self._by_id]
        self._in_time_order = bool(np.all(table.outcome_ns[1:] >= table.outcome_ns[:-1]))
        self._alive = np.ones(len(table), dtype=bool)
        self._alive_bits = np.packbits(self._alive, bitorder="little")
        self._dead = 0
        # Of a search without a filter; making one for each takes as long as a part of the search.
        self._plain = None if kind.exact else faiss.SearchParametersIVF(nprobe=kind.nprobe)  # type: ignore[call-arg]

    def __len__(self) -> int:
        return len(self.table) - self._dead

    def row_of(self, state_id: int) -> int | None:
        """Return where a state is; None when it is not here."""
        at = int(np.searchsorted(self._ids, state_id))
        if at == len(self._ids) or int(self._ids[at]) != state_id:
            return None
        return int(self._by_id[at])

    def delete(self, state_id: int) -> bool:
        """Leave a state out of every search that starts later; return whether it was there."""
        row = self.row_of(state_id)
        if row is None or not self._alive[row]:
            return False
        self._alive[row] = False
        self._alive_bits[row >> 3] &= ~np.uint8(1 << (row & 7))
        self._dead += 1
        return True

    def alive(self) -> NDArray[np.bool_]:
        """Return which rows are not deleted, (n,) bool, a copy."""
        return self._alive.copy()

    def search(
        self,
        query: NDArray[np.float32],
        count: int,
        wanted: Filter = EVERYTHING,
        *,
        nprobe: int | None = None,
    ) -> Found:
        """Find the nearest states.

        Args:
            query: (dimension,) float32, length 1.
            count: Most to return.
            wanted: Which count.
            nprobe: Lists to look into instead of the kind's.

        Returns:
            Cosine similarities (m,) float32 and rows (m,) int64, nearest first.
        """
        total = len(self.table)
        few = _FEW_OF_FLAT if self.kind.exact else _FEW
        known = self._known(wanted.before_ns)
        if known == 0:
            return NOTHING
        if wanted.by_group:
            chosen = [self._until(rows, known, wanted.before_ns) for rows in self.groups.find(wanted)]
            size = sum(map(len, chosen))
            if size <= few:
                return self._compare(query, np.concatenate(chosen) if chosen else NOTHING[1], count)
            mask = np.zeros(total, dtype=bool)
            for rows in chosen:
                mask[rows] = True
            mask &= self._alive
            return self._by_codes(query, count, np.packbits(mask, bitorder="little"), total, size, nprobe)
        if not self._in_time_order and wanted.before_ns is not None:
            mask = (self.table.outcome_ns < wanted.before_ns) & self._alive
            size = int(mask.sum())
            if size <= few:
                return self._compare(query, np.flatnonzero(mask), count)
            return self._by_codes(query, count, np.packbits(mask, bitorder="little"), total, size, nprobe)
        if known <= few:
            return self._compare(query, np.arange(known), count)
        return self._by_codes(query, count, self._alive_bits if self._dead else None, known, known, nprobe)

    def _known(self, before_ns: int | None) -> int:
        """Return how many rows from the first may be known before an instant."""
        if before_ns is None or not self._in_time_order:
            return len(self.table)
        return int(np.searchsorted(self.table.outcome_ns, before_ns, side="left"))

    def _until(self, rows: NDArray[np.int32], known: int, before_ns: int | None) -> NDArray[np.int32]:
        if self._in_time_order:
            return rows[: int(np.searchsorted(rows, known, side="left"))]
        return rows if before_ns is None else rows[self.table.outcome_ns[rows] < before_ns]

    def _compare(self, query: NDArray[np.float32], rows: NDArray[np.integer], count: int) -> Found:
        """Compare rows with the query exactly; those that are deleted don't count."""
        if self._dead:
            rows = rows[self._alive[rows]]
        if len(rows) == 0:
            return NOTHING
        similarity = cosines(self.table.embedding[rows], query)
        count = min(count, len(rows))
        if count < len(rows):
            best = np.argpartition(-similarity, count - 1)[:count]
            similarity, rows = similarity[best], rows[best]
        order = np.argsort(-similarity, kind="stable")
        return similarity[order], rows[order].astype(np.int64)

    def _by_codes(
        self,
        query: NDArray[np.float32],
        count: int,
        bits: NDArray[np.uint8] | None,
        known: int,
        size: int,
        nprobe: int | None,
    ) -> Found:
        """Search with FAISS among the rows before `known` that have their bit set, `size` of them."""
        total = len(self.table)
        selectors: list[faiss.IDSelector] = []
        if bits is not None:
            # The selectors point into arrays and each other; all live until this function returns.
            selectors.append(faiss.IDSelectorBitmap(total, faiss.swig_ptr(bits)))
        if known < total:
            # A flat index turns a range into a shorter scan.
            selectors.append(faiss.IDSelectorRange(0, known, True))
        selector = selectors[0] if selectors else None
        if len(selectors) == 2:
            selector = faiss.IDSelectorAnd(*selectors)
        one = query.reshape(1, -1)
        if self.exact is not None and selector is None:
            rows = self.exact.search(one, min(count, size))[1][0]
            return self._compare(query, rows[rows >= 0], count)
        if self.kind.exact:
            parameters = faiss.SearchParameters(sel=selector) if selector is not None else None  # type: ignore[call-arg]
            rows = self.codes.search(one, min(count, size), params=parameters)[1][0]
            return self._compare(query, rows[rows >= 0], count)
        candidates = min(count * self.kind.k_factor, size)
        lists = min(
            self.kind.lists, (nprobe or self.kind.nprobe) * min(_MAX_WIDENING, -(-total // max(1, size)))
        )
        while True:
            parameters = self._plain
            if selector is not None or lists != self.kind.nprobe:
                parameters = faiss.SearchParametersIVF(
                    nprobe=lists, **({"sel": selector} if selector else {})
                )  # type: ignore[call-arg]
            rows = self.codes.search(one, candidates, params=parameters)[1][0]
            rows = rows[rows >= 0]
            if len(rows) >= min(candidates, 2 * count) or lists == self.kind.lists:
                return self._compare(query, rows, count)
            lists = self.kind.lists
