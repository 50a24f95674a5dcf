"""The reader as a folder that Hugging Face's loaders and vLLM read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from model_export.vlm.dialogue import Dialogue
from model_export.vlm.reader import Reader
from model_export.vlm.safetensors import read_bfloat16, write_bfloat16
from model_export.vlm.shape import config_of, processor_config_of
from model_export.vlm.tokenizer import CHAT_TEMPLATE, SPECIALS, tokenizer_config

CARD, MANIFEST, WEIGHTS = "card.json", "SHA256SUMS", "model.safetensors"


def token_ids() -> dict[str, int]:
    """Return the ids that a config names."""
    return {
        "pad": SPECIALS.index("<|endoftext|>"),
        "eos": SPECIALS.index("<|im_end|>"),
        "image": SPECIALS.index("<|image_pad|>"),
        "video": SPECIALS.index("<|video_pad|>"),
        "vision_start": SPECIALS.index("<|vision_start|>"),
        "vision_end": SPECIALS.index("<|vision_end|>"),
    }


def write_checkpoint(folder: Path, reader: Reader, dialogue: Dialogue) -> str:
    """Write everything but the card; return the SHA-256 of the manifest, for the card."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = token_ids()
    _write(folder / "config.json", config_of(reader.tower.shape, reader.language.shape, ids))
    _write(folder / "processor_config.json", processor_config_of(reader.tower.shape))
    _write(folder / "tokenizer.json", dialogue.vocabulary.file(), indent=None)
    _write(folder / "tokenizer_config.json", tokenizer_config())
    _write(
        folder / "generation_config.json",
        {"do_sample": False, "eos_token_id": [ids["eos"], ids["pad"]], "pad_token_id": ids["pad"]},
    )
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    write_bfloat16(folder / WEIGHTS, reader.state_dict())
    return write_manifest(folder)


def load_weights(folder: Path, reader: Reader) -> Reader:
    """Load the weights of a checkpoint of the same shape."""
    reader.load_state_dict(read_bfloat16(folder / WEIGHTS))
    return reader


def write_manifest(folder: Path) -> str:
    """Write the digests of the checkpoint's files; return the manifest's own."""
    names = sorted(path.name for path in folder.iterdir() if path.name not in (CARD, MANIFEST))
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    content = "".join(lines)
    (folder / MANIFEST).write_text(content)
    return hashlib.sha256(content.encode()).hexdigest()


def _write(path: Path, content: dict[str, Any], indent: int | None = 2) -> None:
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=False) + "\n")
