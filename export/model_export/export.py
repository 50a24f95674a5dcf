"""Turns a trained network into what Triton serves: graph, configs, card. Needs torch and onnx."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from model_export import cards, onnx_graph, repository
from model_export.architectures import CLOSE_FLOOR, gramian_fields
from model_export.contract import BAR_SIZES_S, MODELS, WINDOW, Layout
from model_export.data import Series
from model_export.errors import ParityError
from model_export.metrics import BLOCK_DAYS, SUSPICIOUS_AUC, Metrics, block_ids, evaluate, spread_percentiles
from model_export.runtime import Graph
from model_export.train import Training, torch_outputs
from model_export.windows import Samples, Split, build_samples, nasty_windows, thin

TEST_SAMPLES = 20_000
PARITY_LIMIT = 1e-4
GAF_LIMIT = 1e-5
DAILY_S = 86400
_PARITY_WINDOWS = 256
_METRICS_NOTE = (
    "test split; intervals: 95%, block bootstrap over days; AUC: up against down, flat left out; "
    "baseline: class shares of the training split at the bar size; pooled: all bar sizes together; "
    "an AUC that is gone one bar later is prices bouncing between bid and ask"
)


def export(name: str, training: Training, series: list[Series], layout: Layout) -> cards.ModelCard:
    """Write graph, configs and card of one model into the model repository.

    Raises:
        ParityError: The graph does not compute what the network computes.
    """
    test = {b: thin(build_samples(series, b, Split.TEST), TEST_SAMPLES) for b in BAR_SIZES_S}
    with tempfile.TemporaryDirectory() as folder:
        # Nothing in the model repository changes before the graph is proven and measured.
        path = Path(folder) / "model.onnx"
        write_onnx(training.model, name, path)
        graph = Graph(path)
        parity = measure_parity(training.model, graph, test)
        metrics, spreads = measure(graph, test, training.prior)
        placeholder = bool(training.facts["placeholder"])
        card = cards.ModelCard(
            **cards.describe_forecaster(MODELS[name]),
            data=cards.describe_data(series),
            split=cards.describe_split(),
            training={**training.facts, "exporter": onnx_graph.EXPORTER},
            export_commit=cards.export_commit(layout.root),
            artifact_sha256=cards.sha256_of(path),
            parity=parity,
            metrics={
                "note": _METRICS_NOTE,
                **{k: {**m.as_dict(), "p_up_minus_p_down": spreads[k]} for k, m in metrics.items()},
                "milliseconds_per_call": round(graph.milliseconds(nasty_windows()), 3),
            },
            demonstrated_skill=cards.has_skill(metrics) and not placeholder,
            statement=cards.statement_of(metrics, placeholder),
        )
        repository.publish(path.read_bytes(), card, layout)
    return card


def write_onnx(model: nn.Module, name: str, path: Path) -> None:
    """Write the graph with a free batch dimension and nothing of this machine in it."""
    outputs = [t.name for t in MODELS[name].outputs]
    graph = onnx_graph.traced(model, torch.from_numpy(nasty_windows()[:3]), WINDOW.name, outputs)
    onnx_graph.write(graph, name, path)


def measure_parity(model: nn.Module, graph: Graph, test: dict[int, Samples]) -> dict[str, Any]:
    """Compare network and graph on real and on nasty windows, one by one and in batches.

    Raises:
        ParityError: They differ by more than 1e-4, or the Gramian fields by more than 1e-5 from pyts.
    """
    real = [s.windows(np.linspace(0, len(s) - 1, _PARITY_WINDOWS).astype(np.int64)) for s in test.values()]
    windows = np.concatenate([nasty_windows(), *real])
    expected = torch_outputs(model, windows)
    batch = list(graph(windows).values())
    single = [np.concatenate(o) for o in zip(*(graph(w[None]).values() for w in windows[:64]), strict=True)]
    worst = max(
        max(float(np.abs(e - b).max()) for e, b in zip(expected, batch, strict=True)),
        max(float(np.abs(e[:64] - s).max()) for e, s in zip(expected, single, strict=True)),
    )
    if not worst <= PARITY_LIMIT:
        raise ParityError(f"torch and onnxruntime differ by {worst:.2e}, more than {PARITY_LIMIT:.0e}")
    gaf = gaf_difference(np.concatenate(real)[:, :, 3])
    if not gaf <= GAF_LIMIT:
        raise ParityError(f"Gramian fields differ from pyts by {gaf:.2e}, more than {GAF_LIMIT:.0e}")
    probes = [[round(float(v), 6) for v in row] for row in expected[0][: len(nasty_windows())]]
    return {
        "torch_vs_onnxruntime_max_abs": float(f"{worst:.3g}"),
        "gaf_vs_pyts_max_abs": float(f"{gaf:.3g}"),
        "windows": len(windows),
        "torch_probabilities_of_nasty_windows": probes,
    }


def gaf_difference(series: NDArray[np.float32]) -> float:
    """Return the largest difference between our Gramian fields and those of pyts.

    Args:
        series: (n, 60) values; constant series are left out, because pyts divides by zero there.
    """
    # Compiling what pyts imports takes a minute; interpreting it takes seconds.
    os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
    from pyts.image import GramianAngularField

    values = np.log(series.astype(np.float64))
    values = values - values[:, -1:]
    values = values[np.ptp(values, axis=1) > CLOSE_FLOOR]
    ours = gramian_fields(torch.from_numpy(values.astype(np.float32)).unsqueeze(1)).numpy()
    worst = 0.0
    for channel, method in enumerate(("summation", "difference")):
        reference = GramianAngularField(sample_range=(0, 1), method=method).fit_transform(
            values.astype(np.float32).astype(np.float64)
        )
        worst = max(worst, float(np.abs(ours[:, channel] - reference).max()))
    return worst


def measure(
    graph: Graph, test: dict[int, Samples], prior: dict[int, list[float]]
) -> tuple[dict[str, Metrics], dict[str, dict[str, float]]]:
    """Measure the exported graph on the test split, by bar size and pooled.

    Returns:
        Metrics, and percentiles of P(up) - P(down), by bar size in seconds and "pooled".
    """
    metrics: dict[str, Metrics] = {}
    spreads: dict[str, dict[str, float]] = {}
    parts: list[tuple[Any, ...]] = []
    first_block = 0
    for bar_size_s, samples in test.items():
        p = graph(samples.windows())["probabilities"].astype(np.float64)
        blocks = block_ids(samples.day, BLOCK_DAYS[bar_size_s])
        baseline = np.tile(prior[bar_size_s], (len(samples), 1))
        days = len(np.unique(samples.day))
        crowd = (samples.day, samples.forward.astype(np.float64)) if bar_size_s == DAILY_S else None
        result = evaluate(p, samples.label, samples.later_label, blocks, days, baseline, crowd)
        if result.auc.value > SUSPICIOUS_AUC[bar_size_s]:
            print(f"  warning: AUC {result.auc.value:.4f} at {bar_size_s} s: look for a leak", flush=True)
        metrics[str(bar_size_s)], spreads[str(bar_size_s)] = result, spread_percentiles(p)
        parts.append((p, samples.label, samples.later_label, blocks + first_block, baseline, days))
        first_block += int(blocks.max()) + 1
    p, label, later, blocks, baseline = (np.concatenate(c) for c in list(zip(*parts, strict=True))[:5])
    metrics[cards.POOLED] = evaluate(p, label, later, blocks, sum(part[5] for part in parts), baseline)
    spreads[cards.POOLED] = spread_percentiles(p)
    return metrics, spreads
