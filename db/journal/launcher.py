"""An embedded Postgres: a data folder of ours, a child process of ours, reachable only from here.

Over TCP it takes connections on 127.0.0.1 with a generated password only; without a password only
through a Unix socket in a folder that belongs to the server's user alone. It stops when we do.

    data_dir/
      lock        held by the process that runs the server
      password    of the database user, mode 0600
      pgdata/     Postgres' own
      socket/     mode 0700
      postgres.log
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from journal.binaries import PostgresPrograms, find_programs
from journal.child_process import dies_with_parent
from journal.errors import LaunchError
from journal.privilege import RunAs, choose_user, runnable_programs

USER = "tradeserve"
DATABASE = "tradeserve"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0
START_ATTEMPTS = 5
_MAX_SOCKET_PATH_BYTES = 90
_LOG_BYTES = 16 * 1024 * 1024
_SETTINGS = {
    "shared_buffers": "64MB",
    "max_connections": "50",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Nothing in /dev/shm that a killed server would leave behind.
    "dynamic_shared_memory_type": "mmap",
    "max_parallel_workers_per_gather": "0",
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    "log_min_messages": "warning",
}


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """Where an embedded Postgres listens.

    Attributes:
        pid: Its main process.
        host: Always 127.0.0.1.
        port: TCP port.
        database_url: With the password.
        socket_dir: For psql without a password; None when the path would be too long.
    """

    pid: int
    host: str
    port: int
    database_url: str
    socket_dir: Path | None

    @property
    def psql(self) -> str:
        """A psql command line for people; without the password where that works."""
        if self.socket_dir is None:
            return f"psql '{self.database_url}'"
        return f"psql -h {self.socket_dir} -p {self.port} -U {USER} {DATABASE}"


class EmbeddedPostgres:
    """Runs one server on one data folder, from start() to stop()."""

    def __init__(
        self,
        data_dir: Path,
        port: int = 0,
        programs: PostgresPrograms | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            data_dir: Where the data stay between runs; made when missing.
            port: On 127.0.0.1; 0 picks a free one.
            programs: Default: what `find_programs` finds.
            settings: More server settings; tests switch fsync off.
        """
        self._data_dir = data_dir.resolve()
        self._port = port
        self._wanted_programs = programs
        self._more_settings = dict(settings or {})
        self._user = RunAs()
        self._lock_fd = -1
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pgdata(self) -> Path:
        """Postgres' own data folder."""
        return self._data_dir / "pgdata"

    @property
    def log_path(self) -> Path:
        """What the server wrote."""
        return self._data_dir / "postgres.log"

    def start(self) -> PostgresAddress:
        """Start, the first time with a new database, and wait until it takes connections.

        Call it from a thread that lives as long as the server: Linux stops the server when the
        thread that started it ends.

        Raises:
            LaunchError: It cannot; one line that says what to do.
        """
        self._user = choose_user()
        programs = runnable_programs(self._wanted_programs or find_programs(), self._user)
        self._prepare_folder()
        try:
            password = self._password()
            if not (self.pgdata / "PG_VERSION").exists():
                self._initdb(programs, password)
            self._check_version(programs)
            return self._start_server(programs, password)
        except BaseException:
            self.stop()
            raise

    def poll(self) -> int | None:
        """Return the server's exit code when it is gone."""
        return None if self._process is None else self._process.poll()

    def stop(self) -> None:
        """Stop the server (fast shutdown; harder when it does not) and unlock the folder."""
        process, self._process = self._process, None
        if process is not None:
            for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
                if process.poll() is not None:
                    break
                process.send_signal(number)
                try:
                    process.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    continue
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    # --- folder ----------------------------------------------------------------------------------

    def _prepare_folder(self) -> None:
        closed = self._user.closed_folder(self._data_dir) if self._user.uid is not None else None
        if closed is not None and closed != self._data_dir:
            raise LaunchError(
                f"the data folder {self._data_dir} cannot be reached by user {self._user.name}, as whom Postgres runs "
                f"when root starts it ({closed} keeps others out): give --data-dir a folder that others may enter, "
                "or start as a normal user"
            )
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
            self._data_dir.chmod(0o711 if self._user.uid is not None else 0o700)
            self._lock_fd = os.open(self._data_dir / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LaunchError(
                f"the data folder {self._data_dir} cannot be written ({error.strerror or error}): "
                "free space, or give --data-dir another folder"
            ) from error
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._lock_fd, 32, 0).decode(errors="replace").strip()
            raise LaunchError(
                f"another tradeserve Postgres (process {owner or 'unknown'}) uses the data folder {self._data_dir}: "
                "stop it, or give --data-dir another folder"
            ) from error
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, f"{os.getpid()}\n".encode(), 0)

    def _password(self) -> str:
        path = self._data_dir / "password"
        if path.exists():
            return path.read_text().strip()
        if (self.pgdata / "PG_VERSION").exists():
            raise LaunchError(f"{path} is missing: restore it, or remove {self._data_dir} to start afresh")
        password = secrets.token_urlsafe(24)
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(password + "\n")
        return password

    def _initdb(self, programs: PostgresPrograms, password: str) -> None:
        """Make the data folder beside its place and rename it: it is there whole or not at all."""
        partial = self._data_dir / "pgdata.new"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        self._user.give(partial)
        password_read, password_write = os.pipe()
        if self._user.uid is not None:
            os.fchown(password_read, self._user.uid, -1)
        os.write(password_write, password.encode() + b"\n")
        os.close(password_write)
        try:
            done = subprocess.run(
                [
                    *(programs.folder / "initdb", "-D", partial, "-U", USER, "--encoding=UTF8", "--locale=C"),
                    *("--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile=/dev/fd/{password_read}"),
                    *("--no-sync", "--no-instructions"),
                ],
                capture_output=True,
                text=True,
                errors="replace",
                cwd="/",
                timeout=120,
                check=False,
                pass_fds=(password_read,),
                **self._user.arguments(),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise LaunchError(f"initdb in {partial} failed: {error}") from error
        finally:
            os.close(password_read)
        if done.returncode != 0:
            raise LaunchError(f"initdb in {partial} failed: {_last_line(done.stderr)}")
        partial.rename(self.pgdata)

    def _check_version(self, programs: PostgresPrograms) -> None:
        version = (self.pgdata / "PG_VERSION").read_text().strip()
        if version != str(programs.major):
            raise LaunchError(
                f"the data in {self._data_dir} are of Postgres {version}, the programs here are {programs.version}: "
                "give --data-dir another folder, or move the data with pg_dump"
            )

    # --- server ----------------------------------------------------------------------------------

    def _start_server(self, programs: PostgresPrograms, password: str) -> PostgresAddress:
        """Start; a server that was killed just now may hold its memory or port for a moment more."""
        pause_s = 0.2
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                return self._start_once(programs, password)
            except LaunchError:
                if attempt == START_ATTEMPTS:
                    raise
            time.sleep(pause_s)
            pause_s *= 2
        raise AssertionError("unreachable")

    def _start_once(self, programs: PostgresPrograms, password: str) -> PostgresAddress:
        port = self._port or _free_port()
        socket_dir = self._socket_dir()
        settings = {
            **_SETTINGS,
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": str(socket_dir or ""),
            **self._more_settings,
        }
        command = [str(programs.folder / "postgres"), "-D", str(self.pgdata)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        log_start = self._open_log()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                # Its own group: Ctrl-C on the terminal is for us, we stop it in order.
                process_group=0,
                **dies_with_parent(signal.SIGINT),  # fast shutdown
                **self._user.arguments(),
            )
        self._wait_until_ready(programs, port, log_start)
        url = f"postgresql://{USER}:{quote(password)}@127.0.0.1:{port}/{DATABASE}"
        self._create_database(programs, port, socket_dir, password)
        return PostgresAddress(self._process.pid, "127.0.0.1", port, url, socket_dir)

    def _socket_dir(self) -> Path | None:
        folder = self._data_dir / "socket"
        if len(os.fsencode(folder)) > _MAX_SOCKET_PATH_BYTES:
            return None
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
        self._user.give(folder)
        return folder

    def _open_log(self) -> int:
        """Return where this start's messages begin."""
        if self.log_path.exists() and self.log_path.stat().st_size > _LOG_BYTES:
            self.log_path.rename(self.log_path.with_suffix(".log.old"))
        self.log_path.touch(mode=0o600)
        return self.log_path.stat().st_size

    def _wait_until_ready(self, programs: PostgresPrograms, port: int, log_start: int) -> None:
        assert self._process is not None
        end = time.monotonic() + START_TIMEOUT_S
        status_line = 7  # of postmaster.pid; Source: postmaster pidfile, LOCK_FILE_LINE_PM_STATUS is line 8
        while True:
            if self._process.poll() is not None:
                self._process = None
                raise LaunchError(f"Postgres did not start on port {port}: {self._complaint(log_start)}")
            lines = _lines(self.pgdata / "postmaster.pid")
            if (
                len(lines) > status_line
                and lines[0] == str(self._process.pid)
                and "ready" in lines[status_line]
            ):
                return
            if time.monotonic() >= end:
                raise LaunchError(
                    f"Postgres was not ready after {START_TIMEOUT_S:.0f} s; see {self.log_path}"
                )
            time.sleep(0.02)

    def _complaint(self, log_start: int) -> str:
        with self.log_path.open("rb") as log:
            log.seek(log_start)
            text = log.read().decode(errors="replace")
        if "could not bind" in text:
            return "the port is in use: choose another with --port, or 0 for any free one"
        if "No space left" in text:
            return f"the disk of {self._data_dir} is full: free space, or give --data-dir another folder"
        fatal = [line for line in text.splitlines() if "FATAL" in line or "PANIC" in line]
        return f"{fatal[-1].split('FATAL:')[-1].strip() if fatal else _last_line(text)} (see {self.log_path})"

    def _create_database(
        self, programs: PostgresPrograms, port: int, socket_dir: Path | None, password: str
    ) -> None:
        done = subprocess.run(
            [programs.folder / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", USER, DATABASE],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
            check=False,
            env={**os.environ, "PGPASSWORD": password},
        )
        if done.returncode != 0 and "already exists" not in done.stderr:
            raise LaunchError(f"the database {DATABASE} cannot be made: {_last_line(done.stderr)}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
