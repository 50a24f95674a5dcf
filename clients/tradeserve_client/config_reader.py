"""Read TOML, environment and command-line values into frozen dataclasses.

Every value remembers where it came from, so that an error names the file (or variable or option),
the key, the value, what is expected, and the nearest known key.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from tradeserve_client.bounds import OneOf, Within
from tradeserve_client.errors import ConfigError

__all__ = [
    "ConfigError",
    "Matches",
    "Setting",
    "Settings",
    "build",
    "display",
    "read_environment",
    "read_overrides",
    "read_toml",
    "read_toml_file",
    "shown",
]

T = TypeVar("T")
ENVIRONMENT_PREFIX = "TRADESERVE__"


@dataclass(frozen=True, slots=True)
class Matches:
    """Text that a pattern matches, for `typing.Annotated`."""

    pattern: str
    words: str

    def __str__(self) -> str:
        return f"of the form {self.words}"


@dataclass(frozen=True, slots=True)
class Setting:
    """One raw value and where it came from."""

    value: Any
    origin: str
    is_text: bool  # from the environment or a command line: text still to be read as its type


Settings = dict[str, Setting]


def read_toml(text: str, origin: str) -> Settings:
    """Return the values of a TOML text by dotted key.

    Raises:
        ConfigError: Not TOML.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin}: not valid TOML: {error}") from error
    return {key: Setting(value, origin, False) for key, value in _flatten(document, "")}


def read_toml_file(path: Path) -> Settings:
    """Return the values of a TOML file by dotted key.

    Raises:
        ConfigError: It can't be read or is not TOML in UTF-8.
    """
    try:
        return read_toml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text at byte {error.start}") from error


def read_environment(
    environment: Mapping[str, str], aliases: Mapping[str, str], prefix: str = ENVIRONMENT_PREFIX
) -> Settings:
    """Return the values of TRADESERVE__SECTION__KEY variables, and of aliases (variable -> key)."""
    settings = {}
    for name in sorted(environment):
        if name.startswith(prefix):
            key = name.removeprefix(prefix).lower().replace("__", ".")
            settings[key] = Setting(environment[name], f"environment variable {name}", True)
        elif name in aliases and environment[name]:
            key = aliases[name]
            settings.setdefault(key, Setting(environment[name], f"environment variable {name}", True))
    return settings


def read_overrides(overrides: Mapping[str, Any]) -> Settings:
    """Return command-line values by dotted key; text is read as the key's type."""
    return {
        key: Setting(value, f"override {key}", isinstance(value, str)) for key, value in overrides.items()
    }


def build(kind: type[T], settings: Settings) -> T:
    """Return the dataclass made of the settings.

    Raises:
        ConfigError: A key is unknown or missing, a value has the wrong type or is out of range.
    """
    known = _known_keys(kind, settings)
    for key, setting in settings.items():
        if key not in known:
            if key in _tables(known):
                if setting.value == {}:
                    continue
                raise _wrong(key, setting, f"a table [{key}]")
            raise ConfigError(_unknown(key, setting, known))
    result: T = _build(kind, "", settings)
    return result


def display(key: str) -> str:
    """Write a dotted key as TOML has it: "[risk] max_spread_bps"."""
    section, _, name = key.rpartition(".")
    return f"[{section}] {name}" if section else name


def shown(setting: Setting) -> str:
    """Write a value for an error message, without the password of an URL."""
    return re.sub(r"//[^/@]*@", "//***@", repr(setting.value))


