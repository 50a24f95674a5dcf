"""Search past market states: an immutable main part and the states added since.

A search asks the main part and what was added since, and merges the two answers; what was added is
always searched exactly. A merge makes a new main part of both beside the old one, off the event
loop, and swaps the reference: searches neither wait for it nor see half of it.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import faiss
import numpy as np
from numpy.typing import NDArray

from similarity_server import building
from similarity_server.added import AddedStates, DeltaFullError
from similarity_server.artifact import IndexCard
from similarity_server.filters import EVERYTHING, Filter
from similarity_server.kinds import AUTO, choose
from similarity_server.main_index import MainIndex
from similarity_server.states import GrowingTable, State, StateTable

DEFAULT_MAX_ADDED = 20_000
DEFAULT_MERGE_AT = 5_000
DEFAULT_MAX_STATES = 4_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What an index may hold, and when it merges.

    Attributes:
        max_added: Most states that are added and not merged yet.
        merge_at: States that were added when a merge is due; 0 for never.
        max_states: Most states in all.
        kind: "auto", "flat", "pq" or "ivf": how the merged part is searched.
    """

    max_added: int = DEFAULT_MAX_ADDED
    merge_at: int = DEFAULT_MERGE_AT
    max_states: int = DEFAULT_MAX_STATES
    kind: str = AUTO


@dataclass(frozen=True, slots=True)
class Match:
    """One neighbour.

    Attributes:
        state: The past state.
        similarity: Its cosine similarity to the query, -1 to 1.
    """

    state: State
    similarity: float


@dataclass(frozen=True, slots=True)
class _Parts:
    """What one search looks into; replaced as a whole."""

    main: MainIndex
    merging: AddedStates | None
    added: AddedStates

    def deltas(self) -> tuple[AddedStates, ...]:
        return (self.added,) if self.merging is None else (self.merging, self.added)


