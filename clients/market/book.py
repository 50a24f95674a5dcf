"""An order book kept up from depth operations, with the list semantics of the TWS protocol."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from market.events import BookLevel, BookSnapshot


class DepthOperation(IntEnum):
    """What to do with a row; the numbers are those of the TWS protocol."""

    INSERT = 0
    UPDATE = 1
    DELETE = 2


class BookSide(StrEnum):
    """Side of the book."""

    BID = "bid"
    ASK = "ask"


@dataclass(frozen=True, slots=True)
class DepthUpdate:
    """One operation on one row.

    Attributes:
        event_ns: When it happened.
        side: Which list.
        operation: INSERT shifts the rows from `position` on down; DELETE shifts them up.
        position: Row, 0 is the best.
        price: > 0; ignored by DELETE.
        size: >= 0; ignored by DELETE.
        receive_ns: Monotonic time when it came off the socket.
    """

    event_ns: int
    side: BookSide
    operation: DepthOperation
    position: int
    price: float = 0.0
    size: float = 0.0
    receive_ns: int = 0


class OrderBook:
    """Rows of both sides of one instrument, best first.

    An operation that can't be right is rejected and changes nothing; the caller then resubscribes,
    because from there on the rows differ from the exchange's.

    Args:
        con_id: Instrument.
        depth_rows: Rows kept per side, > 0; an insert pushes the row beyond it out.
    """

    def __init__(self, con_id: int, depth_rows: int) -> None:
        if depth_rows <= 0:
            raise ValueError(f"depth_rows is {depth_rows}; a number > 0 is needed")
        self.con_id = con_id
        self.depth_rows = depth_rows
        self._rows: dict[BookSide, list[BookLevel]] = {BookSide.BID: [], BookSide.ASK: []}
        self._event_ns = 0
        self._receive_ns = 0

    def apply(self, update: DepthUpdate) -> str | None:
        """Apply one operation; return why it was rejected, or None."""
        rows = self._rows[update.side]
        where = f"{update.operation.name.lower()} of {update.side.value} row {update.position}"
        inserting = update.operation is DepthOperation.INSERT
        limit = min(len(rows) + 1, self.depth_rows) if inserting else len(rows)
        if not 0 <= update.position < limit:
            return f"{where}: the side has {len(rows)} of at most {self.depth_rows} rows"
        if update.operation is DepthOperation.DELETE:
            del rows[update.position]
        else:
            if not (math.isfinite(update.price) and update.price > 0):
                return f"{where}: price {update.price!r} is not a number > 0"
            if not (math.isfinite(update.size) and update.size >= 0):
                return f"{where}: size {update.size!r} is not a number >= 0"
            level = BookLevel(update.price, update.size)
            if inserting:
                rows.insert(update.position, level)
                del rows[self.depth_rows :]
            else:
                rows[update.position] = level
        self._event_ns = max(self._event_ns, update.event_ns)
        self._receive_ns = max(self._receive_ns, update.receive_ns)
        return None

    def reset(self) -> None:
        """Empty both sides, as after a resubscription or TWS code 317."""
        for rows in self._rows.values():
            rows.clear()

    @property
    def crossed(self) -> bool:
        """Whether the best bid is at or above the best ask."""
        bids, asks = self._rows[BookSide.BID], self._rows[BookSide.ASK]
        return bool(bids and asks and bids[0].price >= asks[0].price)

    def problem(self) -> str | None:
        """Return why the book must not be traded on now, or None.

        Between the operations of one change a book is often crossed or out of order for a moment.
        """
        bids, asks = self._rows[BookSide.BID], self._rows[BookSide.ASK]
        if not bids or not asks:
            return "empty: no bids" if not bids else "empty: no asks"
        if self.crossed:
            return f"crossed: bid {bids[0].price!r} is at or above ask {asks[0].price!r}"
        for row in range(1, len(bids)):
            if bids[row].price >= bids[row - 1].price:
                return f"out of order: bid row {row} is not below row {row - 1}"
        for row in range(1, len(asks)):
            if asks[row].price <= asks[row - 1].price:
                return f"out of order: ask row {row} is not above row {row - 1}"
        return None

    def snapshot(self) -> BookSnapshot:
        """Return the book as it is."""
        bids, asks = self._rows[BookSide.BID], self._rows[BookSide.ASK]
        return BookSnapshot(self.con_id, self._event_ns, tuple(bids), tuple(asks), self._receive_ns)
