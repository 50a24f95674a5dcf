"""Finds the database for a command: an address, a running embedded Postgres, or one started for it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from journal.launcher import DATABASE, USER, EmbeddedPostgres
from journal.privilege import choose_user, default_data_dir

DEFAULT_DATA_DIR = Path("build/postgres")


def data_dir_for(wanted: Path | None) -> Path:
    """Return where the embedded data are: the given folder, or the default that Postgres can reach.

    Raises:
        LaunchError: We are root and there is no user to run Postgres as.
    """
    if wanted is not None:
        return wanted
    chosen = default_data_dir(DEFAULT_DATA_DIR, choose_user())
    if chosen != DEFAULT_DATA_DIR:
        sys.stderr.write(f"postgres: {DEFAULT_DATA_DIR} is closed to its user; the data are in {chosen}\n")
    return chosen


def running_url(data_dir: Path) -> str | None:
    """Return the address of the embedded Postgres that runs on a data folder; None when none does."""
    try:
        descriptor = os.open(data_dir / "lock", os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        lines = (data_dir / "pgdata" / "postmaster.pid").read_text().splitlines()
        if len(lines) < 4:
            return None
        port = lines[3]
        password = (data_dir / "password").read_text().strip()
        return f"postgresql://{USER}:{quote(password)}@127.0.0.1:{port}/{DATABASE}"
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def database(database_url: str | None, data_dir: Path | None) -> Iterator[str]:
    """Give the address of the database; a server that was started for it is stopped afterwards.

    Raises:
        LaunchError: There is none and none can be started.
    """
    if database_url:
        yield database_url
        return
    folder = data_dir_for(data_dir)
    running = running_url(folder)
    if running is not None:
        yield running
        return
    server = EmbeddedPostgres(folder)
    address = server.start()
    try:
        yield address.database_url
    finally:
        server.stop()
