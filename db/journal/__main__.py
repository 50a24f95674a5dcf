"""Command line of the journal: the embedded Postgres, its schema, and what is recorded."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import orjson

from journal.binaries import find_programs
from journal.connection import address_of, connect
from journal.errors import JournalError, LaunchError, NotFoundError, SettingsError
from journal.evidence import evidence_json, evidence_text, runs_text
from journal.launcher import EmbeddedPostgres
from journal.migrations import check_database, migrate
from journal.queries import JournalReader
from journal.session import data_dir_for, database
from journal.spool import write_atomically


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
    except (SettingsError, NotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except JournalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m journal", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    where = argparse.ArgumentParser(add_help=False)
    where.add_argument(
        "--database-url",
        default=os.environ.get("DATABASE_URL", ""),
        metavar="URL",
        help="postgresql://user:password@host:port/database; default: $DATABASE_URL, else the embedded Postgres",
    )
    where.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="data of the embedded Postgres (default: build/postgres, or a folder that its user can reach)",
    )

    serve = commands.add_parser(
        "serve",
        parents=[where],
        help="run the embedded Postgres until SIGTERM; check $DATABASE_URL when it is set",
    )
    serve.add_argument("--host", default="127.0.0.1", choices=["127.0.0.1"], help="only this machine")
    serve.add_argument("--port", type=int, default=0, help="TCP port; 0 picks a free one (default)")
    serve.add_argument(
        "--ready-file", type=Path, metavar="FILE", help="written once it takes connections (mode 0600)"
    )
    serve.add_argument(
        "--log-format", choices=["text", "json"], default="text", help="of the lines on stderr"
    )
    serve.set_defaults(command=_serve)

    upgrade = commands.add_parser("migrate", parents=[where], help="bring the schema up to this release")
    upgrade.set_defaults(command=_migrate)

    runs = commands.add_parser("runs", parents=[where], help="list the latest runs")
    runs.add_argument("--limit", type=int, default=20, help="how many (default 20)")
    runs.set_defaults(command=_runs)

    show = commands.add_parser("show", parents=[where], help="print a decision's whole evidence")
    show.add_argument("decision_id")
    show.add_argument("--json", action="store_true", help="as JSON")
    show.set_defaults(command=_show)

    psql = commands.add_parser("psql", parents=[where], help="open psql on the recorded data")
    psql.add_argument(
        "arguments", nargs="*", metavar="ARG", help="for psql, after --; such as -- -c 'select …'"
    )
    psql.set_defaults(command=_psql)
    return parser


def _serve(options: argparse.Namespace) -> int:
    stopping = [False]

    def stop(*_: object) -> None:
        stopping[0] = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if options.database_url:
        version = asyncio.run(check_database(options.database_url))
        address = address_of(options.database_url)
        _ready(options, os.getpid(), address.split("/")[0], options.database_url, "")
        _say(options, f"Postgres {version} at {address} (DATABASE_URL) is ready")
        while not stopping[0]:
            time.sleep(0.1)
        return 0
    server = EmbeddedPostgres(data_dir_for(options.data_dir), options.port)
    started = time.monotonic()
    listening = server.start()
    try:
        version = asyncio.run(check_database(listening.database_url))
        address = f"{listening.host}:{listening.port}"
        _ready(options, os.getpid(), address, listening.database_url, listening.psql)
        _say(options, f"Postgres {version} at {address} is ready after {time.monotonic() - started:.1f} s")
        while not stopping[0]:
            code = server.poll()
            if code is not None:
                raise LaunchError(f"Postgres stopped by itself (exit {code}): see {server.log_path}")
            time.sleep(0.05)
    finally:
        server.stop()
        if options.ready_file is not None:
            options.ready_file.unlink(missing_ok=True)
    return 0


def _ready(options: argparse.Namespace, pid: int, address: str, database_url: str, psql: str) -> None:
    if options.ready_file is None:
        return
    content = {"pid": pid, "address": address, "database_url": database_url, "psql": psql}
    try:
        write_atomically(options.ready_file, orjson.dumps(content))
    except OSError as error:
        raise SettingsError(
            f"the ready file {options.ready_file} cannot be written: {error.strerror}"
        ) from error


def _say(options: argparse.Namespace, text: str) -> None:
    line = (
        orjson.dumps({"event": text, "logger": "journal"}).decode() if options.log_format == "json" else text
    )
    print(line, file=sys.stderr, flush=True)


def _migrate(options: argparse.Namespace) -> int:
    async def run(url: str) -> list[str]:
        connection = await connect(url)
        try:
            return await migrate(connection, address_of(url))
        finally:
            connection.terminate()

    with database(options.database_url, options.data_dir) as url:
        applied = asyncio.run(run(url))
    print("\n".join(f"applied {name}" for name in applied) or "the schema is up to date")
    return 0


def _runs(options: argparse.Namespace) -> int:
    async def run(url: str) -> str:
        await check_database(url)
        async with JournalReader(url) as reader:
            return runs_text(await reader.runs(options.limit))

    with database(options.database_url, options.data_dir) as url:
        print(asyncio.run(run(url)))
    return 0


def _show(options: argparse.Namespace) -> int:
    async def run(url: str) -> str:
        await check_database(url)
        async with JournalReader(url) as reader:
            evidence = await reader.evidence(options.decision_id)
            return evidence_json(evidence) if options.json else evidence_text(evidence)

    with database(options.database_url, options.data_dir) as url:
        print(asyncio.run(run(url)))
    return 0


def _psql(options: argparse.Namespace) -> int:
    with database(options.database_url, options.data_dir) as url:
        program = find_programs().folder / "psql"
        # The address goes through the environment: a command line can be seen by everyone.
        environment = {**os.environ, "PGSERVICEFILE": os.devnull, **_libpq_variables(url)}
        return subprocess.run([program, *options.arguments], env=environment, check=False).returncode


def _libpq_variables(url: str) -> dict[str, str]:
    parts = urlsplit(url)
    values = {
        "PGHOST": parts.hostname or "",
        "PGPORT": str(parts.port or 5432),
        "PGUSER": unquote(parts.username or ""),
        "PGPASSWORD": unquote(parts.password or ""),
        "PGDATABASE": parts.path.strip("/"),
    }
    return {name: value for name, value in values.items() if value}


if __name__ == "__main__":
    sys.exit(main())
