"""Runs exported graphs with ONNX Runtime on one thread; no torch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_export.errors import REMAKE, ArtifactError

_BATCH = 256


class Graph:
    """An ONNX file, loaded.

    Attributes:
        inputs: Name -> shape; the batch dimension is None.
        outputs: The same.
    """

    def __init__(self, source: Path | bytes) -> None:
        """Load a file, or what one holds.

        Raises:
            ArtifactError: ONNX Runtime can't load it.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(
                source if isinstance(source, bytes) else str(source),
                options,
                providers=["CPUExecutionProvider"],
            )
        except Exception as e:
            name = "a graph in memory" if isinstance(source, bytes) else source
            raise ArtifactError(f"{name}: ONNX Runtime can't load it ({e}); {REMAKE}") from e
        self.inputs = {t.name: _shape(t) for t in self._session.get_inputs()}
        self.outputs = {t.name: _shape(t) for t in self._session.get_outputs()}

    def __call__(self, windows: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return every output for raw windows, (n, 60, 5), or pictures; large n is cut into batches."""
        name = next(iter(self.inputs))
        parts = [
            self._session.run(None, {name: windows[i : i + _BATCH]})
            for i in range(0, max(len(windows), 1), _BATCH)
        ]
        return {n: np.concatenate([p[k] for p in parts]) for k, n in enumerate(self.outputs)}

    def milliseconds(self, rows: NDArray[Any], calls: int = 200) -> float:
        """Return the median time of one call with the first row alone."""
        name, one = next(iter(self.inputs)), rows[:1]
        taken = []
        for _ in range(calls):
            began = time.perf_counter_ns()
            self._session.run(None, {name: one})
            taken.append(time.perf_counter_ns() - began)
        return float(np.median(taken)) / 1e6


def _shape(tensor: Any) -> tuple[int | None, ...]:
    return tuple(d if isinstance(d, int) else None for d in tensor.shape)
