"""States added while the server runs: a small, bounded index beside the main one."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class State:
    """One market state with its outcome.

    Attributes:
        state_id: Unique in the index.
        con_id: What was traded.
        symbol: The same, for people.
        event_ns: Close of its last bar, nanoseconds UTC.
        outcome_ns: When its outcome was known, nanoseconds UTC.
        bar_ns: Length of one bar.
        forward_return_bps: Return over the index's horizon.
    """

    state_id: int
    con_id: int
    symbol: str
    event_ns: int
    outcome_ns: int
    bar_ns: int
    forward_return_bps: float


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
        self._ids: set[int] = set()
        self._outcome_ns = np.empty(capacity, dtype=np.int64)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._states)

    def __contains__(self, state_id: int) -> bool:
        return state_id in self._ids

    def __getitem__(self, row: int) -> State:
        return self._states[row]

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
                if state.state_id not in self._ids:
                    rows.setdefault(state.state_id, row)
            first, last = len(self._states), len(self._states) + len(rows)
            if last > self.capacity:
                raise DeltaFullError(
                    f"{len(rows)} new states do not fit beside {first} of at most {self.capacity}"
                )
            if rows:
                chosen = list(rows.values())
                self._index.add(np.ascontiguousarray(embeddings[chosen]))
                self._outcome_ns[first:last] = [states[row].outcome_ns for row in chosen]
                self._states.extend(states[row] for row in chosen)
                self._ids.update(rows)
            return len(rows)

    def search(
        self, query: NDArray[np.float32], count: int, before_ns: int | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the nearest states whose outcome was known before an instant.

        Args:
            query: (1, dimension) float32, length 1.
            count: Most to return.
            before_ns: The instant, nanoseconds UTC; None for every state.

        Returns:
            Similarities and rows, nearest first.
        """
        with self._lock:
            total = len(self._states)
            if total == 0:
                return _NOTHING
            parameters = None
            if before_ns is not None:
                known = self._outcome_ns[:total] < before_ns
                count = min(count, int(known.sum()))
                # The selector points into `bitmap`, which lives until this function returns.
                bitmap = np.packbits(known, bitorder="little")
                parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(total, faiss.swig_ptr(bitmap)))  # type: ignore[call-arg]
            count = min(count, total)
            if count == 0:
                return _NOTHING
            similarity, row = self._index.search(query, count, params=parameters)
            return similarity[0], row[0]


_NOTHING = (np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64))
