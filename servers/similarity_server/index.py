"""Search past market states: an immutable main index and the states added since.

Both are exact (FAISS Flat, inner product of unit vectors = cosine). At 20,000 states of 128
dimensions a search takes about half a millisecond of one core, so it runs on the event loop.
Source for the sizes: the measurements of FAISS 1.15 that this design rests on; beyond ~100,000
states an approximate index is due.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import structlog
from numpy.typing import NDArray

from similarity_server.added import AddedStates, State
from similarity_server.artifact import IndexCard, StateTable, read_index

_log = structlog.get_logger()

DEFAULT_MAX_ADDED = 20_000
_FLAT_STATES = 100_000


@dataclass(frozen=True, slots=True)
class Match:
    """One neighbour.

    Attributes:
        state: The past state.
        similarity: Its cosine similarity to the query, -1 to 1.
    """

    state: State
    similarity: float


class StateIndex:
    """The states of one index. Searching and adding may overlap from any thread."""

    def __init__(self, card: IndexCard, table: StateTable, max_added: int = DEFAULT_MAX_ADDED) -> None:
        """Index a table of states.

        Args:
            card: What the index is.
            table: Its states, in ascending order of outcome_ns.
            max_added: Most states that can be added.
        """
        self.card = card
        self._outcome_ns = table.outcome_ns
        self._main = faiss.IndexFlatIP(card.dimension)
        self._main.add(table.embedding)
        self._ids = np.sort(table.state_id)
        self._states = [
            State(*fields)
            for fields in zip(
                table.state_id.tolist(),
                table.con_id.tolist(),
                table.symbol,
                table.event_ns.tolist(),
                table.outcome_ns.tolist(),
                table.bar_ns.tolist(),
                table.forward_return_bps.tolist(),
                strict=True,
            )
        ]
        self._added = AddedStates(card.dimension, max_added)
        self._as_of_ns = card.as_of_ns

    def __len__(self) -> int:
        return len(self._states) + len(self._added)

    @property
    def added_count(self) -> int:
        """Number of states added since the index was loaded; they are not durable."""
        return len(self._added)

    @property
    def as_of_ns(self) -> int:
        """Latest event in the index, nanoseconds UTC."""
        return self._as_of_ns

    def search(self, query: NDArray[np.float32], count: int, before_ns: int | None = None) -> list[Match]:
        """Find the states nearest to a query.

        Args:
            query: (dimension,) float32, length 1.
            count: Most to return, at least 1.
            before_ns: Only states whose outcome was known strictly before count; None for all.

        Returns:
            Nearest first, ties by state_id; fewer than `count` when fewer qualify.
        """
        row_of_query = query.reshape(1, -1)
        similarity, row = self._search_main(row_of_query, count, before_ns)
        added_similarity, added_row = self._added.search(row_of_query, count, before_ns)
        states = self._states
        matches = [
            (-s, states[i].state_id, states[i])
            for s, i in zip(similarity.tolist(), row.tolist(), strict=True)
        ]
        for s, i in zip(added_similarity.tolist(), added_row.tolist(), strict=True):
            state = self._added[i]
            matches.append((-s, state.state_id, state))
        matches.sort(key=lambda match: match[:2])
        # Rounding may lift the cosine of equal vectors above 1.
        return [Match(state, min(1.0, max(-1.0, -negative))) for negative, _, state in matches[:count]]

    def add(self, states: Sequence[State], embeddings: NDArray[np.float32]) -> int:
        """Add states; those whose state_id is there already change nothing.

        Args:
            states: What to add.
            embeddings: (n, dimension) float32, length 1.

        Returns:
            How many were new.

        Raises:
            DeltaFullError: They do not all fit; none was added.
        """
        new = [row for row, state in enumerate(states) if not self._in_main(state.state_id)]
        fresh = [states[row] for row in new]
        added = self._added.add(fresh, embeddings[new])
        self._as_of_ns = max([self._as_of_ns, *(state.event_ns for state in fresh)])
        return added

    def _in_main(self, state_id: int) -> bool:
        at = int(np.searchsorted(self._ids, state_id))
        return at < len(self._ids) and int(self._ids[at]) == state_id

    def _search_main(
        self, query: NDArray[np.float32], count: int, before_ns: int | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        total = len(self._states)
        parameters = None
        if before_ns is not None:
            known = int(np.searchsorted(self._outcome_ns, before_ns, side="left"))
            if known < total:
                # FAISS turns a range into a shorter index: an early instant is even faster.
                parameters = faiss.SearchParameters(sel=faiss.IDSelectorRange(0, known, True))  # type: ignore[call-arg]
                total = known
        count = min(count, total)
        if count == 0:
            return np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64)
        similarity, row = self._main.search(query, count, params=parameters)
        return similarity[0], row[0]


def load_index(indexes: Path, name: str, version: int = 0, max_added: int = DEFAULT_MAX_ADDED) -> StateIndex:
    """Load one index from disk.

    Args:
        indexes: Folder of all indexes.
        name: Name of the index.
        version: Its version; 0 takes the highest.
        max_added: Most states that can be added.

    Raises:
        StartError: It is missing, damaged, or does not match its card.
    """
    card, table = read_index(indexes, name, version)
    # A search of one query never gains from a second thread, and stalls when the cores are busy.
    faiss.omp_set_num_threads(1)
    index = StateIndex(card, table, max_added)
    if len(index) > _FLAT_STATES:
        _log.warning("exact search is slow at this size: an approximate index is due", states=len(index))
    return index
