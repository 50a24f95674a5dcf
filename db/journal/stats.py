"""What the journal says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TableStats:
    """Rows of one table since the journal was opened.

    Attributes:
        recorded: Handed to the journal.
        written: In Postgres.
        spooled: Only on the local disk for now.
        queued: In memory on their way.
        dropped: Given up because there was too much (telemetry), or no disk for long.
        rejected: Refused by Postgres or not encodable; kept as text in the spool folder.
    """

    recorded: int
    written: int
    spooled: int
    queued: int
    dropped: int
    rejected: int


@dataclass(frozen=True, slots=True)
class JournalStats:
    """How recording stands.

    Attributes:
        tables: By table name; only tables that got rows.
        connected: Whether Postgres takes rows.
        last_error: Last reason why it did not, or why rows were lost; "" when there was none.
        spool_bytes: Size of this run's spool.
        replayed: Rows of this and earlier runs that came from the spool into Postgres.
    """

    tables: Mapping[str, TableStats]
    connected: bool
    last_error: str
    spool_bytes: int
    replayed: int

    @property
    def rows_written(self) -> Mapping[str, int]:
        """Rows in Postgres by table."""
        return {name: table.written for name, table in self.tables.items()}
