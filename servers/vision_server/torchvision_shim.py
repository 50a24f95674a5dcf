"""Let a torchvision that was built for CUDA be imported beside a torch for processors.

Its compiled operators do not load there, and its import then fails on two that nobody declared: they are declared
here, just before. Copied into vLLM's environment, where a .pth file imports it at every start of Python; nothing
of this project imports it. With a torchvision that was built for processors it changes nothing.
"""

import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_kept: list[Any] = []  # the declarations live as long as their library


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            _declare()
        return None


def _declare() -> None:
    import torch

    if torch.version.cuda is not None:
        return  # its torch fits
    make: Any = torch.library.Library
    library = make("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)


sys.meta_path.insert(0, _BeforeTorchvision())
