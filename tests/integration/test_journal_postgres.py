"""The embedded Postgres as a process: `python -m journal serve` and the other commands."""

import asyncio
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from journal import privilege
from journal.binaries import PostgresPrograms
from journal.launcher import EmbeddedPostgres
from journal.writer import Journal
from journal_rows import a_run, one_of_each
from postgres_fixture import copy_template

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}


@pytest.fixture
def data_dir(postgres_template: Path, reachable_tmp: Path) -> Iterator[Path]:
    folder = copy_template(postgres_template, reachable_tmp / uuid.uuid4().hex[:8])
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def serving(
    data_dir: Path, tmp_path: Path, *more: str
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    ready_file = tmp_path / f"ready-{uuid.uuid4().hex[:6]}.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "journal", "serve", "--data-dir", data_dir, "--ready-file", ready_file, *more],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        end = time.monotonic() + 60
        while not ready_file.exists():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end, "it did not become ready"
            time.sleep(0.02)
        assert stat.S_IMODE(ready_file.stat().st_mode) == 0o600
        yield process, json.loads(ready_file.read_text())
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=30)


def journal(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "journal", *map(str, arguments)],
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def postmaster_pid(data_dir: Path) -> int:
    return int((data_dir / "pgdata" / "postmaster.pid").read_text().split()[0])


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_it_serves_keeps_its_data_and_leaves_nothing_running(data_dir: Path, tmp_path: Path) -> None:
    async def add(url: str) -> int:
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE IF NOT EXISTS kept (a int); INSERT INTO kept VALUES (1)")
        count: int = await connection.fetchval("SELECT count(*) FROM kept")
        await connection.close()
        return count

    for expected in (1, 2):
        with serving(data_dir, tmp_path) as (process, ready):
            assert ready["pid"] == process.pid
            assert ready["address"].startswith("127.0.0.1:")
            assert asyncio.run(add(ready["database_url"])) == expected
            server = postmaster_pid(data_dir)
            process.terminate()
            assert process.wait(30) == 0
        assert not is_alive(server)
        assert not (data_dir / "pgdata" / "postmaster.pid").exists()


def test_nobody_gets_in_over_tcp_without_the_password(data_dir: Path, tmp_path: Path) -> None:
    async def enter(url: str) -> None:
        await (await asyncpg.connect(url)).close()

    with serving(data_dir, tmp_path) as (_, ready):
        asyncio.run(enter(ready["database_url"]))
        secret = ready["database_url"].split(":")[2].split("@")[0]
        for password in ("wrong", ""):
            with pytest.raises(asyncpg.InvalidPasswordError):
                asyncio.run(enter(ready["database_url"].replace(secret, password)))
        assert stat.S_IMODE((data_dir / "socket").stat().st_mode) == 0o700
        assert stat.S_IMODE((data_dir / "pgdata").stat().st_mode) == 0o700
        assert stat.S_IMODE((data_dir / "password").stat().st_mode) == 0o600
        refused = journal("runs", DATABASE_URL=ready["database_url"].replace(secret, "my-wrong-secret"))
        assert refused.returncode == 1
        assert "does not accept user or password" in refused.stderr
        assert "my-wrong-secret" not in refused.stderr
        assert refused.stderr.count("\n") == 1


def test_a_second_server_on_the_same_data_is_refused_in_words(data_dir: Path, tmp_path: Path) -> None:
    with serving(data_dir, tmp_path) as (process, _):
        second = journal("serve", "--data-dir", data_dir)
        assert second.returncode == 1
        assert f"another tradeserve Postgres (process {process.pid})" in second.stderr
        assert process.poll() is None


