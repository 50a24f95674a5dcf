"""Which states a search wants, and which rows of a table those are."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from similarity_server.states import StateTable

Rows = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which states count.

    Attributes:
        before_ns: Only those whose outcome was known strictly before, nanoseconds UTC; None for all.
        con_ids: Only these instruments; empty for all.
        bar_ns: Only this length of a bar; None for all.
    """

    before_ns: int | None = None
    con_ids: frozenset[int] = frozenset()
    bar_ns: int | None = None

    @property
    def by_group(self) -> bool:
        """Whether it asks for more than a time."""
        return bool(self.con_ids) or self.bar_ns is not None

    def mask(
        self, con_id: NDArray[np.int64], bar_ns: NDArray[np.int64], outcome_ns: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return which rows of these columns count; for small tables."""
        wanted = np.ones(len(con_id), dtype=bool)
        if self.before_ns is not None:
            wanted &= outcome_ns < self.before_ns
        if self.con_ids:
            wanted &= np.isin(con_id, np.fromiter(self.con_ids, np.int64, len(self.con_ids)))
        if self.bar_ns is not None:
            wanted &= bar_ns == self.bar_ns
        return wanted


EVERYTHING = Filter()


class Groups:
    """The rows of every instrument and length of a bar, in ascending order."""

    def __init__(self, rows: dict[tuple[int, int], Rows]) -> None:
        self._rows = rows

    @classmethod
    def of(cls, table: StateTable, first: int = 0) -> "Groups":
        """Group the rows of a table.

        Args:
            table: The table.
            first: Number of its first row.
        """
        if len(table) == 0:
            return cls({})
        order = np.lexsort((table.bar_ns, table.con_id))
        con_id, bar_ns = table.con_id[order], table.bar_ns[order]
        starts = np.flatnonzero((np.diff(con_id) != 0) | (np.diff(bar_ns) != 0)) + 1
        rows = np.split((order + first).astype(np.int32), starts)
        heads = np.concatenate(([0], starts))
        keys = zip(con_id[heads].tolist(), bar_ns[heads].tolist(), strict=True)
        return cls(dict(zip(keys, rows, strict=True)))

    def and_those_behind(self, later: "Groups") -> "Groups":
        """Return both together, where every row of `later` comes behind all rows of this one."""
        rows = dict(self._rows)
        for key, more in later._rows.items():
            rows[key] = np.concatenate((rows[key], more)) if key in rows else more
        return Groups(rows)

    def find(self, wanted: Filter) -> list[Rows]:
        """Return the rows of every group that a filter names; its time is not looked at."""
        return [
            rows
            for (con_id, bar_ns), rows in self._rows.items()
            if (not wanted.con_ids or con_id in wanted.con_ids) and wanted.bar_ns in (None, bar_ns)
        ]
