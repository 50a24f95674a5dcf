"""Ranges that configuration values must lie in, written beside the fields they belong to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Within:
    """A number from `low` to `high`, both included, for `typing.Annotated`."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"from {self.low:.10g} to {self.high:.10g}"


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of a few words, for `typing.Annotated`."""

    words: tuple[str, ...]

    def __str__(self) -> str:
        return "that is one of " + ", ".join(f'"{word}"' for word in self.words)
