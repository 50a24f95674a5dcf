"""The pages of docs/: an index that is complete, links that lead somewhere, commands that exist."""

from __future__ import annotations

import re
import shlex

import pytest

from doc_pages import DOCS, ROOT, blocks, commands_of, pages
from tradeserve_cli.command_line import completed, parser

MAKE_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PAGES = pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)


def test_the_index_lists_every_page_and_the_readme_leads_to_it() -> None:
    index = (DOCS / "README.md").read_text()
    for page in pages():
        assert page.name == "README.md" or f"]({page.name})" in index, f"docs/README.md lacks {page.name}"
    assert "](docs/README.md)" in (ROOT / "README.md").read_text()


@PAGES
def test_every_link_of_a_page_leads_somewhere(page) -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert "://" in link or (page.parent / link).exists(), (
            f"{page.name} links to {link}, which is not there"
        )


@PAGES
def test_every_make_target_of_a_page_exists(page) -> None:
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)\b", page.read_text(), re.MULTILINE))
    assert named <= MAKE_TARGETS


@PAGES
def test_every_tradeserve_command_of_a_page_parses(page) -> None:
    for line in commands_of(page):
        parser().parse_args(completed(shlex.split(line)[1:]))


@PAGES
def test_every_python_block_of_a_page_compiles(page) -> None:
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, f"{page.name}:{block.line}", "exec")
