"""Asks the exported graph, as Triton does; no torch."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_export.detector.average_precision import Found
from model_export.errors import ArtifactError


class ServedDetector:
    """The graph in ONNX Runtime on one thread."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as e:
            raise ArtifactError(f"{path}: ONNX Runtime can't load it ({e}); run `make detector`") from e
        self.inputs = {t.name: (t.type, tuple(t.shape)) for t in self._session.get_inputs()}
        self.outputs = {t.name: (t.type, tuple(t.shape)) for t in self._session.get_outputs()}

    def ask(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return every output for (batch, height, width, 3) pictures."""
        names = list(self.outputs)
        return dict(zip(names, self._session.run(names, {"image": images}), strict=True))

    def find(self, pixels: NDArray[np.uint8]) -> Found:
        """Return what is found on one picture."""
        out = self.ask(pixels[None])
        count = int(out["count"][0, 0])
        return Found(
            out["boxes"][0, :count].astype(np.float64),
            out["labels"][0, :count].astype(np.int64),
            out["scores"][0, :count].astype(np.float64),
        )

    def find_all(self, pictures: Iterable[NDArray[np.uint8]]) -> list[Found]:
        """Return what is found on each of many pictures."""
        return [self.find(pixels) for pixels in pictures]

    def milliseconds(self, pixels: NDArray[np.uint8], calls: int = 100) -> float:
        """Return the median time of one call with one picture."""
        taken = []
        for _ in range(calls):
            began = time.perf_counter_ns()
            self.ask(pixels[None])
            taken.append(time.perf_counter_ns() - began)
        return float(np.median(taken)) / 1e6
