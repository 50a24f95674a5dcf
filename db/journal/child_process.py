"""How a child process is started that must not outlive us."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

_PR_SET_PDEATHSIG = 1


def dies_with_parent(by: signal.Signals = signal.SIGTERM) -> dict[str, Any]:
    """Return what subprocess needs so that the kernel stops the child when we die, however we die (Linux only).

    Where grpc runs in this process it starts its threads anew in the fork; they abort it when their files
    are closed before the exec. So none are closed: neither Python's files nor grpc's are inherited.

    Args:
        by: The signal that it gets.
    """
    return {"preexec_fn": _ask_for(by), "close_fds": False}


def _ask_for(by: signal.Signals) -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None  # Ctrl-C and exit still stop the children
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(by), 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return ask
