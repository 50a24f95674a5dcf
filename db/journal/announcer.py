"""Tells in sentences how recording stands."""

from __future__ import annotations

from collections.abc import Callable

import structlog

_log = structlog.get_logger("journal")


class Announcer:
    """Tells once: a sentence that repeats itself is not news.

    Attributes:
        last_error: The latest of what went wrong; "" when nothing did.
    """

    def __init__(self, run_id: str, on_state: Callable[[str], None] | None) -> None:
        """Tell a callback, or the log when there is none, of the recording of a run."""
        self.last_error = ""
        self._run_id = run_id
        self._on_state = on_state
        self._last = ""

    def error(self, text: str) -> None:
        """Tell what went wrong."""
        self.last_error = text
        self.say(text)

    def say(self, text: str) -> None:
        """Tell how recording stands now."""
        if text == self._last:
            return
        self._last = text
        if self._on_state is not None:
            self._on_state(text)
        else:
            _log.info("journal", state=text, run_id=self._run_id)
