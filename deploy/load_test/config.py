"""Read ghz configs (TOML or JSON) into what our generator can run; every other key is refused by name.

Source: ghz v0.121, runner/config.go. ghz itself passes over keys that it does not know.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from load_test.errors import ConfigError
from load_test.schedule import KINDS, Kind, Schedule

MAX_CONCURRENCY = 100_000

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")

_SUPPORTED = frozenset(
    [
        "name",
        "host",
        "call",
        "protoset",
        "insecure",
        "cacert",
        "cert",
        "key",
        "cname",
        "authority",
        "total",
        "concurrency",
        "connections",
        "rps",
        "async",
        "duration",
        "duration-stop",
        "timeout",
        "connect-timeout",
        "keepalive",
        "skipFirst",
        "count-errors",
        "load-schedule",
        "load-start",
        "load-step",
        "load-end",
        "load-step-duration",
        "load-max-duration",
        "data",
        "data-file",
        "binary-file",
        "metadata",
        "disable-template-functions",
        "disable-template-data",
        "concurrency-schedule",
        "format",
        "output",
        "tags",
        "lb-strategy",
    ]
)
_GHZ_ONLY = {
    "proto": "give a protoset: `python -m load_test payloads` writes them",
    "import-paths": "give a protoset: `python -m load_test payloads` writes them",
    "skipTLS": "give the server's certificate authority as cacert",
    "max-duration": "ghz calls it deprecated: give duration",
    **dict.fromkeys(
        [
            "metadata-file",
            "stream-interval",
            "stream-call-duration",
            "stream-call-count",
            "stream-dynamic-messages",
            "cpus",
            "reflect-metadata",
            "debug",
            "enable-compression",
            "max-recv-message-size",
            "max-send-message-size",
            "concurrency-start",
            "concurrency-end",
            "concurrency-step",
            "concurrency-step-duration",
            "concurrency-max-duration",
        ],
        "remove it, or run ghz itself on this file",
    ),
}


@dataclass(frozen=True, slots=True)
class LoadConfig:
    """One load test. Defaults are ghz's.

    Attributes:
        name: For people; "" for none.
        host: host:port, or a URI that grpc knows.
        call: package.Service/Method or package.Service.Method; unary.
        protoset: File with a FileDescriptorSet that holds the call.
        data: A JSON message, or several that are sent in turn; None when there is a file.
        data_file: JSON file with the same.
        binary_file: Serialized messages, each after its length as a varint, sent in turn.
        metadata: Sent with every call.
        insecure: Plain text.
        cacert: PEM file; cert and key too, for mutual TLS; "" for none.
        cname: Name that the server's certificate must have, when it is not the host's.
        authority: The :authority of the calls; "" for the host's.
        concurrency: Most calls in flight (ghz: workers). What is due beyond it is an error, not a wait.
        connections: Channels; calls go over them in turn.
        timeout_s: Of one call, from when it is due.
        connect_timeout_s: For the connections at the start.
        keepalive_s: Of the connections; 0 for none.
        skip_first: So many answers are left out of the report.
        count_errors: Whether latencyDistribution holds failed calls; the gate does not look at it.
        lb_strategy: gRPC's name of a load balancing policy; "" for grpc's own choice.
        tags: Handed on to the report.
        output: Where the report goes; "" for standard output.
        schedule: When calls are due.
    """

    host: str
    call: str
    protoset: str
    schedule: Schedule
    name: str = ""
    data: Any = None
    data_file: str = ""
    binary_file: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    insecure: bool = False
    cacert: str = ""
    cert: str = ""
    key: str = ""
    cname: str = ""
    authority: str = ""
    concurrency: int = 50
    connections: int = 1
    timeout_s: float = 20.0
    connect_timeout_s: float = 10.0
    keepalive_s: float = 0.0
    skip_first: int = 0
    count_errors: bool = False
    lb_strategy: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    output: str = ""


def load(path: Path) -> LoadConfig:
    """Read a config file.

    Raises:
        ConfigError: It can't be read, or a key is unknown, unsupported or out of range.
    """
    return parse(read(path), str(path))


def read(path: Path) -> dict[str, Any]:
    """Return the keys of a TOML or JSON file as they are.

    Raises:
        ConfigError: It can't be read.
    """
    try:
        text = path.read_text()
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}; the shipped configs are in deploy/ghz") from e
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path}: not text: {e}") from e
    try:
        if path.suffix == ".toml":
            return tomllib.loads(text)
        if path.suffix == ".json":
            document = json.loads(text)
        else:
            raise ConfigError(f"{path}: give a .toml or .json file (ghz reads YAML too, we don't)")
    except ValueError as e:
        raise ConfigError(f"{path}: {e}") from e
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: holds no object of keys")
    return document


def parse(document: Mapping[str, Any], where: str) -> LoadConfig:
    """Check every key.

    Args:
        document: Keys of a ghz config.
        where: File, for errors.

    Raises:
        ConfigError: A key is unknown, unsupported or out of range; file and key are named.
    """
    for key in document:
        if key in _GHZ_ONLY:
            raise ConfigError(f"{where}: {key} is not supported by our generator: {_GHZ_ONLY[key]}")
        if key not in _SUPPORTED:
            near = difflib.get_close_matches(key, [*_SUPPORTED, *_GHZ_ONLY], 1)
            raise ConfigError(
                f"{where}: {key} is no key of ghz{f'; did you mean {near[0]}?' if near else ''}"
            )
    keys = _Keys(document, where)
    config = LoadConfig(
        host=keys.text("host", required=True),
        call=keys.text("call", required=True),
        protoset=keys.text("protoset", required=True),
        schedule=_schedule(keys),
        name=keys.text("name"),
        data=document.get("data"),
        data_file=keys.text("data-file"),
        binary_file=keys.text("binary-file"),
        metadata=keys.texts("metadata"),
        insecure=keys.flag("insecure"),
        cacert=keys.text("cacert"),
        cert=keys.text("cert"),
        key=keys.text("key"),
        cname=keys.text("cname"),
        authority=keys.text("authority"),
        concurrency=keys.count("concurrency", 50, 1, MAX_CONCURRENCY),
        connections=keys.count("connections", 1, 1, 1_000),
        timeout_s=keys.seconds("timeout", 20.0),
        connect_timeout_s=keys.seconds("connect-timeout", 10.0),
        keepalive_s=keys.seconds("keepalive", 0.0),
        skip_first=keys.count("skipFirst", 0, 0),
        count_errors=keys.flag("count-errors"),
        lb_strategy=keys.text("lb-strategy"),
        tags=keys.texts("tags"),
        output=keys.text("output"),
    )
    _check(config, keys)
    return config


def _schedule(keys: _Keys) -> Schedule:
    kind: Kind = "const"
    given = keys.text("load-schedule", "const").lower()
    for known in KINDS:
        if known == given:
            kind = known
    if kind != given:
        raise keys.wrong("load-schedule", f"{given!r} is none of {', '.join(KINDS)}")
    schedule = Schedule(
        kind=kind,
        rps=keys.count("rps", 0, 0),
        start=keys.count("load-start", 0, 0),
        step=keys.count("load-step", 0, -(2**31)),
        end=keys.count("load-end", 0, 0),
        step_duration_s=keys.seconds("load-step-duration", 0.0),
        max_duration_s=keys.seconds("load-max-duration", 0.0),
        duration_s=keys.seconds("duration", 0.0),
        total=keys.count("total", 200, 0),
    )
    try:
        schedule.check()
    except ConfigError as e:
        raise ConfigError(f"{keys.where}: {e}") from e
    return schedule


def _check(config: LoadConfig, keys: _Keys) -> None:
    payloads = [key for key in ("data", "data-file", "binary-file") if key in keys.document]
    if len(payloads) != 1:
        raise ConfigError(f"{keys.where}: give one of data, data-file and binary-file, not {len(payloads)}")
    if config.connections > config.concurrency:
        raise keys.wrong(
            "connections", f"{config.connections} are more than concurrency {config.concurrency}"
        )
    if config.timeout_s <= 0:
        raise keys.wrong("timeout", "a call without a deadline may never end")
    if bool(config.cert) != bool(config.key):
        raise keys.wrong("cert", "give both cert and key, or neither")
    if config.insecure and (config.cacert or config.cert):
        raise keys.wrong("insecure", "plain text has no use for cacert, cert and key")
    if config.skip_first >= config.schedule.call_count:
        raise keys.wrong("skipFirst", f"all {config.schedule.call_count} calls would be left out")
    if keys.text("format", "json") != "json":
        raise keys.wrong("format", 'must be "json": it is the one with the details that the gate needs')
    if keys.text("duration-stop", "wait") != "wait":
        raise keys.wrong("duration-stop", 'must be "wait": else calls in flight at the end look like errors')
    if keys.text("concurrency-schedule", "const") != "const":
        raise keys.wrong("concurrency-schedule", 'must be "const": the load is set by its rate')
    keys.flag("async")
    keys.flag("disable-template-functions")
    keys.flag("disable-template-data")


@dataclass(frozen=True, slots=True)
class _Keys:
    """Typed access; every complaint names file and key."""

    document: Mapping[str, Any]
    where: str

    def wrong(self, key: str, problem: str) -> ConfigError:
        return ConfigError(f"{self.where}: {key}: {problem}")

    def text(self, key: str, default: str = "", *, required: bool = False) -> str:
        value = self.document.get(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, f"{value!r} is no text")
        if required and not value.strip():
            raise self.wrong(key, "is missing")
        return value.strip()

    def flag(self, key: str) -> bool:
        value = self.document.get(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key, f"{value!r} is neither true nor false")
        return value

    def count(self, key: str, default: int, least: int, most: int = 2**31 - 1) -> int:
        value = self.document.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.wrong(key, f"{value!r} is no whole number from {least} to {most}")
        return value

    def seconds(self, key: str, default: float) -> float:
        if key not in self.document:
            return default
        return duration_s(self.document[key], f"{self.where}: {key}")

    def texts(self, key: str) -> dict[str, str]:
        value = self.document.get(key, {})
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            raise self.wrong(key, "must be a table of texts")
        return value


def duration_s(value: Any, where: str) -> float:
    """Return the seconds of a Go duration such as "1m30s" or "50ms".

    Raises:
        ConfigError: It is none, or longer than a day.
    """
    text = value.strip() if isinstance(value, str) else ""
    if text != "0" and not re.fullmatch(f"(?:{_DURATION.pattern})+", text):
        raise ConfigError(f'{where}: {value!r} is no duration: write "30s", "1m30s" or "50ms"')
    seconds = sum(float(number) * _UNITS_S[unit] for number, unit in _DURATION.findall(text))
    if seconds > 86_400:
        raise ConfigError(f"{where}: {text} is longer than a day")
    return seconds
