"""The same models and the same index in this process: what the servers are compared with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from similarity_server.artifact import read_index

MODELS = ("lstm_cnn", "gaf_resnet")
NEIGHBORS = 16
EMBEDDER = "gaf_resnet"
INDEX = "market_states"
_WINDOW_COLUMNS = 5


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds per window."""

    calls: list[float]
    search: list[float]

    @property
    def total(self) -> list[float]:
        """Return models and search, one after the other."""
        return [calls + search for calls, search in zip(self.calls, self.search, strict=True)]


class InProcess:
    """onnxruntime with one thread, as in the servers, and exact search with FAISS."""

    def __init__(self, root: Path) -> None:
        self.sessions = {name: open_session(root / "model_repository" / name) for name in MODELS}
        outputs = [output.name for output in self.sessions[EMBEDDER].get_outputs()]
        self._embedding_at = outputs.index("embedding")
        _, states = read_index(root / "servers" / "similarity_server" / "indexes", INDEX)
        faiss.omp_set_num_threads(1)
        self._index = faiss.IndexFlatIP(states.embedding.shape[1])
        self._index.add(states.embedding)
        self._outcome_ns = states.outcome_ns

    def run(self, name: str, window: NDArray[np.float32]) -> list[Any]:
        """Run one model on a (1, window_bars, 5) float32 window; return its outputs."""
        outputs: list[Any] = self.sessions[name].run(None, {"window": window})
        return outputs

    def search(self, outputs: Sequence[Any], before_ns: int) -> NDArray[np.int64]:
        """Return the rows of the nearest states whose outcome was known, as the server finds them.

        Args:
            outputs: The embedder's.
            before_ns: When the outcome must have been known.
        """
        known = int(np.searchsorted(self._outcome_ns, before_ns, side="left"))
        parameters = faiss.SearchParameters(sel=faiss.IDSelectorRange(0, known, True))  # type: ignore[call-arg]
        embedding = outputs[self._embedding_at]
        rows: NDArray[np.int64] = self._index.search(embedding, NEIGHBORS, params=parameters)[1]
        return rows

    def measure(self, windows: Sequence[tuple[bytes, int]], passes: int, pause_s: float = 0.0) -> Times:
        """Time the work of one decision on each window: the models one after the other, then the search.

        Args:
            windows: Recorded windows with the end of their last bar.
            passes: Times to go over them, after one that warms up.
            pause_s: Before each; without one, models and index stay in the caches of the processor.
        """
        times = Times([], [])
        arrays = [(window_of(raw), event_ns) for raw, event_ns in windows]
        for number in range(passes + 1):
            for window, event_ns in arrays:
                time.sleep(pause_s)
                began = time.perf_counter_ns()
                outputs = {name: self.run(name, window) for name in MODELS}
                between = time.perf_counter_ns()
                self.search(outputs[EMBEDDER], event_ns)
                ended = time.perf_counter_ns()
                if number:  # the first pass warms up
                    times.calls.append((between - began) / 1e6)
                    times.search.append((ended - between) / 1e6)
        return times


def open_session(model: Path) -> onnxruntime.InferenceSession:
    """Return a model of a repository's folder, with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model / "1" / "model.onnx", options, providers=["CPUExecutionProvider"]
    )


def window_of(raw: bytes) -> NDArray[np.float32]:
    """Return a recorded window as the models take it."""
    return np.frombuffer(raw, "<f4").reshape(1, -1, _WINDOW_COLUMNS).astype(np.float32)
