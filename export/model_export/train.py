"""Trains one network on all bar sizes at once. Needs torch (the `export` extra).

One seed, one thread, a fixed number of steps: on one machine the same data give the same weights;
across machines and torch versions the last digits, and so the early stop, may differ.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_export.architectures import Calibration, GafResNet, LstmCnn, build, shape_target
from model_export.contract import BAR_SIZES_S
from model_export.data import Series
from model_export.windows import Split, build_samples, thin

SEED = 20240701
TRAIN_SAMPLES = 80_000
VALIDATION_SAMPLES = 6_000
_SHAPE_WEIGHT = 0.5
_EVALUATION_BATCH = 512


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how fast to train.

    Attributes:
        steps: Most optimiser steps.
        batch_size: Windows per step, the same number from each bar size.
        learning_rate: Highest, after the warm-up; falls along a cosine.
        evaluate_every: Steps between looks at the validation split.
        patience: Looks without a better loss on the validation split before stopping.
    """

    steps: int
    batch_size: int
    learning_rate: float
    evaluate_every: int
    patience: int


RECIPES: dict[str, Recipe] = {
    "lstm_cnn": Recipe(steps=4000, batch_size=192, learning_rate=1e-3, evaluate_every=250, patience=6),
    "gaf_resnet": Recipe(steps=2000, batch_size=96, learning_rate=1e-3, evaluate_every=250, patience=6),
}


@dataclass(frozen=True, slots=True)
class Batchable:
    """Windows of one bar size in memory.

    Attributes:
        windows: (n, 60, 5) float32.
        label: (n,) int64.
    """

    windows: Tensor
    label: Tensor


@dataclass(frozen=True, slots=True)
class Training:
    """What came out.

    Attributes:
        model: The network with its best weights, calibrated, in evaluation mode.
        facts: What the card says about the training.
        prior: Bar size -> class shares of the training split, the naive forecast.
    """

    model: nn.Module
    facts: dict[str, Any]
    prior: dict[int, list[float]]


def train(name: str, series: list[Series], *, steps: int | None = None) -> Training:
    """Train one network.

    Args:
        name: "lstm_cnn" or "gaf_resnet".
        series: Everything licensed, all bar sizes.
        steps: Fewer steps than the recipe's: a placeholder, and the card says so.
    """
    recipe = RECIPES[name]
    placeholder = steps is not None and steps < recipe.steps
    most_steps = min(steps or recipe.steps, recipe.steps)
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    rng = np.random.default_rng(SEED)
    fit = {b: _batchable(series, b, Split.TRAIN, TRAIN_SAMPLES) for b in BAR_SIZES_S}
    check = {b: _batchable(series, b, Split.VALIDATION, VALIDATION_SAMPLES) for b in BAR_SIZES_S}
    model = build(name)
    began = time.monotonic()
    history = _optimise(model, recipe, most_steps, fit, check, rng)
    _calibrate(model, check)
    best = min(history, key=lambda row: row["loss"])
    facts = {
        "seed": SEED,
        "threads": 1,
        "parameters": sum(p.numel() for p in model.parameters()),
        "recipe": asdict(recipe),
        "steps": history[-1]["step"],
        "best_step": best["step"],
        "validation_log_loss": best["validation_log_loss"],
        "seconds": round(time.monotonic() - began),
        "torch": str(torch.__version__),
        "train_windows": {str(b): len(f.label) for b, f in fit.items()},
        "calibration_scale": round(float(_calibration(model).scale), 4),
        "placeholder": placeholder,
        "reproducible": "same machine and torch: same weights; elsewhere the last digits may differ",
    }
    prior = {b: _shares(series, b) for b in BAR_SIZES_S}
    return Training(model, facts, prior)


