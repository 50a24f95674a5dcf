"""States added while the server runs: a small, bounded index beside the main one."""

import threading
from collections.abc import Sequence

import faiss
import numpy as np
from numpy.typing import NDArray

from similarity_server.filters import EVERYTHING, Filter
from similarity_server.main_index import NOTHING, Found, cosines
from similarity_server.states import State, StateTable


class DeltaFullError(Exception):
    """No more states can be added."""


class AddedStates:
    """States in the order they were added. Adding and searching exclude each other by a lock:
    FAISS crashes the process when they overlap.
    """

    def __init__(self, dimension: int, capacity: int) -> None:
        """Make an empty one.

        Args:
            dimension: Length of an embedding.
            capacity: Most states it takes; searching it takes time in proportion.
        """
        self.capacity = capacity
        self._index = faiss.IndexFlatIP(dimension)
        self._states: list[State] = []
        self._embedding = np.empty((capacity, dimension), dtype=np.float32)
        self._rows: dict[int, int] = {}
        self._con_id = np.empty(capacity, dtype=np.int64)
        self._bar_ns = np.empty(capacity, dtype=np.int64)
        self._outcome_ns = np.empty(capacity, dtype=np.int64)
        self._alive = np.ones(capacity, dtype=bool)
        self._dead = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._states) - self._dead

    def __contains__(self, state_id: int) -> bool:
        return state_id in self._rows

    def __getitem__(self, row: int) -> State:
        return self._states[row]

    @property
    def room(self) -> int:
        """How many more it takes."""
        return self.capacity - len(self._states)

    def add(self, states: Sequence[State], embeddings: NDArray[np.float32]) -> int:
        """Add those that are not there yet, all or none.

        Args:
            states: What to add; of two with one state_id the first counts.
            embeddings: (n, dimension) float32, length 1.

        Returns:
            How many were new.

        Raises:
            DeltaFullError: They do not all fit.
        """
        with self._lock:
            rows: dict[int, int] = {}
            for row, state in enumerate(states):
                if state.state_id not in self._rows:
                    rows.setdefault(state.state_id, row)
            first, last = len(self._states), len(self._states) + len(rows)
            if last > self.capacity:
                raise DeltaFullError(
                    f"{len(rows)} new states do not fit beside {first} of at most {self.capacity}"
                )
            if rows:
                chosen = list(rows.values())
                self._embedding[first:last] = embeddings[chosen]
                self._index.add(self._embedding[first:last])
                self._con_id[first:last] = [states[row].con_id for row in chosen]
                self._bar_ns[first:last] = [states[row].bar_ns for row in chosen]
                self._outcome_ns[first:last] = [states[row].outcome_ns for row in chosen]
                self._states.extend(states[row] for row in chosen)
                self._rows.update(zip(rows, range(first, last), strict=True))
            return len(rows)

    def delete(self, state_id: int) -> bool:
        """Leave a state out of every search that starts later; return whether it was there."""
        with self._lock:
            row = self._rows.get(state_id)
            if row is None or not self._alive[row]:
                return False
            self._alive[row] = False
            self._dead += 1
            return True

    def search(self, query: NDArray[np.float32], count: int, wanted: Filter = EVERYTHING) -> Found:
        """Find the nearest states that a filter wants.

        Args:
            query: (dimension,) float32, length 1.
            count: Most to return.
            wanted: Which count.

        Returns:
            Similarities and rows, nearest first.
        """
        if not self._states:
            return NOTHING
        with self._lock:
            total = len(self._states)
            parameters = None
            if self._dead or wanted != EVERYTHING:
                mask = wanted.mask(self._con_id[:total], self._bar_ns[:total], self._outcome_ns[:total])
                mask &= self._alive[:total]
                count = min(count, int(mask.sum()))
                # The selector points into `bitmap`, which lives until this function returns.
                bitmap = np.packbits(mask, bitorder="little")
                parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(total, faiss.swig_ptr(bitmap)))  # type: ignore[call-arg]
            count = min(count, total)
            if count == 0:
                return NOTHING
            rows = self._index.search(query.reshape(1, -1), count, params=parameters)[1][0]
            return cosines(self._embedding[rows], query), rows

    def table(self) -> StateTable:
        """Return the states that were not deleted, in ascending order of outcome_ns."""
        with self._lock:
            total = len(self._states)
            table = StateTable.of(self._states, self._embedding[:total])
            return table.rows(self._alive[:total]).in_time_order()
