"""Weights in the safetensors format, as bfloat16.

Source: the format's specification (8 bytes of header length, a JSON header, the tensors one after the other).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def write_bfloat16(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors, sorted by name; the same tensors give the same bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    parts = []
    offset = 0
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu", torch.bfloat16).contiguous()
        data = tensor.view(torch.int16).numpy().astype("<i2").tobytes()
        header[name] = {
            "dtype": "BF16",
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(data)],
        }
        offset += len(data)
        parts.append(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(b"".join((struct.pack("<Q", len(text)), text, *parts)))


def read_bfloat16(path: Path) -> dict[str, Tensor]:
    """Read what `write_bfloat16` wrote, as float32."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        values = torch.as_tensor(np.frombuffer(content[begin:end], "<i2").astype(np.int16))
        tensors[name] = values.view(torch.bfloat16).float().view(entry["shape"])
    return tensors
