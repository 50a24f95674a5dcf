"""What the three lessons have in common: steps, a learning rate that falls, and a state to go on from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from model_export.vlm.examples import Shard
from model_export.vlm.optimise import Optimiser

Figures = Mapping[str, float]
REPORT_EVERY = 100
"""Steps of a lesson with pictures between its lines."""
WATCHED = 280
"""Charts that such a line tells of."""
_WARM_UP_STEPS = 50
_FALLING_SHARE = 0.6
_AGAIN = 0.6
_SMOOTH = 0.96
_SAVE_EVERY = 100


def share_of_rate(step: int, steps: int, again: int = 0) -> float:
    """Return the share of the highest learning rate at a step: a short rise, a plain, a straight fall.

    Args:
        step: From 0 on.
        steps: Of the lesson.
        again: Steps of a second, fainter round after them.
    """
    if step >= steps:
        return _AGAIN * share_of_rate(step - steps, again)
    return min((step + 1) / _WARM_UP_STEPS, 1.0, (steps - step) / (_FALLING_SHARE * steps))


def pick(rng: np.random.Generator, shards: Sequence[Shard], count: int) -> list[tuple[int, int]]:
    """Return places (shard, example) of a batch, any example equally likely."""
    ends = np.cumsum([len(shard) for shard in shards])
    drawn = rng.integers(0, ends[-1], count)
    which = np.searchsorted(ends, drawn, side="right")
    return [(int(w), int(d - (ends[w - 1] if w else 0))) for w, d in zip(which, drawn, strict=True)]


def run_lesson(
    name: str,
    modules: Mapping[str, nn.Module],
    optimiser: Optimiser,
    rng: np.random.Generator,
    steps: int,
    one: Callable[[int], tuple[Tensor, Figures]],
    *,
    report_every: int,
    again: int = 0,
    report: Callable[[], object] | None = None,
    save: Path | None = None,
) -> None:
    """Take all steps of a lesson.

    Args:
        name: For the lines that are printed.
        modules: What is trained, by name.
        optimiser: Of their parameters.
        rng: Source of batches and noise.
        steps: To take, with those that `save` already knows of.
        one: Computes the loss of a step and figures to print.
        report_every: Steps between lines.
        again: Steps of a second, fainter round after them.
        report: Further figures for a line.
        save: Where the state goes now and then; a run that finds it goes on from there.
    """
    begin, began, smooth = 0, time.monotonic(), dict[str, float]()
    if save is not None and save.is_file():
        state = torch.load(save, weights_only=False)
        for key, module in modules.items():
            module.load_state_dict(state[key])
        optimiser.restore(state["optimiser"])
        begin, rng.bit_generator.state = state["step"], state["rng"]
    last = steps + again
    for step in range(begin, last):
        loss, figures = one(step)
        optimiser.step(loss, share_of_rate(step, steps, again))
        for key, value in figures.items():
            smooth[key] = _SMOOTH * smooth.get(key, value) + (1 - _SMOOTH) * value
        done = step + 1
        if done % report_every == 0 or done == last:
            texts = " ".join(f"{key} {value:.4f}" for key, value in smooth.items())
            more = "" if report is None else report()
            print(f"{name} {done}/{last} {time.monotonic() - began:.0f} s {texts} {more}", flush=True)
        if save is not None and (done % _SAVE_EVERY == 0 or done == last):
            state = {key: module.state_dict() for key, module in modules.items()}
            state |= {"optimiser": optimiser.state(), "step": done, "rng": rng.bit_generator.state}
            part = save.with_suffix(".part")
            torch.save(state, part)
            part.rename(save)


def rounded(figures: Figures) -> dict[str, float]:
    """Return figures for a line."""
    return {key: round(value, 3) for key, value in figures.items()}
