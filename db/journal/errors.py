"""What can go wrong while recording.

JournalError
├── SettingsError      the database address or the spool folder cannot be used as given
├── DatabaseError      the server refused or broke; the message names address and fix, never the password
├── MigrationError     the schema of the database does not fit this release
├── SpoolError         the local disk took nothing: full, read-only, broken
├── LaunchError        no Postgres could be started here
└── NotFoundError      no such run or decision
"""

from __future__ import annotations

import socket
import ssl

import asyncpg


class JournalError(Exception):
    """Base of everything this package raises."""


class SettingsError(JournalError):
    """An address or a folder cannot be used as given."""


class DatabaseError(JournalError):
    """The database refused or broke."""


class MigrationError(JournalError):
    """The schema of the database does not fit this release."""


class SpoolError(JournalError):
    """The local disk took nothing."""


class LaunchError(JournalError):
    """No Postgres could be started here."""


class NotFoundError(JournalError):
    """There is no such run or decision."""


def explain(error: BaseException, where: str) -> str:
    """Return one line on what a database error means and what to do about it.

    Args:
        error: What asyncpg or the socket raised.
        where: Address for people, without a password (see `address_of`).
    """
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, JournalError):
        return text
    if isinstance(error, asyncpg.InvalidPasswordError | asyncpg.InvalidAuthorizationSpecificationError):
        return f"Postgres at {where} does not accept user or password ({text}): correct DATABASE_URL"
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return f"Postgres at {where} has no such database ({text}): create it or correct DATABASE_URL"
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return f"Postgres at {where} lacks a right ({text}): grant CREATE on the schema, and the tables, to this user"
    if isinstance(error, asyncpg.CannotConnectNowError):
        return f"Postgres at {where} is starting or stopping ({text}): it is tried again"
    if isinstance(error, asyncpg.TooManyConnectionsError):
        return f"Postgres at {where} has no connection left ({text}): raise max_connections or stop other clients"
    if isinstance(error, asyncpg.DiskFullError):
        return f"the disk of Postgres at {where} is full ({text}): free space there"
    if isinstance(error, asyncpg.UndefinedTableError | asyncpg.UndefinedColumnError):
        return f"the schema at {where} is not this release's ({text}): run `python -m journal migrate`"
    if isinstance(error, TimeoutError):
        return f"Postgres at {where} did not answer in time: check that it runs and is reachable"
    if isinstance(error, socket.gaierror):
        return f"the host of {where} is unknown ({text}): correct DATABASE_URL"
    if isinstance(error, ssl.SSLError):
        return f"no TLS with Postgres at {where} ({text}): check sslmode in DATABASE_URL"
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens at {where}: start Postgres there or correct DATABASE_URL"
    if isinstance(error, OSError | asyncpg.PostgresConnectionError | asyncpg.InterfaceError):
        return f"the connection to Postgres at {where} broke ({text}): check that it runs and is reachable"
    return f"Postgres at {where}: {text}"
