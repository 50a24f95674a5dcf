"""The whole course, from a seed to a checkpoint: examples, three lessons in rounds, an examination, a card."""

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
from model_export.pattern_shapes import PATTERN_NAMES
from model_export.vlm.checkpoint import CARD, WEIGHTS, load_weights, write_checkpoint
from model_export.vlm.dialogue import Dialogue, make_dialogue
from model_export.vlm.evaluate import figures, read_all
from model_export.vlm.examples import Shard, read_shard, write_shard
from model_export.vlm.join import train_joined
from model_export.vlm.language_model import LanguageModel
from model_export.vlm.look import HARD, train_tower
from model_export.vlm.reader import Reader
from model_export.vlm.reader_card import card_of
from model_export.vlm.shape import TextShape, VisionShape
from model_export.vlm.speak import begin_looking_back, begin_with_codes, train_language, translated
from model_export.vlm.tokenizer import Vocabulary
from model_export.vlm.vision_tower import VisionTower

SEED = 1
_EXAMINED = ("watched", "validation", "real", "held_out")
_ROUNDS = ("", "-again", "-hard", "-longer")
_ROUND_SEEDS = 1000
"""Between the seeds of one round's batches and the next one's."""
_HARD_SHARE = 0.4
"""Of the charts that a tower sees which is taught again."""
_THREADS = 2
"""Of all lessons with pictures; another number gives other last digits."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How much of everything.

    Attributes:
        shards: Of training examples, for the first and second lesson.
        fresh_shards: Of further ones, for the third.
        shard_examples: Examples of each; a multiple of the number of patterns, so that each comes equally often.
        held_out_examples: From the held-out family, to be watched on, and as many others only to be examined on.
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
        hard_shards: Of further examples, only of what is hardest to tell apart (`look.HARD`).
        looked_hard: Of the first lesson in the third round, with these.
        joined_hard: Of the third in that round.
        looked_longer: Of the first in the fourth round, which is the third's once more, for longer.
        joined_longer: Of the third in that round.
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
    looked_hard: int = 500
    joined_hard: int = 500
    looked_longer: int = 1500
    joined_longer: int = 1200

    def __post_init__(self) -> None:
        """Raise ValueError where a shard would end before all patterns have had their turn (`look.harder`)."""
        if self.shard_examples % len(PATTERN_NAMES):
            raise ValueError(
                f"shard_examples is {self.shard_examples}; a multiple of {len(PATTERN_NAMES)} is needed"
            )


@dataclass(frozen=True, slots=True)
class Kind:
    """Shards of one kind.

    Attributes:
        name: Of the kind, and of its folders.
        seed: Added to the course's; no two kinds have the same. That of the examination lies apart from all others.
        shards: How many.
        examples: Of each.
        family: Of the series.
        patterns: That come in turn.
    """

    name: str
    seed: int
    shards: int
    examples: int
    family: Family
    patterns: Sequence[str] = PATTERN_NAMES


def kinds_of(recipe: Recipe) -> tuple[Kind, ...]:
    """Return what a recipe wants made."""
    return (
        Kind("training", 0, recipe.shards, recipe.shard_examples, TRAINING),
        Kind("watched", 1, 1, recipe.held_out_examples, HELD_OUT),
        Kind("validation", 2, 1, recipe.validation_examples, TRAINING),
        Kind("real", 3, 1, recipe.real_examples, REAL),
        Kind("fresh", 4, recipe.fresh_shards, recipe.shard_examples, TRAINING),
        Kind("hard", 5, recipe.hard_shards, recipe.shard_examples, TRAINING, HARD),
        Kind("held_out", 200, 1, recipe.held_out_examples, HELD_OUT),
    )


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
        device: Where to compute; "cuda", which was never tried, would give other weights.

    Returns:
        The card.
    """
    recipe = recipe or Recipe()
    vision = VisionShape()
    charts = make_examples(work / f"examples-{seed}", seed, recipe, vision.image_px, processes)
    dialogue = make_dialogue(vision)
    threads = torch.get_num_threads()
    torch.set_default_device(device)
    try:
        reader = Course(work, seed, recipe, charts).teach(dialogue)
        training = {"seed": seed, "device": device, "recipe": asdict(recipe)}
        return finish(out, root, reader, dialogue, {name: charts[name][0] for name in _EXAMINED}, training)
    finally:
        torch.set_default_device(None)
        torch.set_num_threads(threads)


def make_examples(
    folder: Path, seed: int, recipe: Recipe, side_px: int, processes: int
) -> dict[str, list[Shard]]:
    """Return the shards of each kind by its name, made unless they are there."""
    planned = [(kind, number) for kind in kinds_of(recipe) for number in range(kind.shards)]
    plans = [
        (
            folder / f"{kind.name}-{number:02d}",
            (seed + kind.seed, number),
            kind.examples,
            kind.family,
            side_px,
            kind.patterns,
        )
        for kind, number in planned
    ]
    if processes > 1:
        with ProcessPoolExecutor(min(processes, os.cpu_count() or 1)) as pool:
            folders = list(pool.map(write_shard, *zip(*plans, strict=True)))
    else:
        folders = [write_shard(*plan) for plan in plans]
    made: dict[str, list[Shard]] = {kind.name: [] for kind in kinds_of(recipe)}
    for (kind, _), path in zip(planned, folders, strict=True):
        made[kind.name].append(read_shard(path))
    return made


