"""Entry of the `tradeserve` command: Ctrl-C ends it without a traceback, while it loads too."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """Run the command line; return the exit status."""
    interrupt = signal.getsignal(signal.SIGINT)
    if interrupt is signal.default_int_handler:  # else the caller wants it ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from tradeserve_cli import command_line

    signal.signal(signal.SIGINT, interrupt)
    return command_line.main()


if __name__ == "__main__":
    sys.exit(main())
