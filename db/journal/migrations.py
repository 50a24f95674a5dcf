"""Brings a database to this release's schema: applies what is missing, in one transaction."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from journal.connection import CONNECT_TIMEOUT_S, address_of, connect, server_version
from journal.errors import DatabaseError, JournalError, MigrationError, explain

_LOCK = 0x74726164  # any number of ours: one migration at a time per database
_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of migrations/."""

    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Hex digest of the text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load_migrations(folder: Path | None = None) -> list[Migration]:
    """Read the migrations in order.

    Raises:
        MigrationError: A file is misnamed, or a number is missing or used twice.
    """
    found: list[Migration] = []
    for path in sorted((folder or sql_folder() / "migrations").glob("*.sql")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"migration {path.name}: name it NNNN_what_it_does.sql")
        found.append(Migration(int(match[1]), path.name, path.read_text(encoding="utf-8")))
    versions = [migration.version for migration in found]
    if versions != list(range(1, len(found) + 1)):
        raise MigrationError(f"migrations are numbered {versions}: number them 0001, 0002, … without a gap")
    return found


async def migrate(connection: Any, where: str, migrations: list[Migration] | None = None) -> list[str]:
    """Apply what is missing, under a lock, in one transaction.

    Connections that were open before must be made anew afterwards: they may remember old types.

    Args:
        connection: asyncpg connection.
        where: Address for messages.
        migrations: Default: those of this release.

    Returns:
        Names of the migrations that were applied now.

    Raises:
        MigrationError: An applied migration was changed since, or the database is newer than this release.
        DatabaseError: The server refused; nothing was changed.
    """
    wanted = load_migrations() if migrations is None else migrations
    try:
        if await _missing(connection, wanted, where) == []:
            return []
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            missing = await _missing(connection, wanted, where)
            for migration in missing:
                await connection.execute(migration.sql)
                await connection.execute(
                    "INSERT INTO schema_migrations (version, name, sha256) VALUES ($1, $2, $3)",
                    migration.version,
                    migration.name,
                    migration.sha256,
                )
            return [migration.name for migration in missing]
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise DatabaseError(f"migrating failed, nothing was changed: {explain(error, where)}") from error


async def _missing(connection: Any, wanted: list[Migration], where: str) -> list[Migration]:
    if await connection.fetchval("SELECT to_regclass('schema_migrations')") is None:
        return wanted
    applied = {
        row["version"]: row
        for row in await connection.fetch("SELECT version, name, sha256 FROM schema_migrations")
    }
    known = {migration.version: migration for migration in wanted}
    for version, row in sorted(applied.items()):
        if version not in known:
            raise MigrationError(
                f"the database at {where} has migration {row['name']}, which this release does not know: "
                "upgrade tradeserve or use another database"
            )
        if known[version].sha256 != row["sha256"]:
            raise MigrationError(
                f"migration {known[version].name} was changed after it was applied at {where} "
                f"(sha256 {row['sha256'][:12]}… there, {known[version].sha256[:12]}… here): "
                "restore the file and put the change into a new migration"
            )
    return [migration for migration in wanted if migration.version not in applied]


async def check_database(database_url: str, *, timeout_s: float = CONNECT_TIMEOUT_S) -> str:
    """Connect once, bring the schema up to date, and return the server's version.

    Raises:
        JournalError: It cannot be used; one line that says what to do.
    """
    connection = await connect(database_url, timeout_s=timeout_s)
    try:
        await migrate(connection, address_of(database_url))
        return server_version(connection)
    finally:
        connection.terminate()


def sql_folder() -> Path:
    """Return the folder with schema.sql and migrations/: inside an installed package, or db/.

    Raises:
        JournalError: The package was built without them.
    """
    for folder in (Path(__file__).parent / "sql", Path(__file__).parent.parent):
        if (folder / "migrations").is_dir():
            return folder
    raise JournalError("this installation lacks the journal's SQL files: install tradeserve again")
