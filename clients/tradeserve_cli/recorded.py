"""The journal, for the few commands that look into it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tradeserve_cli.arguments import UsageError

if TYPE_CHECKING:
    from journal.queries import JournalReader


@asynccontextmanager
async def recorded(database_url: str, option: str) -> AsyncIterator[JournalReader]:
    """Open the journal for reading.

    Args:
        database_url: postgresql://…
        option: Of the command line that needs it, for complaints.

    Raises:
        UsageError: Nobody says where it is, it is away, or it does not have what is looked for.
    """
    if not database_url:
        raise UsageError(f"{option}: where is the journal? give --database-url, or set DATABASE_URL")
    # The only commands that need the database's driver.
    from journal.errors import JournalError
    from journal.migrations import check_database
    from journal.queries import JournalReader

    try:
        await check_database(database_url)
        async with JournalReader(database_url) as reader:
            yield reader
    except JournalError as error:
        raise UsageError(f"{option}: {error}") from error
