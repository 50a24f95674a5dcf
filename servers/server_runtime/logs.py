"""Configure structured logs: one event per line, key=value on a terminal, JSON in production.

Secrets never reach a line: passwords in DSNs, values under keys such as `password` or `token`,
and all but the ends of an account number are masked, in tracebacks and in the records of
libraries that log through the standard library too.
"""

import contextlib
import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

MASK = "***"
# Deep enough for anything we log; what lies deeper is shown as text.
_MAX_DEPTH = 4

_URL_PASSWORD = re.compile(r"(?P<head>[a-zA-Z][\w+.-]*://[^\s:/@]*):\S+@")
_KEYWORD_SECRET = re.compile(
    r"(?P<head>\w*(?:password|passwd|secret|token|api_?key)\s*=\s*)(?:'[^']*'|\"[^\"]*\"|[^\s&;,'\"]+)",
    re.IGNORECASE,
)
_SECRET_KEY = re.compile(r"password|passwd|secret|token|api_?key|authorization", re.IGNORECASE)
_ACCOUNT_KEYS = frozenset({"account", "account_id", "account_number"})


class _Handler(logging.StreamHandler[TextIO]):
    """The handler of ours on the root logger, so that configuring again replaces only it."""


class _CalmStream:
    """A stream whose troubles (a full disk, a closed pipe) are never those of the program that logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()


def configure(name: str, *, json: bool, level: str = "info", stream: TextIO | None = None) -> None:
    """Send every log line of this process to one stream, in one form.

    Args:
        name: The service, shown in every line as `service`.
        json: One JSON object per line when true, else `key=value` for people.
        level: Lowest level shown: debug, info, warning, error or critical.
        stream: Where lines go; standard error when None, so that standard output stays the program's.

    Raises:
        ValueError: `level` is not one of the five.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None or number == logging.NOTSET:
        raise ValueError(f"log level {level!r} is unknown: use debug, info, warning, error or critical")
    target = cast(TextIO, _CalmStream(stream if stream is not None else sys.stderr))
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _named(name),
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        redact_event,
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if json
        else structlog.dev.ConsoleRenderer(
            colors=target.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
        )
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(target),
        # Loggers are module constants: without this a later configure() would not reach them.
        cache_logger_on_first_use=False,
    )
    _route_standard_logging(shared, renderer, number, target)


def redact(text: str) -> str:
    """Mask passwords and tokens in a text such as a DSN or an error message."""
    return _KEYWORD_SECRET.sub(rf"\g<head>{MASK}", _URL_PASSWORD.sub(rf"\g<head>:{MASK}@", text))


def redact_event(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Mask secrets in every value of one event (a structlog processor)."""
    del logger, method
    return {key: _redacted(key, value, 0) for key, value in event.items()}


def _redacted(key: str, value: object, depth: int) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if _SECRET_KEY.search(key):
        return MASK
    if key in _ACCOUNT_KEYS and isinstance(value, str):
        return f"{value[:2]}{MASK}{value[-2:]}" if len(value) > 4 else MASK
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping) and depth < _MAX_DEPTH:
        return {str(k): _redacted(str(k), v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset) and depth < _MAX_DEPTH:
        return [_redacted(key, item, depth + 1) for item in value]
    return redact(str(value))


def _named(name: str) -> Processor:
    def add(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        del logger, method
        event.setdefault("service", name)
        return event

    return add


def _route_standard_logging(shared: list[Processor], renderer: Processor, level: int, target: TextIO) -> None:
    handler = _Handler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[_drop_record_fields, renderer],
        )
    )
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)


def _drop_record_fields(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    del logger, method
    fields: dict[str, Any] = {
        key: value for key, value in event.items() if key not in {"_record", "_from_structlog"}
    }
    return fields
