"""A batch: encoded rows of one table under an id that makes writing them repeatable."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import orjson

from journal.errors import SpoolError


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one table that are written together, exactly once.

    Attributes:
        batch_id: Never used again; Postgres remembers it with the rows.
        table: Table name.
        row_count: Rows in the payload.
        payload: Binary COPY stream (telemetry) or JSON array.
        days: UTC days of telemetry rows, since 1970-01-01; their partitions must be there.
        on_disk: The batch is in a durable segment already.
    """

    batch_id: UUID
    table: str
    row_count: int
    payload: bytes
    days: tuple[int, ...] = ()
    on_disk: bool = False

    def to_record(self) -> bytes:
        """Return the batch as a record of a segment file."""
        head = {
            "batch_id": self.batch_id.hex,
            "table": self.table,
            "row_count": self.row_count,
            "days": self.days,
        }
        return orjson.dumps(head) + b"\n" + self.payload

    @classmethod
    def from_record(cls, record: bytes) -> Batch:
        """Read a record of a segment file.

        Raises:
            SpoolError: It is no record of a journal.
        """
        try:
            line, payload = record.split(b"\n", 1)
            head = orjson.loads(line)
            return cls(
                batch_id=UUID(hex=head["batch_id"]),
                table=str(head["table"]),
                row_count=int(head["row_count"]),
                payload=payload,
                days=tuple(int(day) for day in head["days"]),
                on_disk=True,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise SpoolError(f"a record in the spool is not a batch of rows: {error}") from error