@dataclass(frozen=True, slots=True)
class Course:
    """The lessons, in four rounds.

    Attributes:
        work: Where each lesson saves its state.
        seed: Of everything that varies.
        recipe: How much of everything.
        charts: Shards by the name of their kind.
    """

    work: Path
    seed: int
    recipe: Recipe
    charts: dict[str, list[Shard]]

    def teach(self, dialogue: Dialogue) -> Reader:
        """Give all rounds.

        In the first the language model learns to write answers as Python's json does. vLLM's grammar has them without
        blanks, so in the second it learns that.
        """
        recipe, with_blanks = self.recipe, make_dialogue(dialogue.vision, is_compact=False)
        reader = self._begun(with_blanks)
        self._teach_again(reader, with_blanks.vocabulary, dialogue)
        self._teach_hard(reader, dialogue, 2, recipe.looked_hard, recipe.joined_hard)
        self._teach_hard(reader, dialogue, 3, recipe.looked_longer, recipe.joined_longer)
        return reader

    def _begun(self, dialogue: Dialogue) -> Reader:
        """Return a new reader after the first round: both halves apart, then together."""
        recipe, charts = self.recipe, self.charts["training"]
        vision, text = dialogue.vision, TextShape(len(dialogue.vocabulary))
        torch.set_num_threads(_THREADS)
        torch.manual_seed(self.seed)
        tower = VisionTower(vision, text.hidden_size)
        train_tower(
            tower,
            charts,
            self._watched,
            seed=self._batches(0),
            steps=recipe.tower_steps,
            again=recipe.tower_again,
            save=self._state("tower", 0),
        )
        torch.set_num_threads(1)
        torch.manual_seed(self.seed + 1)
        language = LanguageModel(text)
        begin_with_codes(language, dialogue)
        begin_looking_back(language)
        train_language(
            language,
            dialogue,
            charts,
            seed=self._batches(0),
            steps=recipe.language_steps,
            drill_steps=recipe.drill_steps,
            save=self._state("language", 0),
        )
        reader = Reader(vision, text)
        reader.take(tower, language)
        self._join(reader, dialogue, self.charts["fresh"], 0, recipe.joined_steps)
        return reader

    def _teach_again(self, reader: Reader, known: Vocabulary, dialogue: Dialogue) -> None:
        """Give the second round: the tower again, the language model in another vocabulary, and both together."""
        recipe, fresh = self.recipe, self.charts["fresh"]
        self._look_again(reader.tower, [*self.charts["training"], *fresh], 1, recipe.looked_again)
        torch.set_num_threads(1)
        language = translated(reader.language, known, dialogue.vocabulary)
        train_language(
            language,
            dialogue,
            fresh,
            seed=self._batches(1),
            steps=0,
            again=recipe.spoken_again,
            save=self._state("language", 1),
        )
        reader.speak_with(language)
        self._join(reader, dialogue, fresh, 1, recipe.joined_again)

    def _teach_hard(self, reader: Reader, dialogue: Dialogue, number: int, looked: int, joined: int) -> None:
        """Give a round to the tower and to both together, with further charts that are hardest to tell apart."""
        charts = [shard for kind in ("training", "fresh", "hard") for shard in self.charts[kind]]
        self._look_again(reader.tower, charts, number, looked)
        self._join(reader, dialogue, charts, number, joined)

    def _look_again(self, tower: VisionTower, shards: Sequence[Shard], number: int, steps: int) -> None:
        torch.set_num_threads(_THREADS)
        torch.manual_seed(self.seed + 1 + number)
        train_tower(
            tower,
            shards,
            self._watched,
            seed=self._batches(number),
            steps=0,
            again=steps,
            gain=1.0,
            hard_share=_HARD_SHARE,
            save=self._state("tower", number),
        )

    def _join(
        self, reader: Reader, dialogue: Dialogue, shards: Sequence[Shard], number: int, steps: int
    ) -> None:
        torch.set_num_threads(_THREADS)
        train_joined(
            reader,
            dialogue,
            shards,
            self._watched,
            seed=self._batches(number),
            steps=steps,
            save=self._state("reader", number),
        )

    @property
    def _watched(self) -> Shard:
        return self.charts["watched"][0]

    def _batches(self, number: int) -> int:
        """Return the seed of a round's batches."""
        return self.seed + number * _ROUND_SEEDS

    def _state(self, name: str, number: int) -> Path:
        """Return where a lesson of a round saves its state."""
        return self.work / f"{name}{_ROUNDS[number]}-{self.seed}.pt"


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
