"""Training: fresh charts at every step, a learning rate that stays until it falls, weights averaged over steps.

The learning rate does not depend on how long the course is before it falls, so that a longer or shorter course goes on
from the state of another.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model_export.detector.batches import make_batch
from model_export.detector.losses import detection_loss
from model_export.detector.network import PatternNet
from model_export.detector.scenes import Scene
from model_export.vlm.optimise import Optimiser

_WARM_UP_STEPS = 200
_LOG_EVERY, _SAVE_EVERY = 100, 200


@dataclass(frozen=True, slots=True)
class Recipe:
    """How much of everything.

    Attributes:
        steps: Batches.
        batch: Charts in each.
        falling: Of the steps, the last ones, in which the learning rate falls to 0.
        rate: Highest learning rate.
        decay: Of the average over weights, per step; the first steps count less.
    """

    steps: int = 3400
    falling: int = 1400
    batch: int = 16
    rate: float = 1.5e-3
    decay: float = 0.998


def train(seed: int, recipe: Recipe, screenshots: tuple[Scene, ...], save: Path) -> PatternNet:
    """Train on one thread, or go on where `save` left off; the same arguments give the same weights on one machine.

    Args:
        seed: Of weights and charts.
        recipe: How long.
        screenshots: To learn gaps from, besides generated charts.
        save: Where the state is kept.

    Returns:
        The network with averaged weights, ready to be asked.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    net = PatternNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean = PatternNet()
    mean.load_state_dict(net.state_dict())
    optimiser = Optimiser(net.named_parameters(), recipe.rate)
    plan = _plan(seed, recipe, len(screenshots))
    done = _restore(save, plan, recipe, net, mean, optimiser)
    for step in _logged(range(done, recipe.steps)):
        loss, parts = _loss(net, seed, step, recipe, screenshots)
        optimiser.step(loss, share_of(step, recipe))
        _follow(mean, net, min(recipe.decay, (step + 1) / (step + 10)))
        if (step + 1) % _SAVE_EVERY == 0 or step + 1 == recipe.steps:
            _save(save, plan, step + 1, recipe, net, mean, optimiser)
        if (step + 1) % _LOG_EVERY == 0:
            print("  loss " + " ".join(f"{part:.3f}" for part in parts), flush=True)
    return mean.eval()


def share_of(step: int, recipe: Recipe) -> float:
    """Return the learning rate of a step as a share of the highest: a short rise, a plain, a line down to 0."""
    rise = (step + 1) / _WARM_UP_STEPS
    fall = (recipe.steps - step) / max(recipe.falling, 1)
    return min(rise, 1.0, fall)


def _plan(seed: int, recipe: Recipe, screenshots: int) -> dict[str, Any]:
    """Return what a state has to have in common with a course that goes on from it."""
    return {
        "seed": seed,
        "screenshots": screenshots,
        "batch": recipe.batch,
        "rate": recipe.rate,
        "decay": recipe.decay,
    }


def _loss(
    net: PatternNet, seed: int, step: int, recipe: Recipe, screenshots: tuple[Scene, ...]
) -> tuple[torch.Tensor, list[float]]:
    # Empty pictures are learnt at the end: at first they would only teach that there is nothing to see anywhere.
    empty = step >= recipe.steps - recipe.falling
    batch = make_batch(seed, step, recipe.batch, screenshots, empty=empty)
    net.train()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = net(batch.pixels.float().contiguous(memory_format=torch.channels_last))
    return detection_loss(outputs, batch.targets)


@torch.no_grad()
def _follow(mean: PatternNet, net: PatternNet, decay: float) -> None:
    for kept, new in zip(mean.state_dict().values(), net.state_dict().values(), strict=True):
        if kept.dtype.is_floating_point:
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def _save(
    path: Path,
    plan: dict[str, Any],
    step: int,
    recipe: Recipe,
    net: PatternNet,
    mean: PatternNet,
    optimiser: Optimiser,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "plan": plan,
        "length": (recipe.steps, recipe.falling),
        "step": step,
        "net": net.state_dict(),
        "mean": mean.state_dict(),
        "optimiser": optimiser.state(),
    }
    unfinished = path.with_suffix(".part")
    torch.save(state, unfinished)
    unfinished.replace(path)


def _restore(
    path: Path,
    plan: dict[str, Any],
    recipe: Recipe,
    net: PatternNet,
    mean: PatternNet,
    optimiser: Optimiser,
) -> int:
    """Take up a state that a course with this plan and length comes through; return how many steps it had done."""
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    steps, falling = state["length"]
    step = int(state["step"])
    before_falls = step <= min(steps - falling, recipe.steps - recipe.falling)
    if state["plan"] != plan or not (before_falls or (steps, falling) == (recipe.steps, recipe.falling)):
        return 0
    net.load_state_dict(state["net"])
    mean.load_state_dict(state["mean"])
    optimiser.restore(state["optimiser"])
    print(f"  goes on after step {step}", flush=True)
    return step


def _logged(steps: range) -> Iterator[int]:
    began, cpu_began = time.monotonic(), time.process_time()
    for step in steps:
        yield step
        if (step + 1) % _LOG_EVERY == 0:
            wall, cpu = time.monotonic() - began, time.process_time() - cpu_began
            print(f"  step {step + 1} of {steps.stop}: {wall:.0f} s, {cpu:.0f} s of CPU", flush=True)
