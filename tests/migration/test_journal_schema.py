import asyncio
import dataclasses
import re
import subprocess
from pathlib import Path

import pytest

from journal.binaries import PostgresPrograms
from journal.connection import connect
from journal.errors import DatabaseError, MigrationError
from journal.migrations import Migration, load_migrations, migrate, sql_folder


def dump(programs: PostgresPrograms, url: str) -> str:
    done = subprocess.run(
        [programs.folder / "pg_dump", "--schema-only", "--no-owner", "--no-privileges", url],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return re.sub(r"^\\(un)?restrict .*$", "", done.stdout, flags=re.MULTILINE)


async def execute(url: str, sql: str) -> None:
    connection = await connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


async def up(url: str, migrations: list[Migration] | None = None) -> list[str]:
    connection = await connect(url)
    try:
        return await migrate(connection, "here", migrations)
    finally:
        await connection.close()


async def test_all_migrations_lead_to_schema_sql(
    postgres_url: str, another_postgres_url: str, postgres_programs: PostgresPrograms
) -> None:
    await up(postgres_url)
    await execute(another_postgres_url, (sql_folder() / "schema.sql").read_text())
    migrated = await asyncio.to_thread(dump, postgres_programs, postgres_url)
    written = await asyncio.to_thread(dump, postgres_programs, another_postgres_url)
    assert migrated == written
    assert "CREATE TABLE public.decisions" in migrated


async def test_an_empty_database_comes_up_once_and_then_stays(postgres_url: str) -> None:
    names = [migration.name for migration in load_migrations()]
    assert await up(postgres_url) == names
    assert await up(postgres_url) == []


async def test_two_that_migrate_at_once_apply_each_migration_once(postgres_url: str) -> None:
    applied = await asyncio.gather(*(up(postgres_url) for _ in range(4)))
    assert sorted(map(len, applied)) == [0, 0, 0, len(load_migrations())]


async def test_a_migration_that_was_changed_after_it_was_applied_is_named(postgres_url: str) -> None:
    await up(postgres_url)
    first, *rest = load_migrations()
    changed = dataclasses.replace(first, sql=first.sql + "\n-- changed")
    with pytest.raises(MigrationError, match=r"0001_initial\.sql was changed after it was applied"):
        await up(postgres_url, [changed, *rest])


async def test_a_database_that_is_newer_than_this_release_is_refused(postgres_url: str) -> None:
    await up(postgres_url)
    await execute(postgres_url, "INSERT INTO schema_migrations VALUES (999, '0999_future.sql', 'x')")
    with pytest.raises(MigrationError, match=r"0999_future\.sql.*upgrade tradeserve"):
        await up(postgres_url)


async def test_a_migration_that_fails_changes_nothing(postgres_url: str) -> None:
    migrations = load_migrations()
    broken = Migration(len(migrations) + 1, "0099_broken.sql", "CREATE TABLE half (a int); SELECT 1/0;")
    with pytest.raises(DatabaseError, match="nothing was changed"):
        await up(postgres_url, [*migrations, broken])
    assert await up(postgres_url) == [migration.name for migration in migrations]


async def test_every_table_and_column_says_what_it_is(postgres_url: str) -> None:
    await up(postgres_url)
    connection = await connect(postgres_url)
    silent = await connection.fetch(
        """
        SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
          AND a.attnum >= 0 AND NOT a.attisdropped
          AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid) IS NULL)
        """
    )
    await connection.close()
    assert silent == []


def test_migrations_are_checked_for_names_and_gaps(tmp_path: Path) -> None:

    folder = tmp_path
    (folder / "0001_first.sql").write_text("")
    (folder / "0003_third.sql").write_text("")
    with pytest.raises(MigrationError, match="without a gap"):
        load_migrations(folder)
    (folder / "oops.sql").write_text("")
    with pytest.raises(MigrationError, match=r"oops\.sql"):
        load_migrations(folder)