def test_a_port_in_use_is_named(data_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = journal("serve", "--data-dir", data_dir, "--port", taken.getsockname()[1])
    assert refused.returncode == 1
    assert "the port is in use" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_killing_the_launcher_stops_the_server_and_the_next_one_starts_on_the_same_port(
    data_dir: Path, tmp_path: Path
) -> None:
    with serving(data_dir, tmp_path) as (process, ready):
        server = postmaster_pid(data_dir)
        process.kill()
        process.wait(10)
        port = ready["address"].split(":")[1]
        with serving(data_dir, tmp_path, "--port", port) as (_, again):
            assert again["address"] == ready["address"]
            assert again["database_url"] == ready["database_url"]
            assert not is_alive(server)


def test_killing_the_server_ends_the_launcher_with_a_reason_and_the_next_one_recovers(
    data_dir: Path, tmp_path: Path
) -> None:
    with serving(data_dir, tmp_path) as (process, _):
        os.kill(postmaster_pid(data_dir), signal.SIGKILL)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 1
        assert "Postgres stopped by itself" in said
        with serving(data_dir, tmp_path):
            pass


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root runs Postgres as somebody else"
)
def test_started_by_root_it_runs_as_somebody_else_and_says_when_a_folder_is_closed(
    data_dir: Path, tmp_path: Path, reachable_tmp: Path
) -> None:
    with serving(data_dir, tmp_path):
        assert Path(f"/proc/{postmaster_pid(data_dir)}").stat().st_uid != 0
    closed = reachable_tmp / "closed"
    closed.mkdir(mode=0o700)
    refused = journal("serve", "--data-dir", closed / "data")
    assert refused.returncode == 1
    assert "cannot be reached by user" in refused.stderr
    assert str(closed) in refused.stderr


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root runs Postgres as somebody else"
)
def test_programs_and_data_in_a_closed_home_work_from_a_folder_of_ours(
    postgres_programs: PostgresPrograms, reachable_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if postgres_programs.origin != "bundled":
        pytest.skip("the programs are the system's: everybody can reach them")
    state = reachable_tmp / "state"
    monkeypatch.setattr(privilege, "STATE_FOLDER", state)
    home = reachable_tmp / "home"
    home.mkdir(mode=0o700)
    package = postgres_programs.folder.parents[1]
    for source in (package, package.with_name(f"{package.name}.libs")):
        if source.is_dir():
            shutil.copytree(source, home / source.name)
    closed = PostgresPrograms(home / postgres_programs.folder.relative_to(package.parent), "18", "bundled")
    data_dir = privilege.default_data_dir(home / "postgres", privilege.choose_user())
    assert data_dir.parent == state
    server = EmbeddedPostgres(data_dir, 0, dataclasses.replace(closed, version=postgres_programs.version))
    try:
        assert Path(f"/proc/{server.start().pid}/exe").resolve().is_relative_to(state)
    finally:
        server.stop()


def test_the_commands_show_what_was_recorded(postgres_url: str, tmp_path: Path) -> None:
    async def record() -> None:
        writer = await Journal.open(postgres_url, a_run("run-1"), spool_dir=tmp_path)
        for row in one_of_each(decision_id="decision-1"):
            writer.record(row)
        await writer.close()

    assert "applied 0001_initial.sql" in journal("migrate", DATABASE_URL=postgres_url).stdout
    assert journal("migrate", DATABASE_URL=postgres_url).stdout == "the schema is up to date\n"
    asyncio.run(record())
    listed = journal("runs", DATABASE_URL=postgres_url).stdout
    assert "run-1" in listed
    assert "decisions 1" in listed
    shown = journal("show", "decision-1", DATABASE_URL=postgres_url).stdout
    for expected in (
        "AAA: BUY entry",
        "lstm_cnn: in time, used",
        "sent first at gpu1:8001: down, retry at gpu2:8001: in time",
        "EURUSD",
        "stop 99.5",
        "commission 1.005",
        "60 bars",
    ):
        assert expected in shown
    document = json.loads(journal("show", "decision-1", "--json", DATABASE_URL=postgres_url).stdout)
    assert document["fills"][0]["price"] == "100.0100"
    assert (
        journal("psql", "--", "-Atc", "SELECT count(*) FROM decisions", DATABASE_URL=postgres_url).stdout
        == "1\n"
    )
    missing = journal("show", "nothing", DATABASE_URL=postgres_url)
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "no decision nothing" in missing.stderr


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mysql://u:secret@h/db", "must start with postgresql://"),
        ("postgresql://u:sec/ret@h/db", "DATABASE_URL"),
        ("postgresql://u:secret@127.0.0.1:1/db", "nothing listens at 127.0.0.1:1/db"),
        ("postgresql://u:secret@host.invalid/db", "host"),
    ],
)
def test_an_unusable_address_is_one_clear_line_without_the_password(url: str, expected: str) -> None:
    refused = journal("runs", DATABASE_URL=url)
    assert refused.returncode in {1, 2}
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1
    assert expected in refused.stderr
    assert "secret" not in refused.stderr
    assert "ret@" not in refused.stderr


def test_a_missing_database_and_missing_rights_are_named(postgres_url: str) -> None:
    async def restrict() -> None:
        connection = await asyncpg.connect(postgres_url)
        await connection.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
        await connection.close()

    missing = journal("migrate", DATABASE_URL=postgres_url + "x")
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
    assert "no such database" in missing.stderr
    asyncio.run(restrict())
    address = postgres_url.split("@")[1]
    guest = journal("migrate", DATABASE_URL=f"postgresql://guest:guest@{address}")
    assert (guest.returncode, guest.stderr.count("\n")) == (1, 1)
    assert "lacks a right" in guest.stderr
