"""The whole course, from a seed to a checkpoint: examples, three lessons, an examination, a card."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from model_export.chart_patterns import HELD_OUT, REAL, TRAINING, Family
from model_export.pattern_shapes import GAPS, NONE, PATTERN_NAMES
from model_export.vlm.checkpoint import CARD, WEIGHTS, load_weights, write_checkpoint
from model_export.vlm.dialogue import Dialogue, make_dialogue
from model_export.vlm.evaluate import figures, read_all
from model_export.vlm.examples import Shard, read_shard, write_shard
from model_export.vlm.join import train_joined
from model_export.vlm.language_model import LanguageModel
from model_export.vlm.look import train_tower
from model_export.vlm.reader import Reader
from model_export.vlm.reader_card import card_of
from model_export.vlm.shape import TextShape, VisionShape
from model_export.vlm.speak import train_language, translated
from model_export.vlm.vision_tower import VisionTower

SEED = 1
_LATER, _HARD_SHARE = 1000, 0.4
_UNSEEN = 100
"""Apart from all other seeds: the charts of the examination, which no figure was watched on."""
_THREADS = 2
"""Of all lessons with pictures; another number gives other last digits."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How much of everything.

    Attributes:
        shards: Of training examples, for the first and second lesson.
        fresh_shards: Of further ones, for the third.
        shard_examples: Examples of each; a multiple of the number of patterns has them equally often.
        held_out_examples: From the held-out family, to be watched on, and as many others to be examined on.
        validation_examples: New ones from the training family, only to be examined on.
        real_examples: With real moves in their order, only to be examined on.
        tower_steps: Of the first lesson's first round.
        tower_again: Of its second, with more of the charts that are hardest to tell apart.
        drill_steps: Of the second lesson, in citing prices.
        language_steps: Of the second lesson, together.
        joined_steps: Of the third lesson.
        looked_again: Of the first again, on all training examples.
        spoken_again: Of the second again, without blanks in the answers.
        joined_again: Of the third again.
        hard_shards: Of further examples, only of what is hardest to tell apart: gaps, and charts without a pattern.
        looked_last: Of the first lesson once more, with these.
        joined_last: Of the third once more, with these.
    """

    shards: int = 14
    fresh_shards: int = 6
    shard_examples: int = 2002
    held_out_examples: int = 2016
    validation_examples: int = 1008
    real_examples: int = 1008
    tower_steps: int = 1400
    tower_again: int = 1200
    drill_steps: int = 800
    language_steps: int = 1500
    joined_steps: int = 1200
    looked_again: int = 450
    spoken_again: int = 250
    joined_again: int = 600
    hard_shards: int = 4
    looked_last: int = 500
    joined_last: int = 500


def make_reader(
    work: Path,
    out: Path,
    root: Path,
    *,
    seed: int = SEED,
    recipe: Recipe | None = None,
    processes: int = 1,
    device: str = "cpu",
) -> dict[str, Any]:
    """Make the reader's checkpoint; the same seed and recipe give the same weights on one machine.

    Every lesson saves its state in `work` now and then and goes on from there when it is run again.

    Args:
        work: For examples and weights on the way.
        out: Where the checkpoint goes.
        root: Of the repository, for the commit in the card.
        seed: Of everything that varies.
        recipe: None: the whole course.
        processes: That make examples; the examples do not depend on it.
        device: Where to compute; "cuda" is far faster, and gives other weights.

    Returns:
        The card.
    """
    recipe = recipe or Recipe()
    vision = VisionShape()
    shards, fresh, hard, examined = examples_of(work / f"examples-{seed}", seed, recipe, vision, processes)
    dialogue = make_dialogue(vision)
    torch.set_default_device(device)
    try:
        reader = teach(work, shards, fresh, examined["watched"], dialogue, vision, seed, recipe)
        reader = teach_last(
            work, reader, [*shards, *fresh, *hard], examined["watched"], dialogue, seed, recipe
        )
        training = {"seed": seed, "device": device, "recipe": asdict(recipe)}
        return finish(out, root, reader, dialogue, examined, training)
    finally:
        torch.set_default_device(None)


def teach(
    work: Path,
    shards: list[Shard],
    fresh: list[Shard],
    watched: Shard,
    dialogue: Dialogue,
    vision: VisionShape,
    seed: int,
    recipe: Recipe,
) -> Reader:
    """Give the lessons.

    The first time the language model learns to write answers as Python's json does. vLLM's grammar has them without
    blanks, so the second time it learns that.
    """
    blanks = make_dialogue(vision, is_compact=False)
    reader = teach_first(work, shards, fresh, watched, blanks, vision, seed, recipe)
    torch.manual_seed(seed + 2)
    tower = train_tower(
        reader.tower,
        [*shards, *fresh],
        watched,
        seed=seed + _LATER,
        steps=0,
        again=recipe.looked_again,
        gain=1.0,
        hard_share=_HARD_SHARE,
        save=work / f"tower-again-{seed}.pt",
    )
    torch.set_num_threads(1)
    language = train_language(
        translated(reader.language, blanks.vocabulary, dialogue.vocabulary),
        dialogue,
        fresh,
        seed=seed + _LATER,
        steps=0,
        again=recipe.spoken_again,
        save=work / f"language-again-{seed}.pt",
    )
    torch.set_num_threads(_THREADS)
    final = Reader(vision, language.shape)
    final.take(tower, language, is_joined=True)
    return train_joined(
        final,
        dialogue,
        fresh,
        watched,
        seed=seed + _LATER,
        steps=recipe.joined_again,
        save=work / f"reader-again-{seed}.pt",
    )


def teach_last(
    work: Path,
    reader: Reader,
    shards: list[Shard],
    watched: Shard,
    dialogue: Dialogue,
    seed: int,
    recipe: Recipe,
) -> Reader:
    """Give the first and the third lesson once more, with further gaps and charts without a pattern."""
    torch.manual_seed(seed + 3)
    train_tower(
        reader.tower,
        shards,
        watched,
        seed=seed + 2 * _LATER,
        steps=0,
        again=recipe.looked_last,
        gain=1.0,
        hard_share=_HARD_SHARE,
        save=work / f"tower-last-{seed}.pt",
    )
    return train_joined(
        reader,
        dialogue,
        shards,
        watched,
        seed=seed + 2 * _LATER,
        steps=recipe.joined_last,
        save=work / f"reader-last-{seed}.pt",
    )


def teach_first(
    work: Path,
    shards: list[Shard],
    fresh: list[Shard],
    watched: Shard,
    dialogue: Dialogue,
    vision: VisionShape,
    seed: int,
    recipe: Recipe,
) -> Reader:
    """Give the first three lessons."""
    text = TextShape(len(dialogue.vocabulary))
    torch.set_num_threads(_THREADS)
    torch.manual_seed(seed)
    tower = train_tower(
        VisionTower(vision, text.hidden_size),
        shards,
        watched,
        seed=seed,
        steps=recipe.tower_steps,
        again=recipe.tower_again,
        save=work / f"tower-{seed}.pt",
    )
    torch.set_num_threads(1)
    torch.manual_seed(seed + 1)
    language = train_language(
        LanguageModel(text),
        dialogue,
        shards,
        seed=seed,
        steps=recipe.language_steps,
        drill_steps=recipe.drill_steps,
        save=work / f"language-{seed}.pt",
    )
    torch.set_num_threads(_THREADS)
    reader = Reader(vision, text)
    reader.take(tower, language)
    return train_joined(
        reader,
        dialogue,
        fresh,
        watched,
        seed=seed,
        steps=recipe.joined_steps,
        save=work / f"reader-{seed}.pt",
    )


def finish(
    out: Path,
    root: Path,
    reader: Reader,
    dialogue: Dialogue,
    examined: dict[str, Shard],
    training: dict[str, Any],
) -> dict[str, Any]:
    """Write the checkpoint, examine what was written, and write the card."""
    manifest = write_checkpoint(out, reader, dialogue)
    served = load_weights(out, Reader(reader.tower.shape, reader.language.shape))
    metrics = {
        name: figures(read_all(served, dialogue, shard), shard.contexts) for name, shard in examined.items()
    }
    parameters = sum(parameter.numel() for parameter in served.parameters())
    card = card_of(
        root=root,
        manifest_sha256=manifest,
        parameters=parameters,
        weights_bytes=(out / WEIGHTS).stat().st_size,
        training=training,
        metrics=metrics,
    )
    (out / CARD).write_text(json.dumps(card, indent=2) + "\n")
    return card


def examples_of(
    folder: Path, seed: int, recipe: Recipe, vision: VisionShape, processes: int
) -> tuple[list[Shard], list[Shard], list[Shard], dict[str, Shard]]:
    """Return the training shards, the fresh, the hard, and those to be examined on, made unless they are there."""
    every = PATTERN_NAMES
    plans: list[tuple[Path, tuple[int, int], int, Family, int, Sequence[str]]] = [
        (folder / f"training-{i:02d}", (seed, i), recipe.shard_examples, TRAINING, vision.image_px, every)
        for i in range(recipe.shards)
    ]
    examined = (
        ("watched", recipe.held_out_examples, HELD_OUT),
        ("validation", recipe.validation_examples, TRAINING),
        ("real", recipe.real_examples, REAL),
    )
    for offset, (name, count, family) in enumerate(examined, 1):
        plans.append((folder / name, (seed + offset, 0), count, family, vision.image_px, every))
    plans += [
        (
            folder / f"fresh-{i:02d}",
            (seed + len(examined) + 1, i),
            recipe.shard_examples,
            TRAINING,
            vision.image_px,
            every,
        )
        for i in range(recipe.fresh_shards)
    ]
    plans += [
        (
            folder / f"hard-{i:02d}",
            (seed + len(examined) + 2, i),
            recipe.shard_examples,
            TRAINING,
            vision.image_px,
            (*GAPS, NONE),
        )
        for i in range(recipe.hard_shards)
    ]
    unseen = (seed + _UNSEEN, 0)
    plans.append((folder / "held_out", unseen, recipe.held_out_examples, HELD_OUT, vision.image_px, every))
    if processes > 1:
        with ProcessPoolExecutor(min(processes, os.cpu_count() or 1)) as pool:
            folders = list(pool.map(write_shard, *zip(*plans, strict=True)))
    else:
        folders = [write_shard(*plan) for plan in plans]
    read = [read_shard(path) for path in folders]
    first, fresh = recipe.shards, recipe.shards + len(examined)
    hard = fresh + recipe.fresh_shards
    told_apart = dict(zip((name for name, _, _ in examined), read[first:fresh], strict=True))
    return read[:first], read[fresh:hard], read[hard:-1], {**told_apart, "held_out": read[-1]}
