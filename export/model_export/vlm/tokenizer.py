"""A tokenizer of whole words and numbers, with bytes for everything else, in Hugging Face's file format.

A piece of text that is in the vocabulary is one token, any other is its bytes; there are no merges to learn. Numbers
come in pieces of three digits, a decimal point with the digits after it, so that a price is two to four tokens.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{%- for message in messages -%}<|im_start|>{{ message.role + '\\n' }}"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'image' or part.type == 'image_url' or 'image' in part or 'image_url' in part -%}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif part.type == 'video' or 'video' in part -%}<|vision_start|><|video_pad|><|vision_end|>"
    "{%- elif 'text' in part -%}{{ part.text }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{ '<|im_end|>\\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
_PIECE = r" ?[0-9]{1,3}%=?|\.?[0-9]{1,3}| ?[A-Za-z_]+| ?[^ \n\t\rA-Za-z_0-9]+|[ \n\t\r]"
_LEAST_COUNT = 5
_PRINTED = (*range(33, 127), *range(161, 173), *range(174, 256))


def _byte_characters() -> list[str]:
    """Return the character that stands for each byte in a vocabulary (the convention of GPT-2)."""
    rest = iter(range(256, 512))
    return [chr(byte) if byte in _PRINTED else chr(next(rest)) for byte in range(256)]


_BYTES = _byte_characters()


def pieces(text: str) -> list[str]:
    """Split a text without specials; the pieces add up to it."""
    return re.findall(_PIECE, text)


@dataclass(frozen=True)
class Vocabulary:
    """All tokens by id: specials, bytes, numbers, words.

    Attributes:
        words: Pieces that are one token, beside numbers.
    """

    words: tuple[str, ...]

    @cached_property
    def ids(self) -> dict[str, int]:
        """Return the id of each special and of each piece as text; bytes are not in it."""
        numbers = [f"{n:0{width}d}" for width in (1, 2, 3) for n in range(10**width)]
        shares = [f"{a}{n}%{b}" for n in range(101) for a, b in (("", ""), (" ", ""), (" ", "="))]
        whole = [*numbers, *(f".{n}" for n in numbers), *shares, *self.words]
        unique = [piece for piece in dict.fromkeys(whole) if len(piece.encode()) > 1]
        first = len(SPECIALS) + len(_BYTES)
        return {name: i for i, name in enumerate(SPECIALS)} | {p: first + i for i, p in enumerate(unique)}

    def __len__(self) -> int:
        return len(self.ids) + len(_BYTES)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text without specials."""
        ids: list[int] = []
        for piece in pieces(text):
            whole = self.ids.get(piece)
            if whole is None:
                ids += [len(SPECIALS) + byte for byte in piece.encode()]
            else:
                ids.append(whole)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; specials are left out."""
        data = b"".join(self._spelled[one] for one in ids)
        return data.decode(errors="replace")

    @cached_property
    def _spelled(self) -> dict[int, bytes]:
        spelled = {len(SPECIALS) + byte: bytes([byte]) for byte in range(256)}
        return spelled | {i: b"" if p in SPECIALS else p.encode() for p, i in self.ids.items()}

    def file(self) -> dict[str, Any]:
        """Return the tokenizer.json."""
        vocabulary = {_BYTES[byte]: len(SPECIALS) + byte for byte in range(256)}
        for piece, index in self.ids.items():
            if piece not in SPECIALS:
                vocabulary["".join(_BYTES[byte] for byte in piece.encode())] = index
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        split = {"type": "Split", "pattern": {"Regex": _PIECE}, "behavior": "Isolated", "invert": False}
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": i, "content": name, **plain} for i, name in enumerate(SPECIALS)],
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
            "post_processor": None,
            "decoder": level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": True,
                "vocab": {name: i for i, name in enumerate(SPECIALS)} | vocabulary,
                "merges": [],
            },
        }


def learn(texts: Iterable[str], always: Iterable[str]) -> Vocabulary:
    """Return the vocabulary of texts.

    Args:
        texts: Whose words that come five times or more are taken.
        always: Texts whose every word is taken.
    """
    counted = Counter(piece for text in texts for piece in pieces(text))
    taken = {piece for text in always for piece in pieces(text)}
    taken |= {piece for piece, count in counted.items() if count >= _LEAST_COUNT}
    return Vocabulary(tuple(sorted(piece for piece in taken if not any(c.isdigit() for c in piece))))


def tokenizer_config() -> dict[str, Any]:
    """Return the tokenizer_config.json."""
    return {
        "backend": "tokenizers",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "extra_special_tokens": list(SPECIALS),
        "model_max_length": 2048,
        "pad_token": "<|endoftext|>",
        "processor_class": "Qwen3VLProcessor",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