def _flatten(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _fields(kind: Any) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        yield field, hints[field.name]


def _known_keys(kind: Any, settings: Settings, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for field, hint in _fields(kind):
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hint):
            keys += _known_keys(hint, settings, f"{name}.")
        elif _is_free(hint):
            keys += [name, *(key for key in settings if key.startswith(f"{name}."))]
        elif _is_table(hint):
            item = get_args(hint)[1]
            for entry in _entries(name, settings):
                keys += _known_keys(item, settings, f"{name}.{entry}.")
        else:
            keys.append(name)
    return keys


def _is_table(hint: Any) -> bool:
    origin = get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _is_free(hint: Any) -> bool:
    """Return whether a table takes any key, each with a text."""
    return _is_table(hint) and get_args(hint)[1] is str


def _free_values(name: str, settings: Settings) -> dict[str, str]:
    if name in settings and settings[name].value != {}:
        raise _wrong(name, settings[name], f"a table [{name}]")
    return {
        key.removeprefix(f"{name}."): _value(key, setting, str)
        for key, setting in settings.items()
        if key.startswith(f"{name}.")
    }


def _entries(name: str, settings: Settings) -> list[str]:
    parts = [key.removeprefix(f"{name}.").split(".") for key in settings if key.startswith(f"{name}.")]
    # [voters.name] without any key is an entry too, with its defaults.
    empty = {part[0] for part in parts if settings[f"{name}.{'.'.join(part)}"].value == {}}
    return sorted(empty | {part[0] for part in parts if len(part) > 1})


def _tables(known: list[str]) -> set[str]:
    parts = [name.split(".") for name in known]
    return {".".join(part[:length]) for part in parts for length in range(1, len(part))}


def _unknown(key: str, setting: Setting, known: list[str]) -> str:
    section, _, last = key.rpartition(".")
    in_section = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == section}
    anywhere = {name.rpartition(".")[2]: name for name in known}
    close = [in_section[name] for name in difflib.get_close_matches(last, in_section, 1, 0.6)]
    close = close or [anywhere[name] for name in difflib.get_close_matches(last, anywhere, 1, 0.75)]
    if close:
        advice = f"did you mean {display(close[0])}?"
    elif in_section:
        advice = "known there: " + ", ".join(sorted(in_section))
    else:
        advice = "known sections: " + ", ".join(sorted({name.rpartition(".")[0] for name in known}))
    return f"{setting.origin}: unknown key {display(key)} = {shown(setting)}; {advice}"


def _build(kind: Any, prefix: str, settings: Settings) -> Any:
    values: dict[str, Any] = {}
    for field, hint in _fields(kind):
        key = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hint):
            values[field.name] = _build(hint, f"{key}.", settings)
        elif _is_free(hint):
            values[field.name] = _free_values(key, settings)
        elif _is_table(hint):
            item = get_args(hint)[1]
            entries = _entries(key, settings)
            values[field.name] = {entry: _build(item, f"{key}.{entry}.", settings) for entry in entries}
        elif key in settings:
            values[field.name] = _value(key, settings[key], hint)
        elif field.default is dataclasses.MISSING:
            raise ConfigError(f"{display(key)} is missing")
    return kind(**values)


def _value(key: str, setting: Setting, hint: Any) -> Any:
    kind, *rules = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    expected = " ".join([_type_words(kind), *(str(rule) for rule in rules)])
    value = _read_text(setting.value, kind) if setting.is_text else setting.value
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            raise _wrong(key, setting, expected)
        return tuple(value)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise _wrong(key, setting, expected)
    for rule in rules:
        if isinstance(rule, Within) and not rule.low <= value <= rule.high:
            raise _wrong(key, setting, expected)
        if isinstance(rule, OneOf) and value not in rule.words:
            close = difflib.get_close_matches(str(value), rule.words, 1)
            raise _wrong(key, setting, expected + (f"; did you mean {close[0]!r}?" if close else ""))
        if isinstance(rule, Matches) and not re.fullmatch(rule.pattern, value):
            raise _wrong(key, setting, expected)
    return value


def _read_text(text: str, kind: Any) -> Any:
    """Read an override's text as a type; what can't be read stays text, and fails as such."""
    if get_origin(kind) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.strip().lower(), text)
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return text
    return text


def _type_words(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return "a list of texts"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[kind]


def _wrong(key: str, setting: Setting, expected: str) -> ConfigError:
    return ConfigError(f"{setting.origin}: {display(key)} = {shown(setting)}; expected {expected}")
