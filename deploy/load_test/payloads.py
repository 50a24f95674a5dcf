"""Writes what the configs in deploy/ghz send: protosets, and requests with real tensors, under build/."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from gateway_simulator.generated import generate
from load_test.errors import ConfigError
from load_test.messages import delimited, protoset
from market.chart import ChartOptions, columns_of_window, draw
from tradeserve.similarity.v1 import similarity_service_pb2
from tradeserve.strategy.v1 import strategy_service_pb2

INDEX = "market_states"
NEIGHBORS = 16  # as many as the strategy asks for

_MESSAGES = 256  # sent in turn: enough that no cache of a server's holds the answer by accident
_PICTURES = 16  # of 0.7 MB each
_BARS_DRAWN, _SIDE_PX = 80, 480
_BAR_SIZE_S = 300
_NOISE = 0.05  # per dimension of a unit vector in 128: near a state of the index, equal to none


def write(folder: Path, model_repository: Path, seed: int = 7) -> list[Path]:
    """Write every file; the same bytes for the same seed.

    Args:
        folder: Where to, made when it is not there.
        model_repository: Of Triton; its models' cards say what they take.
        seed: Of the generated market and the embeddings.

    Returns:
        What was written.

    Raises:
        ConfigError: A model takes something that can't be made here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "triton.protoset": protoset([service_pb2.DESCRIPTOR]),
        "similarity.protoset": protoset([similarity_service_pb2.DESCRIPTOR]),
        "strategy.protoset": protoset([strategy_service_pb2.DESCRIPTOR]),
        "similarity.bin": delimited(searches(embeddings(_MESSAGES, seed), seed)),
    }
    for card in sorted(model_repository.glob("*/card.json")):
        files[f"{card.parent.name}.bin"] = delimited(inferences(json.loads(card.read_text()), card, seed))
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


def windows(count: int, bars: int, seed: int) -> NDArray[np.float32]:
    """Return windows of a generated market, (count, bars, 5) float32: open, high, low, close, volume.

    They end on different bars of different instruments, so that no two are equal.
    """
    session = generate(bar_size_s=_BAR_SIZE_S, seed=seed, days=3)
    columns = ("open", "high", "low", "close", "volume")
    every = np.concatenate(
        [
            sliding_window_view(np.stack([getattr(series, name) for name in columns]), bars, axis=1)
            for series in session.series
        ],
        axis=1,
    )  # (5, windows, bars)
    chosen = np.random.default_rng(seed).choice(every.shape[1], count, replace=every.shape[1] < count)
    return np.ascontiguousarray(every[:, chosen].transpose(1, 2, 0), dtype=np.float32)


def inferences(card: dict[str, Any], where: Path, seed: int) -> Iterator[bytes]:
    """Yield serialized ModelInferRequests with raw tensors, one window or one picture of a chart each.

    Args:
        card: The model's card.
        where: Its file, for errors.
        seed: Of the generated market.

    Raises:
        ConfigError: An input is neither.
    """
    tensor, *_ = card["inputs"]
    rng = np.random.default_rng(seed)
    for values in _rows_for(card["inputs"], where, seed):
        request = service_pb2.ModelInferRequest(
            model_name=card["name"],
            id=_uuid(rng),
            inputs=[
                service_pb2.ModelInferRequest.InferInputTensor(
                    name=tensor["name"], datatype=tensor["datatype"], shape=[1, *values.shape]
                )
            ],
            outputs=[
                service_pb2.ModelInferRequest.InferRequestedOutputTensor(name=output["name"])
                for output in card["outputs"]
            ],
            raw_input_contents=[values.tobytes()],
        )
        yield request.SerializeToString()


def _rows_for(inputs: list[dict[str, Any]], where: Path, seed: int) -> NDArray[Any]:
    """Return what fits the only input, the batch first."""
    tensor, *more = inputs
    kind, shape = tensor["datatype"], tuple(tensor["shape"])
    if not more and kind == "FP32" and len(shape) == 3 and shape[1] > 0 and shape[2] == 5:
        return windows(_MESSAGES, shape[1], seed).astype("<f4")
    if not more and kind == "UINT8" and shape == (-1, -1, -1, 3):
        return pictures(_PICTURES, seed)
    raise ConfigError(
        f"{where}: inputs: data can be made for one window of bars, FP32 (-1, n, 5), or one picture of a chart, "
        "UINT8 (-1, -1, -1, 3), not for this"
    )


def pictures(count: int, seed: int) -> NDArray[np.uint8]:
    """Return charts of a generated market, (count, 480, 480, 3) uint8."""
    options, end_ns = ChartOptions(_SIDE_PX, _SIDE_PX), _BARS_DRAWN * _BAR_SIZE_S * 10**9
    drawn = (
        draw(columns_of_window(window, end_ns=end_ns, bar_size_s=_BAR_SIZE_S), options)
        for window in windows(count, _BARS_DRAWN, seed)
    )
    return np.stack([chart.pixels for chart in drawn])


def embeddings(count: int, seed: int) -> NDArray[np.float32]:
    """Return unit vectors near states of the shipped index, (count, dimension) float32."""
    file = resources.files("similarity_server") / "indexes" / INDEX / "1" / "states.npz"
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
        states = arrays["embedding"].astype(np.float32)
    rng = np.random.default_rng(seed)
    near = states[rng.choice(len(states), count, replace=len(states) < count)]
    near += rng.normal(0.0, _NOISE, near.shape).astype(np.float32)
    unit: NDArray[np.float32] = near / np.linalg.norm(near, axis=1, keepdims=True)
    return unit


def searches(queries: Sequence[NDArray[np.float32]] | NDArray[np.float32], seed: int) -> Iterator[bytes]:
    """Yield serialized SearchNeighborsRequests."""
    rng = np.random.default_rng(seed)
    for query in queries:
        yield similarity_service_pb2.SearchNeighborsRequest(
            request_id=_uuid(rng),
            index_name=INDEX,
            embedding_f32=query.astype("<f4").tobytes(),
            neighbor_count=NEIGHBORS,
        ).SerializeToString()


def _uuid(rng: np.random.Generator) -> str:
    return str(uuid.UUID(bytes=rng.bytes(16), version=4))
