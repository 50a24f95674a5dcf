"""Exercises in citing the price scale, for the language model alone.

To copy a price it must find the same share on the scale above and say what stands behind it. That comes within a few
hundred steps from scales of two to four prices, and not at all within many more from whole ones.
"""

from __future__ import annotations

import math

import numpy as np

from model_export.vlm.dialogue import Batch, Dialogue, padded

_BEFORE = '{"reasoning": "none'
_ASKED = 12
_PARTS = 20
_STAGES = ((0.4, 4), (0.6, 8), (1.0, _PARTS + 1))
"""Up to which part of the exercises a scale has at most how many prices."""


def longest_scale(progress: float) -> int:
    """Return the most prices of a scale at a part of the exercises, 0 to 1."""
    return next(most for until, most in _STAGES if progress <= until)


def drill(dialogue: Dialogue, rng: np.random.Generator, count: int, most: int) -> Batch:
    """Return exercises: which shares are asked is random, the prices that belong to them are wanted.

    Args:
        dialogue: The layout.
        rng: Source of all that varies.
        count: Exercises.
        most: Prices on a scale, at least 2.
    """
    return padded([_exercise(dialogue, rng, int(rng.integers(2, most + 1))) for _ in range(count)])


def _exercise(
    dialogue: Dialogue, rng: np.random.Generator, prices: int
) -> tuple[list[int], list[int], list[float]]:
    low = math.exp(rng.uniform(math.log(4.0), math.log(3000.0)))
    step = low * rng.uniform(0.02, 0.3) / _PARTS
    decimals = max(0, math.ceil(-math.log10(step)) + 1)
    parts = np.sort(rng.choice(_PARTS + 1, prices, replace=False))
    shares = [f"{part * 100 // _PARTS}%=" for part in parts]
    told = [f"{low + step * part:.{decimals}f}" for part in parts]
    scale = " ".join(share + price for share, price in zip(shares, told, strict=True))
    encode = dialogue.vocabulary.encode
    said = encode(_BEFORE)
    weights = [0.0] * len(said)
    for at in rng.integers(0, prices, _ASKED):
        word = "upper" if rng.random() < 0.5 else "lower"
        asked, price = encode(f", {word} {shares[at]}"), encode(told[at])
        said += asked + price
        weights += [0.0] * len(asked) + [1.0] * len(price)
    return dialogue.question(f"\nsymbol A\nprice scale {scale}"), said, weights
