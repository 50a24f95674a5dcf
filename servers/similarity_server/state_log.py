"""What AddStates and DeleteStates changed, in Postgres: the source of truth that a start replays.

One process writes one index: it holds an advisory lock of its database session. When the session
breaks, the next change connects again, takes the lock again, and first reads what another process
may have written in between.
"""

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import numpy as np
import structlog
from numpy.typing import NDArray

from journal.connection import address_of, connect
from journal.errors import DatabaseError, JournalError, explain
from journal.migrations import migrate
from server_runtime.errors import StartError
from similarity_server.states import State

_log = structlog.get_logger()

_BATCH_ROWS = 2_000
_CONNECT_TIMEOUT_S = 5.0

_INSERT = """
WITH written AS (
    INSERT INTO similarity_states (index_name, index_version, state_id, con_id, symbol, event_ns, outcome_ns,
                                   bar_ns, forward_return_bps, embedding)
    SELECT $1, $2, r.* FROM unnest($3::bigint[], $4::bigint[], $5::text[], $6::bigint[], $7::bigint[],
                                   $8::bigint[], $9::real[], $10::bytea[]) AS r
    ON CONFLICT DO NOTHING
    RETURNING sequence
)
SELECT max(sequence) FROM written
"""
_DELETE = """
WITH written AS (
    INSERT INTO similarity_states AS s (index_name, index_version, state_id, deleted)
    SELECT $1, $2, r.state_id, true FROM unnest($3::bigint[]) AS r (state_id)
    ON CONFLICT (index_name, index_version, state_id)
        DO UPDATE SET deleted = true, sequence = nextval('similarity_states_sequence') WHERE NOT s.deleted
    RETURNING sequence
)
SELECT max(sequence) FROM written
"""
_AFTER = """
SELECT state_id, sequence, deleted, con_id, symbol, event_ns, outcome_ns, bar_ns, forward_return_bps, embedding
FROM similarity_states
WHERE index_name = $1 AND index_version = $2 AND sequence > $3
ORDER BY sequence LIMIT $4
"""


class IndexLockedError(DatabaseError):
    """Another process writes this index."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Some changes, in the order they were made.

    Attributes:
        states: That were added and are not deleted since.
        embeddings: (n, dimension) float32, theirs.
        deleted: Ids that were deleted.
        sequence: Number of the last of these changes.
    """

    states: Sequence[State]
    embeddings: NDArray[np.float32]
    deleted: Sequence[int]
    sequence: int


class StateLog:
    """The table of changes of one index. Used from one event loop, one change at a time."""

    def __init__(self, database_url: str, name: str, version: int, dimension: int, *, writes: bool) -> None:
        """Prepare; `open` connects.

        Args:
            database_url: postgresql://…
            name: Name of the index.
            version: Its version.
            dimension: Length of an embedding.
            writes: Whether this process writes; False for a replica that only reads.

        Raises:
            SettingsError: The address is not one.
        """
        self.where = address_of(database_url)
        self.writes = writes
        self._url = database_url
        self._key = (name, version)
        self._dimension = dimension
        self._connection: Any = None

    @property
    def connected(self) -> bool:
        """Whether there is a session with the database."""
        return self._connection is not None and not self._connection.is_closed()

    async def open(self) -> None:
        """Connect, bring the schema up to date, and become the only writer of the index.

        Raises:
            IndexLockedError: Another process writes it.
            JournalError: The database cannot be used.
        """
        await self.close()
        connection = await connect(self._url, timeout_s=_CONNECT_TIMEOUT_S)
        try:
            await migrate(connection, self.where)
            if self.writes and not await connection.fetchval("SELECT pg_try_advisory_lock($1)", self._lock):
                name, version = self._key
                raise IndexLockedError(
                    f"another process writes index {name!r} version {version} at {self.where}: stop it, "
                    "or start this one with --read-only"
                )
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection

    async def close(self) -> None:
        """End the session, and give the lock back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def add(self, states: Sequence[State], embeddings: NDArray[np.float32]) -> int | None:
        """Store states, all or none.

        Args:
            states: What to store.
            embeddings: (n, dimension) float32, theirs.

        Returns:
            Number of the last change; None when all were there.

        Raises:
            DatabaseError: The database is away or refuses.
        """
        rows = embeddings.astype("<f4", copy=False)
        return await self._fetch(
            _INSERT,
            [s.state_id for s in states],
            [s.con_id for s in states],
            [s.symbol for s in states],
            [s.event_ns for s in states],
            [s.outcome_ns for s in states],
            [s.bar_ns for s in states],
            [s.forward_return_bps for s in states],
            [row.tobytes() for row in rows],
        )

    async def delete(self, state_ids: Sequence[int]) -> int | None:
        """Store that states were deleted, all or none.

        Returns:
            Number of the last change; None when all were deleted before.

        Raises:
            DatabaseError: The database is away or refuses.
        """
        return await self._fetch(_DELETE, list(state_ids))

    async def after(self, sequence: int) -> AsyncIterator[Changes]:
        """Yield the changes after one, in batches.

        Raises:
            DatabaseError: The database is away, or a row does not fit the index.
        """
        while True:
            try:
                rows = await self._session.fetch(_AFTER, *self._key, sequence, _BATCH_ROWS)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as e:
                raise DatabaseError(explain(e, self.where)) from e
            if not rows:
                return
            sequence = rows[-1]["sequence"]
            yield self._changes(rows, sequence)

    def _changes(self, rows: Sequence[Any], sequence: int) -> Changes:
        added = [row for row in rows if not row["deleted"]]
        embeddings = np.empty((len(added), self._dimension), dtype=np.float32)
        for i, row in enumerate(added):
            if len(row["embedding"]) != 4 * self._dimension:
                raise DatabaseError(
                    f"similarity_states at {self.where}: state {row['state_id']} has {len(row['embedding'])} bytes "
                    f"of embedding, the index has {self._dimension} dimensions: delete the row, or serve the "
                    "version that it belongs to"
                )
            embeddings[i] = np.frombuffer(row["embedding"], dtype="<f4")
        states = [
            State(row["state_id"], row["con_id"], row["symbol"], row["event_ns"], row["outcome_ns"],
                  row["bar_ns"], row["forward_return_bps"])
            for row in added
        ]  # fmt: skip
        return Changes(states, embeddings, [row["state_id"] for row in rows if row["deleted"]], sequence)

    async def _fetch(self, statement: str, *columns: Sequence[Any]) -> int | None:
        try:
            sequence: int | None = await self._session.fetchval(statement, *self._key, *columns)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as e:
            # Whether it was stored is not known: the next change reads the table again first.
            await self.close()
            raise DatabaseError(explain(e, self.where)) from e
        return sequence

    @property
    def _session(self) -> Any:
        if not self.connected:
            raise DatabaseError(f"there is no connection to Postgres at {self.where}: it is tried again")
        return self._connection

    @property
    def _lock(self) -> int:
        name, version = self._key
        digest = hashlib.sha256(f"tradeserve similarity {name} {version}".encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)


async def opened(database_url: str, name: str, version: int, dimension: int, *, writes: bool) -> StateLog:
    """Return a log that is connected.

    Raises:
        StartError: The database cannot be used, or another process writes the index.
    """
    try:
        log = StateLog(database_url, name, version, dimension, writes=writes)
        await log.open()
    except JournalError as e:
        raise StartError(str(e)) from e
    return log
