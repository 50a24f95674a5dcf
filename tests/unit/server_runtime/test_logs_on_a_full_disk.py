from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import pytest
import structlog

from server_runtime import logs


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_log_on_a_full_disk_loses_lines_and_never_stops_the_program() -> None:
    with contextlib.suppress(OSError), Path("/dev/full").open("w", buffering=1) as full:  # closing fails too
        logs.configure("test", json=True, stream=full)
        try:
            structlog.get_logger("ours").info("lost")
            logging.getLogger("theirs").warning("lost too")
            reached = True
        finally:
            logs.configure("test", json=True)
    assert reached
