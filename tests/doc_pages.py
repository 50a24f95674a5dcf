"""Reads the fenced blocks of Markdown pages, so that what they show can be run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
_BLOCK = re.compile(
    r"^(?:<!-- file: (?P<file>[\w.-]+) -->\n|(?P<another><!-- another program -->\n)|"
    r"(?P<own><!-- on a repository of its own -->\n))?"
    r"```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        language: What follows the fence.
        text: Its lines.
        line: Of the page, where its text begins.
        file: Name of the file that it is the content of; "" for none.
        begins: Whether a program of its own begins here.
        changes_models: Whether its commands change the model repository.
    """

    language: str
    text: str
    line: int
    file: str
    begins: bool
    changes_models: bool


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page."""
    text = page.read_text()
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("text")) + 1
        flags = (bool(found["another"]), bool(found["own"]))
        yield Block(found["language"], found["text"], line, found["file"] or "", *flags)


def pages() -> Sequence[Path]:
    """Return every page of the documentation, records of decisions aside."""
    return sorted(DOCS.glob("*.md"))


def programs_of(page: Path) -> Sequence[str]:
    """Return the Python of a page as programs whose tracebacks show the page's line numbers."""
    programs: list[list[str]] = []
    for block in blocks(page):
        if block.language == "python":
            if block.begins or not programs:
                programs.append([])
            programs[-1] += [""] * (block.line - 1 - len(programs[-1]))
            programs[-1] += block.text.splitlines()
    return ["\n".join(program) + "\n" for program in programs]


def changes_models(page: Path) -> bool:
    """Return whether the page's commands change the model repository."""
    return any(block.changes_models for block in blocks(page))


def commands_of(page: Path) -> Sequence[str]:
    """Return the lines of a page's shell blocks that call `tradeserve`."""
    lines = (line.partition(" # ")[0].strip() for block in blocks(page) if block.language == "sh"
             for line in block.text.splitlines())  # fmt: skip
    return [line for line in lines if line.startswith("tradeserve ")]