class StateIndex:
    """The states of one index. Searching, adding, deleting and merging may overlap from any thread."""

    def __init__(
        self,
        card: IndexCard,
        main: MainIndex,
        limits: Limits | None = None,
        *,
        store: GrowingTable | None = None,
        deleted: Iterable[int] = (),
        as_of_ns: int = 0,
        accelerate: Callable[[MainIndex], faiss.Index] | None = None,
    ) -> None:
        """Serve a main part.

        Args:
            card: What the index is.
            main: Its states.
            limits: What it may hold.
            store: Holds the table of `main`; made of it when None.
            deleted: Ids that were deleted and are not used again.
            as_of_ns: Latest event when it is later than the card's.
            accelerate: Makes what searches a main part faster and exactly, such as a GPU.
        """
        self.card = card
        self.limits = limits or Limits()
        self._accelerate = accelerate
        main.exact = accelerate(main) if accelerate is not None else None
        self._parts = _Parts(main, None, AddedStates(card.dimension, self.limits.max_added))
        self._store = store or GrowingTable.of(main.table)
        self._deleted = set(deleted)
        self._deleted_while_merging: list[int] = []
        self._as_of_ns = max(card.as_of_ns, as_of_ns)
        self._changing = threading.Lock()  # for adds, deletes and the swap; searches take none
        self._merging = threading.Lock()  # for one merge at a time

    def __len__(self) -> int:
        parts = self._parts
        return len(parts.main) + sum(map(len, parts.deltas()))

    @property
    def main(self) -> MainIndex:
        """The main part as it is now."""
        return self._parts.main

    @property
    def added_count(self) -> int:
        """Number of states that are not merged yet."""
        return sum(map(len, self._parts.deltas()))

    @property
    def deleted(self) -> frozenset[int]:
        """Ids that were deleted."""
        return frozenset(self._deleted)

    @property
    def deleted_count(self) -> int:
        """Number of ids that were deleted."""
        return len(self._deleted)

    @property
    def as_of_ns(self) -> int:
        """Latest event in the index, nanoseconds UTC."""
        return self._as_of_ns

    @property
    def merge_is_due(self) -> bool:
        """Whether so many states were added that they are to be merged."""
        return 0 < self.limits.merge_at <= len(self._parts.added)

    def search(
        self, query: NDArray[np.float32], count: int, wanted: Filter | int | None = None
    ) -> list[Match]:
        """Find the states nearest to a query.

        Args:
            query: (dimension,) float32, length 1.
            count: Most to return, at least 1.
            wanted: Which states count; an instant (nanoseconds UTC) for those whose outcome was known
                strictly before; None for all.

        Returns:
            Nearest first, ties by state_id; fewer than `count` when fewer qualify.
        """
        # A second thread gains nothing and waits while spinning: beside busy cores a search of an exact index took
        # 4 ms instead of 0.2. The number holds for the thread that sets it, and searches run on two.
        faiss.omp_set_num_threads(1)
        filter_ = wanted if isinstance(wanted, Filter) else Filter(before_ns=wanted)
        parts = self._parts
        similarity, rows = parts.main.search(query, count, filter_)
        # Rounding may lift the cosine of equal vectors above 1.
        found = list(map(Match, parts.main.table.states(rows), similarity.clip(-1.0, 1.0).tolist()))
        for delta in parts.deltas():
            similarity, rows = delta.search(query, count, filter_)
            found += map(Match, map(delta.__getitem__, rows.tolist()), similarity.clip(-1.0, 1.0).tolist())
        found.sort(key=lambda match: (-match.similarity, match.state.state_id))
        return found[:count]

    def new_rows(self, states: Sequence[State]) -> list[int]:
        """Return which of some states are new, each id once, after checking that they fit.

        Raises:
            DeltaFullError: They do not.
        """
        seen: set[int] = set()
        rows = []
        for row, state in enumerate(states):
            if state.state_id not in seen and not self._has(state.state_id):
                rows.append(row)
                seen.add(state.state_id)
        room = self._parts.added.room
        if len(rows) > room:
            full = f"{len(rows)} new states do not fit beside {self.added_count} of at most {self.limits.max_added}"
            raise DeltaFullError(f"{full} that are not merged yet")
        if len(self) + len(rows) > self.limits.max_states:
            raise DeltaFullError(
                f"{len(rows)} new states do not fit beside {len(self)} of at most {self.limits.max_states}"
            )
        return rows

    def add(self, states: Sequence[State], embeddings: NDArray[np.float32]) -> int:
        """Add states; those whose state_id is there already, or was deleted, change nothing.

        Args:
            states: What to add.
            embeddings: (n, dimension) float32, length 1.

        Returns:
            How many were new.

        Raises:
            DeltaFullError: They do not all fit; none was added.
        """
        with self._changing:
            rows = self.new_rows(states)
            fresh = [states[row] for row in rows]
            added = self._parts.added.add(fresh, embeddings[rows])
            self._as_of_ns = max([self._as_of_ns, *(state.event_ns for state in fresh)])
            return added

    def delete(self, state_ids: Sequence[int]) -> int:
        """Delete states; no search that starts later finds them. Unknown ids change nothing.

        Returns:
            How many were there.
        """
        with self._changing:
            parts = self._parts
            gone = [
                state_id
                for state_id in dict.fromkeys(state_ids)
                if parts.main.delete(state_id) or any(delta.delete(state_id) for delta in parts.deltas())
            ]
            self._deleted.update(gone)
            self._deleted_while_merging += gone if parts.merging is not None else []
            return len(gone)

    def find(self, state_ids: Sequence[int]) -> list[int]:
        """Return which ids are in the index, each once."""
        return [i for i in dict.fromkeys(state_ids) if i not in self._deleted and self._has(i)]

    def block(self, state_ids: Iterable[int]) -> None:
        """Take note of ids that were deleted before, so that they are not used again."""
        with self._changing:
            self._deleted.update(state_ids)

    def merge(self) -> int:
        """Merge what was added into the main part. Takes a while: call it off the event loop.

        Returns:
            How many states were merged.
        """
        with self._merging:
            with self._changing:
                parts = self._parts
                if len(parts.added) == 0:
                    return 0
                fresh = AddedStates(self.card.dimension, self.limits.max_added)
                self._parts = _Parts(parts.main, parts.added, fresh)
                self._deleted_while_merging = []
            try:
                new = parts.added.table()
                count = len(parts.main.table) + len(new)
                kind = choose(count, self.card.dimension, self.limits.kind)
                main = building.merged(parts.main, self._store, new, kind)
                main.exact = self._accelerate(main) if self._accelerate is not None else None
            except BaseException:
                with self._changing:
                    self._parts = replace(self._parts, merging=None, added=self._rejoined(parts.added))
                    self._store = GrowingTable.of(parts.main.table)
                raise
            with self._changing:
                for state_id in self._deleted_while_merging:
                    main.delete(state_id)
                self._parts = _Parts(main, None, self._parts.added)
            return len(new)

    def _rejoined(self, first: AddedStates) -> AddedStates:
        """Return both deltas as one, after a merge that failed: nothing that was added is lost."""
        second = self._parts.added
        both = AddedStates(self.card.dimension, first.capacity + second.capacity)
        for delta in (first, second):
            table = delta.table()
            both.add(table.states(np.arange(len(table))), table.embedding)
        both.capacity = max(self.limits.max_added, len(both))
        return both

    def _has(self, state_id: int) -> bool:
        parts = self._parts
        return (
            state_id in self._deleted
            or parts.main.row_of(state_id) is not None
            or any(state_id in delta for delta in parts.deltas())
        )


def built(card: IndexCard, table: StateTable, limits: Limits | None = None) -> StateIndex:
    """Return an index that is built from a table now.

    Args:
        card: What the index is.
        table: Its states, in ascending order of outcome_ns.
        limits: What it may hold.

    Raises:
        ValueError: The kind that the limits ask for does not fit.
    """
    limits = limits or Limits()
    main = building.build(table, choose(len(table), card.dimension, limits.kind))
    return StateIndex(card, main, limits)


__all__ = ["EVERYTHING", "DeltaFullError", "Filter", "Limits", "Match", "StateIndex", "built"]
