"""Reads the fenced blocks of Markdown pages, so that what they show can be run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
_BLOCK = re.compile(
    r"^(?:<!-- file: (?P<file>[\w.-]+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$",
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
    """

    language: str
    text: str
    line: int
    file: str


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page."""
    text = page.read_text()
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("text")) + 1
        yield Block(found["language"], found["text"], line, found["file"] or "")


def pages() -> Sequence[Path]:
    """Return every page of the documentation, records of decisions aside."""
    return sorted(DOCS.glob("*.md"))


def python_of(page: Path) -> str:
    """Return the Python of a page as one program whose tracebacks show the page's line numbers."""
    program: list[str] = []
    for block in blocks(page):
        if block.language == "python":
            program += [""] * (block.line - 1 - len(program))
            program += block.text.splitlines()
    return "\n".join(program) + "\n" if program else ""


def commands_of(page: Path) -> Sequence[str]:
    """Return the lines of a page's shell blocks that call `tradeserve`."""
    lines = (line.partition(" # ")[0].strip() for block in blocks(page) if block.language == "sh"
             for line in block.text.splitlines())  # fmt: skip
    return [line for line in lines if line.startswith("tradeserve ")]