def save(training: Training, name: str, path: Path) -> None:
    """Write weights and facts for `export`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {
            "name": name,
            "state": training.model.state_dict(),
            "facts": training.facts,
            "prior": training.prior,
        },
        path,
    )


def load(path: Path) -> Training:
    """Read what `save` wrote.

    Raises:
        FileNotFoundError: The model was not trained yet.
    """
    stored = torch.load(path, weights_only=True)
    model = build(stored["name"])
    model.load_state_dict(stored["state"])
    return Training(model.eval(), stored["facts"], stored["prior"])


def _batchable(series: list[Series], bar_size_s: int, split: Split, most: int) -> Batchable:
    samples = thin(build_samples(series, bar_size_s, split), most)
    return Batchable(torch.from_numpy(samples.windows()), torch.from_numpy(samples.label.astype(np.int64)))


def _shares(series: list[Series], bar_size_s: int) -> list[float]:
    label = build_samples(series, bar_size_s, Split.TRAIN).label
    return [float(v) for v in np.bincount(label, minlength=3) / len(label)]


def _optimise(
    model: nn.Module,
    recipe: Recipe,
    steps: int,
    fit: Mapping[int, Batchable],
    check: Mapping[int, Batchable],
    rng: np.random.Generator,
) -> list[dict[str, float]]:
    """Run the optimiser; leave the model with its best weights; return what the looks showed."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=steps + 1, pct_start=0.1
    )
    history: list[dict[str, float]] = []
    best_state, best_loss, since = model.state_dict(), float("inf"), 0
    per_size = recipe.batch_size // len(fit)
    for step in range(1, steps + 1):
        model.train()
        picks = {b: torch.from_numpy(rng.integers(0, len(f.label), per_size)) for b, f in fit.items()}
        windows = torch.cat([fit[b].windows[rows] for b, rows in picks.items()])
        label = torch.cat([fit[b].label[rows] for b, rows in picks.items()])
        optimiser.zero_grad()
        _, loss = _losses(model, windows, label)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % recipe.evaluate_every == 0 or step == steps:
            log_loss, value = _validation_losses(model, check)
            history.append({"step": step, "loss": value, "validation_log_loss": round(log_loss, 5)})
            print(f"  step {step}: validation log loss {log_loss:.5f}, loss {value:.5f}", flush=True)
            if value < best_loss:
                best_loss, since = value, 0
                best_state = {k: v.detach().clone() for k, v in model.state_dict().items()}
            else:
                since += 1
            if since >= recipe.patience:
                break
    model.load_state_dict(best_state)
    model.eval()
    return history


def _losses(model: nn.Module, windows: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log loss and the loss that is trained, which may ask for more than the class."""
    if isinstance(model, GafResNet):
        embedding = model.embed(windows)
        log_loss = nn.functional.cross_entropy(model.logits_of(embedding), label)
        shape = nn.functional.smooth_l1_loss(model.shape(embedding * 8.0), shape_target(windows))
        return log_loss, log_loss + _SHAPE_WEIGHT * shape
    log_loss = nn.functional.cross_entropy(_scores(model, windows), label)
    return log_loss, log_loss


def _logits(model: nn.Module, windows: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        parts = [
            _scores(model, windows[i : i + _EVALUATION_BATCH])
            for i in range(0, len(windows), _EVALUATION_BATCH)
        ]
    return torch.cat(parts)


def _scores(model: nn.Module, windows: Tensor) -> Tensor:
    if isinstance(model, GafResNet):
        return model.logits_of(model.embed(windows))
    assert isinstance(model, LstmCnn)
    return model.logits(windows)


def _validation_losses(model: nn.Module, check: Mapping[int, Batchable]) -> tuple[float, float]:
    """Return the mean over bar sizes of the log loss and of the loss that is trained."""
    model.eval()
    rows = []
    with torch.no_grad():
        for one in check.values():
            for i in range(0, len(one.label), _EVALUATION_BATCH):
                part = slice(i, i + _EVALUATION_BATCH)
                losses = torch.stack(_losses(model, one.windows[part], one.label[part]))
                rows.append(losses * (len(one.label[part]) / len(one.label) / len(check)))
    log_loss, loss = torch.stack(rows).sum(0).tolist()
    return log_loss, loss


def _calibration(model: nn.Module) -> Calibration:
    calibration = model.calibration
    assert isinstance(calibration, Calibration)
    return calibration


def _calibrate(model: nn.Module, check: Mapping[int, Batchable]) -> None:
    """Fit scale and bias of the calibration on the validation split, bar sizes weighted alike."""
    logits = {b: _logits(model, c.windows) for b, c in check.items()}
    scale, bias = torch.ones((), requires_grad=True), torch.zeros(3, requires_grad=True)
    optimiser = torch.optim.LBFGS([scale, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        losses = [
            nn.functional.cross_entropy(scale.abs() * logits[b] + bias, c.label) for b, c in check.items()
        ]
        total = torch.stack(losses).mean() + 1e-4 * (bias * bias).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    calibration = _calibration(model)
    with torch.no_grad():
        calibration.scale.copy_(scale.abs())
        calibration.bias.copy_(bias - bias.mean())


def torch_outputs(model: nn.Module, windows: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return a model's outputs as arrays, in the order of its contract."""
    model.eval()
    with torch.no_grad():
        out = model(torch.from_numpy(windows))
    return [o.numpy() for o in (out if isinstance(out, tuple) else (out,))]
