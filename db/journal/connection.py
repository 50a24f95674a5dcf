"""Connections to Postgres: made the same way everywhere, described without passwords."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg

from journal.errors import DatabaseError, SettingsError, explain

MIN_SERVER_VERSION = 14
CONNECT_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 15.0


def address_of(database_url: str) -> str:
    """Return host:port/database for people; never user's password.

    Raises:
        SettingsError: It is not a Postgres URL.
    """
    example = "postgresql://user:password@host:5432/database"
    try:
        parts = urlsplit(database_url)
        port = parts.port or 5432
    except ValueError as error:
        # The error's own text may contain a piece of the password.
        raise SettingsError(
            f"DATABASE_URL is not a URL (special characters in user or password must be %-encoded); "
            f"it looks like {example}"
        ) from error
    if parts.scheme not in {"postgresql", "postgres"}:
        raise SettingsError(f"DATABASE_URL must start with postgresql://; it looks like {example}")
    host = parts.hostname or parse_qs(parts.query).get("host", ["localhost"])[0]
    return f"{host}:{port}/{parts.path.strip('/') or 'postgres'}"


async def connect(database_url: str, *, timeout_s: float = CONNECT_TIMEOUT_S) -> Any:
    """Return an asyncpg connection to a server that is new enough.

    Statements are not cached: a cached one goes wrong when anyone changes a table.

    Raises:
        SettingsError: The address is not one.
        DatabaseError: No connection, or the server is too old; the message says what to do.
    """
    where = address_of(database_url)
    try:
        connection = await asyncpg.connect(
            database_url,
            timeout=timeout_s,
            command_timeout=COMMAND_TIMEOUT_S,
            statement_cache_size=0,
            server_settings={"application_name": "tradeserve"},
        )
    except ValueError as error:
        # Its text may contain a piece of the password.
        raise SettingsError(
            f"DATABASE_URL for {where} has a part that is not understood: check it"
        ) from error
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise DatabaseError(explain(error, where)) from error
    version = connection.get_server_version()
    if version.major < MIN_SERVER_VERSION:
        connection.terminate()
        raise DatabaseError(
            f"Postgres at {where} is version {version.major}; {MIN_SERVER_VERSION} or newer is needed: upgrade it"
        )
    return connection


def server_version(connection: Any) -> str:
    """Return the version of the server, such as "18.4"."""
    version = connection.get_server_version()
    return f"{version.major}.{version.micro}"
