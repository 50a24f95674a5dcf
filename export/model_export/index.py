"""Builds the index of past market states from the exported embedding model; no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from market.instruments import synthetic_con_id
from model_export import cards
from model_export.contract import (
    BAR_SIZES_S,
    EMBEDDING_DIMENSION,
    HORIZON_BARS,
    INDEX_MODEL,
    INDEX_NAME,
    INDEX_VERSION,
    MODELS,
    Layout,
)
from model_export.data import Series
from model_export.errors import ArtifactError
from model_export.metrics import block_ids, block_weights, rank_correlation
from model_export.runtime import Graph
from model_export.windows import Samples, Split, build_samples, join, thin

STATES_PER_BAR_SIZE = 3_000
MAX_BYTES = 4_000_000
_NEIGHBORS = 10
_QUERIES = 1_500
_BLOCK_DAYS = 20


def build_index(series: list[Series], layout: Layout) -> cards.IndexCard:
    """Write states.npz and card.json.

    Raises:
        ArtifactError: The embedding model is missing, or the file came out too large.
    """
    model_card = cards.read_card(layout.card(INDEX_MODEL), cards.ModelCard)
    graph = Graph(layout.onnx(INDEX_MODEL))
    parts = [_states(series, b) for b in BAR_SIZES_S]
    embedding = np.concatenate([graph(p.windows())["embedding"] for p in parts]).astype(np.float16)
    names = [[p.series[int(s)].symbol for s in p.series_id] for p in parts]
    symbols, symbol_id = np.unique(np.concatenate([np.asarray(n) for n in names]), return_inverse=True)
    con_ids = np.asarray([synthetic_con_id(str(s)) for s in symbols], np.int64)
    if len(np.unique(con_ids)) != len(con_ids):
        raise ArtifactError("two symbols have the same synthetic contract id; leave one of them out")
    arrays: dict[str, NDArray[Any]] = {
        "state_id": np.arange(1, len(embedding) + 1, dtype=np.int64),
        "embedding": embedding,
        "con_id": con_ids[symbol_id],
        "symbol_id": symbol_id.astype(np.int32),
        "symbols": symbols,
        "event_ns": np.concatenate([p.event_ns() for p in parts]),
        "outcome_ns": np.concatenate([p.outcome_ns() for p in parts]),
        "bar_size_s": np.concatenate([np.full(len(p), p.bar_size_s, np.int32) for p in parts]),
        "forward_return_bps": np.concatenate(
            [np.expm1(p.forward.astype(np.float64)) * 1e4 for p in parts]
        ).astype(np.float32),
    }
    path = layout.index_dir / "states.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, allow_pickle=False, **arrays)
    if path.stat().st_size > MAX_BYTES:
        raise ArtifactError(f"{path}: {path.stat().st_size} bytes, more than {MAX_BYTES}; index fewer states")
    metrics = measure_neighbors(series, graph, arrays)
    similar, chance = metrics["return_ic"], metrics["return_ic_random_neighbors"]
    card = cards.IndexCard(
        name=INDEX_NAME,
        version=INDEX_VERSION,
        dimension=EMBEDDING_DIMENSION,
        horizon_bars=HORIZON_BARS,
        embedding_model={
            "name": INDEX_MODEL,
            "version": MODELS[INDEX_MODEL].version,
            "artifact_sha256": model_card.artifact_sha256,
        },
        artifact_sha256=cards.sha256_of(path),
        export_commit=cards.export_commit(layout.root),
        as_of_ns=int(arrays["event_ns"].max()),
        state_count=len(embedding),
        data=cards.describe_data(series),
        metrics=metrics,
        statement=_statement(similar, chance),
    )
    cards.write_card(layout.index_dir / "card.json", card)
    return card


def _statement(similar: dict[str, Any], chance: dict[str, Any]) -> str:
    low, high = similar["ci95"]
    figures = (
        f"correlation of their mean return with what came: {similar['value']:.3f} [{low:.3f}, {high:.3f}]; "
        f"random neighbours: {chance['value']:.3f} [{chance['ci95'][0]:.3f}, {chance['ci95'][1]:.3f}]"
    )
    if low > 0 and low > chance["ci95"][1]:
        return f"Similar charts had slightly more similar outcomes than random ones ({figures}); costs are not in it."
    return (
        f"{cards.NO_SKILL}: similar charts did not have more similar outcomes than random ones ({figures})."
    )


def _states(series: list[Series], bar_size_s: int) -> Samples:
    """Return evenly spaced samples over all open dates of a bar size; one series never crowds in."""
    splits = [build_samples(series, bar_size_s, s) for s in (Split.TRAIN, Split.VALIDATION, Split.TEST)]
    shares = np.asarray([len(s) for s in splits], np.float64)
    counts = np.floor(shares / shares.sum() * STATES_PER_BAR_SIZE).astype(int)
    counts[0] += STATES_PER_BAR_SIZE - counts.sum()
    return join([thin(s, int(c)) for s, c in zip(splits, counts, strict=True)])


def measure_neighbors(series: list[Series], graph: Graph, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Ask for test windows what their neighbours' outcomes say, as the strategy will.

    Only neighbours of the query's bar size whose outcome was known before the query count. The
    figure is the rank correlation of the neighbours' mean return with the query's own, within each
    bar size, averaged; 95% intervals by bootstrap over blocks of days.
    """
    rng = np.random.default_rng(7)
    table = arrays["embedding"].astype(np.float32)
    similar_all, chance_all, weights = [], [], []
    for bar_size_s in BAR_SIZES_S:
        queries = thin(build_samples(series, bar_size_s, Split.TEST), _QUERIES)
        vectors = graph(queries.windows())["embedding"]
        here = np.flatnonzero(arrays["bar_size_s"] == bar_size_s)
        known = arrays["outcome_ns"][here][None, :] < queries.event_ns()[:, None]
        ready = known.sum(1) >= _NEIGHBORS
        returns = arrays["forward_return_bps"][here].astype(np.float64)
        scores = {
            "similar": np.where(known, vectors @ table[here].T, -np.inf)[ready],
            "chance": np.where(known, rng.random(known.shape), -np.inf)[ready],
        }
        means = {
            k: returns[np.argpartition(-v, _NEIGHBORS, axis=1)[:, :_NEIGHBORS]].mean(1)
            for k, v in scores.items()
        }
        own = queries.forward.astype(np.float64)[ready]
        blocks = block_ids(queries.day[ready], _BLOCK_DAYS if bar_size_s >= 3600 else 1)
        draws = block_weights(blocks, 200).astype(np.int64)
        members = [np.flatnonzero(blocks == b) for b in range(draws.shape[1])]
        rows = [np.arange(len(own))]
        rows += [
            np.concatenate([np.tile(m, int(c)) for m, c in zip(members, d, strict=True) if c]) for d in draws
        ]
        similar_all.append([rank_correlation(means["similar"][r], own[r]) for r in rows])
        chance_all.append([rank_correlation(means["chance"][r], own[r]) for r in rows])
        weights.append(len(own))
    return {
        "neighbors": _NEIGHBORS,
        "queries": int(np.sum(weights)),
        "return_ic": _summary(np.mean(similar_all, axis=0)),
        "return_ic_random_neighbors": _summary(np.mean(chance_all, axis=0)),
        "return_ic_by_bar_size_s": {
            str(b): _summary(np.asarray(v)) for b, v in zip(BAR_SIZES_S, similar_all, strict=True)
        },
    }


def _summary(values: NDArray[np.float64]) -> dict[str, Any]:
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return {"value": round(float(values[0]), 4), "ci95": [round(float(low), 4), round(float(high), 4)]}
