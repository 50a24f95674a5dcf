"""The ready file: how whoever started a server learns that it is healthy, and where it listens."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from server_runtime.errors import StartError


def write_ready_file(path: Path, content: Mapping[str, object]) -> None:
    """Write the file so that a reader sees all of it or none.

    Raises:
        StartError: The file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(content) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as e:
        raise StartError(
            f"--ready-file {path} cannot be written ({e.strerror or e}): choose another path", 2
        ) from e


def remove_ready_file(path: Path) -> None:
    """Remove a ready file, one of an earlier run too: it must not speak for a server that is not ready.

    Raises:
        StartError: It cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as e:
        raise StartError(
            f"--ready-file {path} cannot be replaced ({e.strerror or e}): choose another path", 2
        ) from e
