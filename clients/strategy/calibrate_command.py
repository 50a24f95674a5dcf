"""`strategy calibrate-vision`: what stated confidences were worth, from the readings in the journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from journal.errors import NotFoundError
from journal.migrations import check_database
from journal.queries import JournalReader
from journal.readings import ReadingOutcome
from strategy.calibration_file import write_calibration
from strategy.core.calibration import Calibration, brier, isotonic

_FIT_SHARE = 2 / 3
_NOT_DEMONSTRATED = (
    "Not demonstrated: that readings are independent of each other (charts overlap), that the future is like "
    "these runs, or that acting on a reading earns anything after costs."
)


async def calibrate(
    database_url: str,
    out: Path,
    *,
    horizon_bars: int,
    min_count: int,
    model_sha256: str,
    say: Callable[[str], None],
) -> None:
    """Fit a calibration of one model and prompt, and write it.

    Args:
        database_url: postgresql://…
        out: File to write.
        horizon_bars: Bars after the chart at which its direction is judged.
        min_count: Outcomes below which nothing is written.
        model_sha256: First digits of the model's digest; "" when the journal knows one only.
        say: Called with each line of the result.

    Raises:
        JournalError: There are too few outcomes, or of several models; or the database is away.
        OSError: The file can't be written.
    """
    await check_database(database_url)
    async with JournalReader(database_url) as reader:
        outcomes = await reader.reading_outcomes(horizon_bars)
    made_by, chosen = _chosen(outcomes, model_sha256)
    if len(chosen) < max(min_count, 1):
        raise NotFoundError(
            f"{len(chosen)} readings have an outcome after {horizon_bars} bars, {min_count} are needed: "
            "record more sessions; nothing was written"
        )
    stated, right = [one.stated_confidence for one in chosen], [came(one) for one in chosen]
    calibration = _fitted(*made_by, stated, right)
    cut = int(len(chosen) * _FIT_SHARE)
    held_out = {}
    if 0 < cut < len(chosen):
        earlier, rate = _fitted(*made_by, stated[:cut], right[:cut]), sum(right[:cut]) / cut
        later = right[cut:]
        held_out = {
            "fitted_on_the_first": cut,
            "tested_on_the_last": len(later),
            "brier_as_stated": brier(stated[cut:], later),
            "brier_calibrated": brier([earlier.probability(one) for one in stated[cut:]], later),
            "brier_of_the_mean": brier([rate] * len(later), later),
        }
    sources = Counter(one.data_source for one in chosen)
    facts = {
        "horizon_bars": horizon_bars,
        "right_count": sum(right),
        "first_time": _time(chosen[0].as_of_ns),
        "last_time": _time(chosen[-1].as_of_ns),
        "data_sources": dict(sorted(sources.items())),
        "held_out": held_out,
        "statement": _NOT_DEMONSTRATED,
    }
    digest = write_calibration(out, calibration, facts)
    say(
        f"{len(chosen)} readings of model {made_by[0][:12]}, prompt {made_by[1][:12]}; {sum(right)} were right"
    )
    say(f"from {', '.join(f'{source} ({count})' for source, count in sources.most_common())}")
    for name, value in held_out.items():
        say(f"  {name.replace('_', ' ')}: {value:.4g}")
    if held_out and held_out["brier_calibrated"] >= held_out["brier_of_the_mean"]:
        say("  its confidence told nothing on the last third that the mean alone does not tell")
    say(_NOT_DEMONSTRATED)
    say(f"{out}: sha256 {digest}")
    say(f'use it with [vision] calibration_file = "{out}", calibration_sha256 = "{digest}"')


def came(outcome: ReadingOutcome) -> bool:
    """Return whether the price went where a reading pointed; a price that stood still did not."""
    moved = outcome.forward_return_bps if outcome.signal == "BUY" else -outcome.forward_return_bps
    return moved > 0


def _fitted(model: str, prompt: str, stated: Sequence[float], right: Sequence[bool]) -> Calibration:
    x, y = isotonic(stated, right)
    return Calibration(model, prompt, len(stated), tuple(x.tolist()), tuple(y.tolist()))


def _chosen(
    outcomes: Sequence[ReadingOutcome], model_sha256: str
) -> tuple[tuple[str, str], Sequence[ReadingOutcome]]:
    counts = Counter(
        (one.artifact_sha256, one.prompt_template_sha256)
        for one in outcomes
        if one.artifact_sha256 and one.artifact_sha256.startswith(model_sha256)
    )
    if len({model for model, _ in counts}) > 1:
        known = ", ".join(f"{model[:12]} ({count})" for (model, _), count in counts.most_common())
        raise NotFoundError(f"the journal has readings of several models: choose one with --model: {known}")
    if not counts:
        raise NotFoundError("the journal has no reading with an outcome: record sessions with vision on")
    # Of several prompts, the one with the most outcomes.
    (made_by, _), *_ = counts.most_common(1)
    return made_by, [one for one in outcomes if (one.artifact_sha256, one.prompt_template_sha256) == made_by]


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
