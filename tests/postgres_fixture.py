"""A real Postgres for tests: import the fixtures in the conftest.py of a test folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from journal.binaries import PostgresPrograms, find_programs
from journal.errors import LaunchError
from journal.launcher import EmbeddedPostgres, PostgresAddress
from journal.privilege import choose_user

NO_FSYNC = {"fsync": "off"}  # tests kill processes, not the machine


class OwnServer:
    """A server that a test may stop and kill; it keeps its port."""

    def __init__(self, data_dir: Path, programs: PostgresPrograms) -> None:
        self._data_dir = data_dir
        self._programs = programs
        self._server = EmbeddedPostgres(data_dir, 0, programs, NO_FSYNC)
        self._port = 0
        self.address: PostgresAddress | None = None

    @property
    def url(self) -> str:
        assert self.address is not None
        return self.address.database_url

    def start(self) -> None:
        self._server = EmbeddedPostgres(self._data_dir, self._port, self._programs, NO_FSYNC)
        self.address = self._server.start()
        self._port = self.address.port

    def kill(self) -> None:
        """SIGKILL the server, as a crash would."""
        assert self.address is not None
        os.kill(self.address.pid, signal.SIGKILL)
        self._server.stop()

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture(scope="session")
def postgres_programs() -> PostgresPrograms:
    try:
        return find_programs()
    except LaunchError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def reachable_tmp() -> Iterator[Path]:
    """A temporary folder that the unprivileged user of Postgres can enter when the tests run as root."""
    folder = Path(tempfile.mkdtemp(prefix="tradeserve-test-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_template(postgres_programs: PostgresPrograms, reachable_tmp: Path) -> Path:
    """A data folder with an empty database, to copy: faster than initdb for each server."""
    folder = reachable_tmp / "template"
    server = EmbeddedPostgres(folder, 0, postgres_programs, NO_FSYNC)
    server.start()
    server.stop()
    return folder


def copy_template(template: Path, target: Path) -> Path:
    user = choose_user()
    shutil.copytree(template, target, ignore=shutil.ignore_patterns("*.sock", ".s.PGSQL*"))
    if user.uid is not None:
        for path in [target / "pgdata", *(target / "pgdata").rglob("*")]:
            user.give(path)
    return target


@pytest.fixture(scope="session")
def postgres_server(
    postgres_template: Path, postgres_programs: PostgresPrograms, reachable_tmp: Path
) -> Iterator[PostgresAddress]:
    """One server for all tests of this process; do not harm it."""
    server = EmbeddedPostgres(
        copy_template(postgres_template, reachable_tmp / "shared"), 0, postgres_programs, NO_FSYNC
    )
    yield server.start()
    server.stop()


@pytest.fixture
def postgres_url(postgres_server: PostgresAddress, postgres_programs: PostgresPrograms) -> str:
    """The address of an empty database of this test's own."""
    return _empty_database(postgres_server, postgres_programs)


@pytest.fixture
def another_postgres_url(postgres_server: PostgresAddress, postgres_programs: PostgresPrograms) -> str:
    """The address of another empty database."""
    return _empty_database(postgres_server, postgres_programs)


def _empty_database(server: PostgresAddress, programs: PostgresPrograms) -> str:
    name = f"test_{uuid.uuid4().hex}"
    parts = urlsplit(server.database_url)
    assert parts.hostname
    assert parts.username
    subprocess.run(
        [
            programs.folder / "createdb",
            "-h",
            parts.hostname,
            "-p",
            str(parts.port),
            "-U",
            parts.username,
            name,
        ],
        check=True,
        timeout=30,
        env={**os.environ, "PGPASSWORD": parts.password or ""},
    )
    return urlunsplit(parts._replace(path=f"/{name}"))


@pytest.fixture
def own_postgres(
    postgres_template: Path, postgres_programs: PostgresPrograms, reachable_tmp: Path
) -> Iterator[OwnServer]:
    """A running server of this test's own."""
    folder = reachable_tmp / uuid.uuid4().hex[:8]
    server = OwnServer(copy_template(postgres_template, folder), postgres_programs)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)
