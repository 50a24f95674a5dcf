"""Writes the artifacts' sha256 into the strategy's contract pins, leaving everything else as it is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from model_export import cards
from model_export.contract import MODELS, Layout
from model_export.errors import ArtifactError


def pin(layout: Layout) -> list[str]:
    """Rewrite the pins in strategy.toml.

    Returns:
        What was pinned, one line each.

    Raises:
        ArtifactError: The file, a section or its key is missing.
    """
    path = layout.strategy_toml
    index: cards.IndexCard = cards.read_card(layout.index_dir / "card.json", cards.IndexCard)
    pins = {
        ("services.similarity", "index_sha256"): index.artifact_sha256,
        **{
            (f"voters.{name}", "artifact_sha256"): cards.read_card(
                layout.card(name), cards.ModelCard
            ).artifact_sha256
            for name in MODELS
        },
    }
    if not path.is_file():
        raise ArtifactError(f"{path}: missing; it holds the pins")
    text = path.read_text()
    for (section, key), value in pins.items():
        text = replace_value(text, section, key, value, path)
    tomllib.loads(text)
    path.write_text(text)
    return [f"{section}.{key} = {value[:12]}…" for (section, key), value in pins.items()]


def replace_value(text: str, section: str, key: str, value: str, path: Path) -> str:
    """Return TOML text with one string value replaced; comments and order stay.

    Raises:
        ArtifactError: The section or the key is not there.
    """
    header = re.search(rf"^\[{re.escape(section)}\][ \t]*(#.*)?$", text, re.MULTILINE)
    if header is None:
        raise ArtifactError(f"{path}: no section [{section}]; add it")
    following = re.search(r"^\[", text[header.end() :], re.MULTILINE)
    end = header.end() + following.start() if following else len(text)
    body, count = re.subn(
        rf'^({re.escape(key)}[ \t]*=[ \t]*)"[^"\n]*"',
        rf'\g<1>"{value}"',
        text[header.end() : end],
        flags=re.MULTILINE,
    )
    if count != 1:
        raise ArtifactError(f'{path}: [{section}] needs one line {key} = "…"')
    return text[: header.end()] + body + text[end:]
