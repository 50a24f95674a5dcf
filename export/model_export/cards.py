"""Model cards: what a model is, what it was made from, and what it can not do.

A card is written by the exporter and checked by `check`, by the tests and by the strategy's screen.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model_export import triton_config
from model_export.contract import BAR_SIZES_S, HORIZON_BARS, ModelContract, Tensor
from model_export.data import SOURCES, Series
from model_export.errors import REMAKE, ArtifactError
from model_export.metrics import BLOCK_DAYS, Metrics
from model_export.windows import PURGE_BARS, SPLITS

NO_SKILL = "Nothing here has demonstrated skill"
POOLED = "pooled"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The card of one model; the fields are the JSON's keys."""

    name: str
    version: int
    task: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    bar_sizes_s: list[int]
    horizon_bars: int
    data: list[dict[str, Any]]
    split: dict[str, Any]
    training: dict[str, Any]
    export_commit: str
    artifact_sha256: str
    parity: dict[str, Any]
    metrics: dict[str, Any]
    demonstrated_skill: bool
    statement: str

    def parameters(self) -> dict[str, str]:
        """Return the parameters of its Triton configs."""
        about = {
            "bar_sizes_s": ",".join(str(b) for b in self.bar_sizes_s),
            "horizon_bars": str(self.horizon_bars),
        }
        return triton_config.parameters(
            self.artifact_sha256, self.export_commit, self.demonstrated_skill, self.statement, about
        )


@dataclass(frozen=True, slots=True)
class IndexCard:
    """The card of the index of past market states; the fields are the JSON's keys."""

    name: str
    version: int
    dimension: int
    horizon_bars: int
    embedding_model: dict[str, Any]
    artifact_sha256: str
    export_commit: str
    as_of_ns: int
    state_count: int
    data: list[dict[str, Any]]
    metrics: dict[str, Any]
    statement: str


def read_card(path: Path, kind: type[Any]) -> Any:
    """Read and validate a card.

    Args:
        path: A card.json.
        kind: ModelCard, IndexCard or DetectorCard.

    Raises:
        ArtifactError: The file is missing, no JSON, or a field is missing, unknown or of a wrong type.
    """
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise ArtifactError(f"{path}: no readable card ({e}); {REMAKE}") from e
    if not isinstance(raw, dict):
        raise ArtifactError(f"{path}: a card is a JSON object")
    expected = {f.name: str(f.type) for f in fields(kind)}
    if wrong := set(expected) ^ set(raw):
        raise ArtifactError(f"{path}: fields missing or unknown: {', '.join(sorted(wrong))}")
    types = {"str": str, "int": int, "bool": bool, "list": list, "dict": dict}
    for name, annotation in expected.items():
        wanted = types[annotation.split("[")[0]]
        value = raw[name]
        if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            raise ArtifactError(f"{path}: {name} must be {annotation}, not {value!r}")
    card = kind(**raw)
    if not getattr(card, "demonstrated_skill", True) and NO_SKILL not in card.statement:
        raise ArtifactError(f"{path}: without demonstrated skill the statement must say {NO_SKILL!r}")
    return card


def write_card(path: Path, card: Any) -> None:
    """Write a card, a dataclass, as JSON, keys in the order of the fields."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {f.name: getattr(card, f.name) for f in fields(card)}
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def has_skill(metrics: Mapping[str, Metrics]) -> bool:
    """Return whether a model has shown skill: pooled, and at every bar size it is offered for."""
    return bool(metrics) and all(m.demonstrated_skill for m in metrics.values())


def statement_of(metrics: Mapping[str, Metrics], placeholder: bool) -> str:
    """Return one honest sentence for screens and configs, at most 200 characters."""
    pooled = metrics[POOLED]
    auc = f"{pooled.auc.value:.3f} [{pooled.auc.low:.3f}, {pooled.auc.high:.3f}]"
    if placeholder:
        return f"Placeholder training. {NO_SKILL}: it only proves that the path runs. Up-vs-down AUC {auc}."
    if has_skill(metrics):
        return f"Up-vs-down AUC {auc} out of sample, also one bar later; costs are not in it."
    better = [k for k, m in metrics.items() if k != POOLED and m.log_loss_gain.low > 0]
    if better:
        known = (
            f"it tells large moves from small ones a little (bars of {', '.join(better)} s), not up from down"
        )
    else:
        known = "no better than class shares"
    return f"{NO_SKILL} in direction: out-of-sample up-vs-down AUC {auc}; {known}."


def describe_tensor(tensor: Tensor) -> dict[str, Any]:
    """Return a tensor as a card shows it."""
    return {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": [-1, *tensor.dims],
        "description": tensor.description,
    }


def describe_data(series: Sequence[Series]) -> list[dict[str, Any]]:
    """Return what was read, by source and bar size."""
    rows = []
    for source in SOURCES:
        for bar_size_s in BAR_SIZES_S:
            mine = [s for s in series if s.source is source and s.bar_size_s == bar_size_s]
            if mine:
                rows.append(
                    {
                        "name": source.folder,
                        "licence": source.licence,
                        "origin": source.origin,
                        "bar_size_s": bar_size_s,
                        "symbols": len({s.symbol for s in mine}),
                        "bars": sum(len(s) for s in mine),
                        "from": _day(min(int(s.start_ns[0]) for s in mine)),
                        "to": _day(max(int(s.end_ns[-1]) for s in mine)),
                    }
                )
    return rows


def describe_split() -> dict[str, Any]:
    """Return the split in time, by bar size."""
    dates = {
        str(b): {"train_to": d.train_to, "validation_to": d.validation_to, "test_to": d.test_to}
        for b, d in SPLITS.items()
    }
    return {
        "last_day_by_bar_size_s": dates,
        "purge_bars": PURGE_BARS,
        "embargo": "no bar, of a window or of an outcome, is in two splits",
        "nights": "windows and horizons count traded bars and may span nights; serving does the same",
        "bootstrap_block_days": {str(b): d for b, d in BLOCK_DAYS.items()},
    }


def describe_contract(contract: ModelContract) -> dict[str, Any]:
    """Return the fields of a card that follow from the contract alone."""
    return {
        "name": contract.name,
        "version": contract.version,
        "task": contract.task,
        "inputs": [describe_tensor(contract.input)],
        "outputs": [describe_tensor(t) for t in contract.outputs],
    }


def describe_forecaster(contract: ModelContract) -> dict[str, Any]:
    """Return the fields of a forecaster's card that follow from its contract alone."""
    return {
        **describe_contract(contract),
        "bar_sizes_s": list(BAR_SIZES_S),
        "horizon_bars": HORIZON_BARS,
    }


def sha256_of(path: Path) -> str:
    """Return the hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def export_commit(root: Path) -> str:
    """Return the commit whose sources made the artifacts.

    "-dirty" is added when a source that shapes them differs from it, "unknown" stands for a tree
    without git.
    """

    def git(*args: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *args],  # noqa: S607 (git comes from the developer's PATH)
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "HEAD")
    if not head:
        return "unknown"
    return f"{head}-dirty" if git("status", "--porcelain", "--", "export", "clients/market") else head


def _day(event_ns: int) -> str:
    return datetime.fromtimestamp(event_ns / 1e9, tz=UTC).date().isoformat()
