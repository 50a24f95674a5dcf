"""A checkpoint and its card: what is served, to the byte, and what is known of its skill."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server_runtime.errors import StartError
from vision_server.reading_engine import Sampling

PACKAGED = Path(__file__).parent / "checkpoint"
CARD, MANIFEST = "card.json", "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_.-]{1,100})")
_MOST_CARD_BYTES = 1 << 20
_MOST_STATEMENT = 1000
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Card:
    """What is known of a model.

    Attributes:
        name: Of the model; what a vLLM of its own serves it as.
        version: From 1.
        artifact_sha256: Of the manifest of its files, 32 bytes.
        export_commit: Of the code that trained it; "" when it was not ours.
        statement: What is known of its skill, at most 1,000 characters.
        sampling: How it is to be sampled.
        engine: Arguments of vLLM's engine that it needs.
    """

    name: str
    version: int
    artifact_sha256: bytes
    export_commit: str
    statement: str
    sampling: Sampling
    engine: Mapping[str, Any]


def load_card(path: Path) -> Card:
    """Read a card.

    Raises:
        StartError: It is missing or malformed.
    """
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MOST_CARD_BYTES))
        digest = bytes.fromhex(content["artifact_sha256"])
        if len(digest) != 32:
            raise ValueError("artifact_sha256 is no SHA-256")
        serving = content.get("serving", {})
        return Card(
            name=str(content["name"]),
            version=int(content["version"]),
            artifact_sha256=digest,
            export_commit=str(content.get("export_commit", "")),
            statement=str(content["statement"])[:_MOST_STATEMENT],
            sampling=Sampling(max_tokens=int(serving.get("max_tokens", Sampling().max_tokens))),
            engine=dict(serving.get("engine", {})),
        )
    except OSError as e:
        raise StartError(
            f"the model's card {path} can't be read ({e.strerror or e}): give the folder of a checkpoint", 2
        ) from e
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise StartError(
            f"the model's card {path} is malformed ({e!r}): write it anew, or restore it", 2
        ) from e


def verify(folder: Path) -> Card:
    """Check every byte of a checkpoint against its manifest, and return its card.

    Raises:
        StartError: A file is missing, too many, or not what the manifest says.
    """
    card = load_card(folder / CARD)
    restore = "restore the checkpoint, or give another one with --checkpoint"
    try:
        manifest = (folder / MANIFEST).read_bytes()
    except OSError as e:
        raise StartError(f"{folder} has no {MANIFEST} ({e.strerror or e}): {restore}", 2) from e
    if hashlib.sha256(manifest).digest() != card.artifact_sha256:
        raise StartError(f"{folder}: {MANIFEST} is not the one that {CARD} names: {restore}", 2)
    expected = {}
    for line in manifest.decode("ascii", "replace").splitlines():
        if (found := _LINE.fullmatch(line)) is None:
            raise StartError(f"{folder}: {MANIFEST} has a malformed line: {restore}", 2)
        expected[found[2]] = found[1]
    names = {path.name for path in folder.iterdir() if path.name not in (CARD, MANIFEST)}
    if names != set(expected):
        different = ", ".join(sorted(names ^ set(expected)))
        raise StartError(f"{folder}: {different} is missing or not in {MANIFEST}: {restore}", 2)
    for name, digest in expected.items():
        if _digest(folder / name) != digest:
            raise StartError(f"{folder / name} is corrupt, its SHA-256 is not {digest}: {restore}", 2)
    return card


def write_manifest(folder: Path) -> str:
    """Write the manifest of a checkpoint's files; return its SHA-256, for the card."""
    names = sorted(path.name for path in folder.iterdir() if path.name not in (CARD, MANIFEST))
    content = "".join(f"{_digest(folder / name)}  {name}\n" for name in names)
    (folder / MANIFEST).write_text(content)
    return hashlib.sha256(content.encode()).hexdigest()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as e:
        raise StartError(f"{path} can't be read ({e.strerror or e}): restore the checkpoint", 2) from e
    return digest.hexdigest()
