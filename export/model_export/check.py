"""Checks every artifact against its card, its configs and the contract; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model_export import cards, triton_config
from model_export.contract import (
    DETECTOR,
    EMBEDDING_DIMENSION,
    HORIZON_BARS,
    INDEX_MODEL,
    INDEX_NAME,
    INDEX_VERSION,
    MODELS,
    SERVED,
    Layout,
    ModelContract,
    Tensor,
)
from model_export.detector.card import DetectorCard
from model_export.detector.layout import CLASSES
from model_export.errors import REMAKE, ArtifactError
from model_export.runtime import Graph
from model_export.windows import nasty_windows

MAX_MODEL_BYTES = 3_000_000
PARITY_LIMIT = 1e-4
INDEX_ARRAYS = {
    "state_id": "int64",
    "embedding": "float16",
    "con_id": "int64",
    "symbol_id": "int32",
    "event_ns": "int64",
    "outcome_ns": "int64",
    "bar_size_s": "int32",
    "forward_return_bps": "float32",
}


def check_all(layout: Layout) -> list[str]:
    """Check models and index.

    Returns:
        One line per artifact that is in order.

    Raises:
        ArtifactError: The first difference found; it names the file and the fix.
    """
    return [*(check_model(name, layout) for name in MODELS), check_detector(layout), check_index(layout)]


def check_model(name: str, layout: Layout) -> str:
    """Check graph, configs and card of one forecaster."""
    card: cards.ModelCard = cards.read_card(layout.card(name), cards.ModelCard)
    graph = _check_served(card, cards.describe_forecaster(MODELS[name]), layout)
    expected = np.asarray(card.parity["torch_probabilities_of_nasty_windows"])
    difference = float(np.abs(graph(nasty_windows())["probabilities"] - expected).max())
    if not difference <= PARITY_LIMIT:
        raise ArtifactError(
            f"{layout.onnx(name)}: differs by {difference:.1e} from what torch computed at export"
        )
    return f"{name} {card.version}: {card.artifact_sha256[:12]}, parity {difference:.0e}. {card.statement}"


def check_detector(layout: Layout) -> str:
    """Check graph, configs and card of the pattern detector, and that it finds nothing on an empty picture."""
    card: DetectorCard = cards.read_card(layout.card(DETECTOR.name), DetectorCard)
    graph = _check_served(card, {**cards.describe_contract(DETECTOR), "classes": list(CLASSES)}, layout)
    blank = np.full((1, 480, 480, 3), 255, np.uint8)
    _same(layout.onnx(card.name), "boxes on an empty picture", int(graph(blank)["count"][0, 0]), 0)
    return f"{card.name} {card.version}: {card.artifact_sha256[:12]}. {card.statement}"


def _check_served(card: cards.ModelCard | DetectorCard, fixed: Mapping[str, Any], layout: Layout) -> Graph:
    """Check what every served model has, against the fields of its card that its contract fixes; load its graph."""
    contract = SERVED[fixed["name"]]
    for field, value in fixed.items():
        _same(layout.card(contract.name), field, getattr(card, field), value)
    path = layout.onnx(contract.name)
    _check_file(path, card.artifact_sha256)
    if path.stat().st_size > MAX_MODEL_BYTES:
        raise ArtifactError(f"{path}: {path.stat().st_size} bytes, more than {MAX_MODEL_BYTES}")
    graph = Graph(path)
    _same(path, "inputs", graph.inputs, _in_graph((contract.input,)))
    _same(path, "outputs", graph.outputs, _in_graph(contract.outputs))
    _check_configs(contract, card.parameters(), layout)
    return graph


def _in_graph(tensors: Sequence[Tensor]) -> dict[str, tuple[int | None, ...]]:
    return {t.name: (None, *(None if d < 0 else d for d in t.dims)) for t in tensors}


def _check_file(path: Path, sha256: str) -> None:
    if not path.is_file():
        raise ArtifactError(f"{path}: missing; {REMAKE}")
    _same(path, "sha256", cards.sha256_of(path), sha256)


def _check_configs(contract: ModelContract, wanted: Mapping[str, str], layout: Layout) -> None:
    tensors = {
        "input": {contract.input.name: contract.input.dims},
        "output": {t.name: t.dims for t in contract.outputs},
    }
    for file_name, gpu in triton_config.CONFIG_FILES.items():
        config = layout.model_dir(contract.name) / file_name
        if not config.is_file():
            raise ArtifactError(f"{config}: missing; {REMAKE}")
        text = config.read_text()
        _same(config, "tensors", triton_config.read_tensors(text), tensors)
        found = triton_config.read_parameters(text)
        _same(config, "parameters", {k: found.get(k) for k in wanted}, wanted)
        if text != triton_config.config_text(contract, wanted, gpu=gpu):
            raise ArtifactError(
                f"{config}: is not what is written today; run `python -m model_export configs`"
            )


def check_index(layout: Layout) -> str:
    """Check the index against its card and its embedding model."""
    path = layout.index_dir / "states.npz"
    card: cards.IndexCard = cards.read_card(layout.index_dir / "card.json", cards.IndexCard)
    _check_file(path, card.artifact_sha256)
    model: cards.ModelCard = cards.read_card(layout.card(INDEX_MODEL), cards.ModelCard)
    about = (card.name, card.version, card.dimension, card.horizon_bars)
    _same(path, "card", about, (INDEX_NAME, INDEX_VERSION, EMBEDDING_DIMENSION, HORIZON_BARS))
    made_by = {"name": model.name, "version": model.version, "artifact_sha256": model.artifact_sha256}
    _same(path, "embedding model (rebuild with `index`)", card.embedding_model, made_by)
    with np.load(path, allow_pickle=False) as arrays:
        _same(path, "arrays", {k: str(arrays[k].dtype) for k in arrays if k != "symbols"}, INDEX_ARRAYS)
        lengths = {len(arrays[k]) for k in INDEX_ARRAYS}
        _same(path, "lengths", lengths, {card.state_count})
        norms = np.linalg.norm(arrays["embedding"].astype(np.float32), axis=1)
        _same(path, "as_of_ns", int(arrays["event_ns"].max()), card.as_of_ns)
    if not np.abs(norms - 1).max() < 2e-3:
        raise ArtifactError(f"{path}: an embedding does not have length 1; rebuild with `index`")
    return f"{card.name} {card.version}: {card.artifact_sha256[:12]}, {card.state_count} states. {card.statement}"


def _same(path: Path, what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise ArtifactError(f"{path}: {what} {found!r}, expected {wanted!r}; {REMAKE}")
