"""Name what a launcher leaves on the machine after its owner, and sweep what dead owners left.

Triton keeps a shared-memory region per stub process in /dev/shm; a SIGKILL leaves it there, and
stubs that were still loading wait for their killed server for ever. The prefix holds the owner's pid
and start time, so a later launcher knows whether the owner lives.
"""

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterable
from pathlib import Path

_PREFIX = "tradeserve_triton_"
_OWNED = re.compile(rf"{_PREFIX}(\d+)_(\d+)_")
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps it, and Triton has no other place


def own_prefix() -> str:
    """Give the prefix of everything that this process leaves outside its own folders."""
    pid = os.getpid()
    return f"{_PREFIX}{pid}_{_start_ticks(pid)}_"


def make_directory() -> Path:
    """Make a temporary folder that a later launcher recognises as this process's."""
    return Path(tempfile.mkdtemp(prefix=own_prefix()))


def sweep_own(shared_memory: Path = _SHARED_MEMORY) -> list[str]:
    """Remove this process's shared memory; call it only while no server of it runs.

    Returns:
        The names removed.
    """
    prefix = own_prefix()
    return _remove(entry for entry in _entries(shared_memory) if entry.name.startswith(prefix))


def sweep_dead(shared_memory: Path = _SHARED_MEMORY, temporary: Path | None = None) -> list[str]:
    """Remove shared memory, temporary folders and stub processes of launchers that no longer run.

    Returns:
        The names removed.
    """
    _kill_orphans()
    places = (shared_memory, temporary if temporary is not None else Path(tempfile.gettempdir()))
    return _remove(entry for place in places for entry in _entries(place) if _owner_is_dead(entry.name))


def _entries(place: Path) -> list[Path]:
    try:
        return [entry for entry in place.iterdir() if entry.name.startswith(_PREFIX)]
    except FileNotFoundError:
        return []


def _kill_orphans() -> None:
    """End the stubs of dead launchers: they run from a folder that carries its owner's name."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            folders = (process / "exe").readlink().parts
            if any(_owner_is_dead(folder) for folder in folders):
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:  # it has ended, or is another user's
            continue


def _owner_is_dead(name: str) -> bool:
    match = _OWNED.match(name)
    return match is not None and _start_ticks(int(match[1])) != int(match[2])


def _start_ticks(pid: int) -> int | None:
    """Give when a process started, in clock ticks since boot; None when no such process runs."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name may itself contain blanks and brackets; field 3, the state, comes after its last bracket.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def _remove(entries: Iterable[Path]) -> list[str]:
    removed = []
    for entry in entries:
        try:
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        except (FileNotFoundError, PermissionError):  # swept by another launcher, or another user's
            continue
        removed.append(entry.name)
    return removed
