"""Runs Postgres as somebody who is not root, which it refuses to be.

No user is made and no folder outside our own is changed. Where the chosen user cannot reach a
folder (a home of mode 0700 above it), the programs are copied, and the data kept, in a folder of
our own that it can reach.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from journal.binaries import PostgresPrograms
from journal.errors import LaunchError

_UNPRIVILEGED = ("nobody", "daemon", "postgres")
STATE_FOLDER = Path("/var/lib/tradeserve")


@dataclass(frozen=True, slots=True)
class RunAs:
    """Who Postgres runs as; None: as we do."""

    uid: int | None = None
    gid: int | None = None
    name: str = ""

    def arguments(self) -> dict[str, Any]:
        """Return what subprocess needs for it."""
        if self.uid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def give(self, path: Path) -> None:
        """Make the user the owner of a path of ours."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def can_enter(self, folder: Path) -> bool:
        """Whether the user may use a folder, with all folders above it."""
        return self.uid is None or self.closed_folder(folder) is None

    def closed_folder(self, folder: Path) -> Path | None:
        """Return the outermost folder on the way that keeps the user out."""
        resolved = folder.resolve()
        for part in (*reversed(resolved.parents), resolved):
            if not part.exists():
                return None
            info = part.stat()
            shift = 6 if info.st_uid == self.uid else 3 if info.st_gid == self.gid else 0
            if not info.st_mode >> shift & 1:
                return part
        return None


def choose_user() -> RunAs:
    """Return ourselves, or an unprivileged user when we are root.

    Raises:
        LaunchError: We are root and there is nobody else to be.
    """
    if os.geteuid() != 0:
        return RunAs()
    for name in _UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return RunAs(entry.pw_uid, entry.pw_gid, name)
    raise LaunchError(
        f"Postgres does not run as root, and there is no user {', '.join(_UNPRIVILEGED)} to run it as: "
        "start as a normal user, or set DATABASE_URL to a running server"
    )


def default_data_dir(wanted: Path, user: RunAs) -> Path:
    """Return the wanted folder, or one of ours that the user can reach."""
    if user.can_enter(wanted):
        return wanted
    return STATE_FOLDER / f"postgres-{hashlib.sha256(str(wanted.resolve()).encode()).hexdigest()[:8]}"


def runnable_programs(programs: PostgresPrograms, user: RunAs) -> PostgresPrograms:
    """Return programs that the user can run: the given ones, or a copy where it can reach them.

    Raises:
        LaunchError: It cannot run them either way.
    """
    if _runs(programs.folder, user):
        return programs
    install = programs.folder.parent
    package = install.parent
    mark = hashlib.sha256(f"{install}{programs.version}{install.stat().st_mtime_ns}".encode()).hexdigest()[:8]
    target = STATE_FOLDER / f"programs-{programs.version}-{mark}"
    copied = target / package.name / install.name / "bin"
    try:
        if not target.exists():
            STATE_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
            partial = STATE_FOLDER / f".{target.name}.{os.getpid()}"
            shutil.copytree(install, partial / package.name / install.name)
            # A wheel keeps shared libraries beside the package, found by relative path.
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, partial / libraries.name)
            partial.rename(target)
    except OSError as error:
        raise LaunchError(
            f"user {user.name} cannot reach {install}, and it cannot be copied to {target} "
            f"({error.strerror or error}): start as a normal user, or set DATABASE_URL"
        ) from error
    if not _runs(copied, user):
        raise LaunchError(
            f"user {user.name} cannot run {programs.folder}/postgres: start as a normal user, or set DATABASE_URL"
        )
    return PostgresPrograms(copied, programs.version, programs.origin)


def _runs(folder: Path, user: RunAs) -> bool:
    for program in ("postgres", "initdb"):
        command = [str(folder / program), "--version"]
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=20, check=False, cwd="/", **user.arguments()
            )
        except OSError:
            return False
        if done.returncode != 0:
            return False
    return True
