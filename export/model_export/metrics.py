"""Out-of-sample figures with intervals, each beside its naive baseline. Pure numpy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 400
# Days that are resampled together: outcomes overlap, so neighbouring days are not independent.
BLOCK_DAYS = {60: 1, 300: 1, 3600: 5, 86400: 20}
# Better than this on these data has always been a leak (hourly: as intraday).
SUSPICIOUS_AUC = {60: 0.52, 300: 0.52, 3600: 0.53, 86400: 0.53}
_TINY = 1e-7


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95% interval from a block bootstrap over days."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Metrics:
    """How one model does on one bar size (or on all) in the test period.

    Attributes:
        samples: Windows measured.
        days: Distinct days among them.
        log_loss: Of three classes, nats.
        baseline_log_loss: Of the training period's class shares at the same bar size.
        log_loss_gain: Baseline minus model, paired; above 0 is better.
        auc: Up against down, flat ones left out; .5 is chance.
        auc_one_bar_later: The same for an entry one bar later and the same exit.
        accuracy: Share of windows whose likeliest class came true.
        baseline_accuracy: Share of the training period's likeliest class.
        auc_against_same_day_median: Daily bars only: above against below the median return of all
            symbols on the day, scores less their mean of the day; takes the market's drift out.
        demonstrated_skill: The intervals of the gain and of every AUC all lie above chance.
    """

    samples: int
    days: int
    log_loss: Estimate
    baseline_log_loss: float
    log_loss_gain: Estimate
    auc: Estimate
    auc_one_bar_later: Estimate
    accuracy: Estimate
    baseline_accuracy: float
    auc_against_same_day_median: Estimate | None
    demonstrated_skill: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the metrics as plain rounded values, for a card."""
        return {k: _plain(v) for k, v in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {"value": round(value["value"], 5), "ci95": [round(value["low"], 5), round(value["high"], 5)]}
    return round(value, 5) if isinstance(value, float) else value


def log_losses(probabilities: NDArray[np.float64], label: NDArray[np.int8]) -> NDArray[np.float64]:
    """Return -log P(what came true), (n,)."""
    return -np.log(np.maximum(probabilities[np.arange(len(label)), label], _TINY))


def weighted_auc(
    score: NDArray[np.float64], positive: NDArray[np.bool_], weight: NDArray[np.float64]
) -> float:
    """Return the area under the ROC curve; ties count half. NaN when a class has no weight.

    Args:
        score: (n,) higher means positive.
        positive: (n,) which samples are.
        weight: (n,) >= 0, how often a sample counts.
    """
    _, group = np.unique(score, return_inverse=True)
    return _grouped_auc(group, positive, weight)


def _grouped_auc(group: NDArray[np.intp], positive: NDArray[np.bool_], weight: NDArray[np.float64]) -> float:
    """Return the AUC of samples whose scores were already ranked into groups of ties."""
    size = int(group.max()) + 1 if len(group) else 0
    up = np.bincount(group, weight * positive, minlength=size)
    down = np.bincount(group, weight * ~positive, minlength=size)
    total = up.sum() * down.sum()
    if total <= 0:
        return float("nan")
    below = np.cumsum(down) - down
    return float((up * (below + 0.5 * down)).sum() / total)


def block_ids(day: NDArray[np.int64], block_days: int) -> NDArray[np.int64]:
    """Return the block of each sample: runs of `block_days` calendar days, numbered from 0."""
    _, ids = np.unique(day // block_days, return_inverse=True)
    return ids.astype(np.int64)


def block_weights(
    blocks: NDArray[np.int64], resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """Return how often each block is drawn in each resample, (resamples, blocks)."""
    count = int(blocks.max()) + 1
    return (
        np.random.default_rng(seed)
        .multinomial(count, np.full(count, 1 / count), resamples)
        .astype(np.float64)
    )


def _mean_estimate(
    values: NDArray[np.float64], blocks: NDArray[np.int64], draws: NDArray[np.float64]
) -> Estimate:
    sums = np.bincount(blocks, values, minlength=draws.shape[1])
    sizes = np.bincount(blocks, minlength=draws.shape[1])
    means = (draws @ sums) / np.maximum(draws @ sizes, 1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(values.mean()), float(low), float(high))


def _auc_estimate(
    score: NDArray[np.float64], label: NDArray[np.int8], blocks: NDArray[np.int64], draws: NDArray[np.float64]
) -> Estimate:
    moved = label != 1
    if len(np.unique(label[moved])) < 2:
        return Estimate(0.5, 0.0, 1.0)  # without both classes nothing is known
    _, group = np.unique(score[moved], return_inverse=True)
    positive, inside = label[moved] == 2, blocks[moved]
    aucs = [_grouped_auc(group, positive, draw[inside]) for draw in draws]
    low, high = np.nanpercentile(aucs, [2.5, 97.5])
    return Estimate(_grouped_auc(group, positive, np.ones(len(group))), float(low), float(high))


def evaluate(
    probabilities: NDArray[np.float64],
    label: NDArray[np.int8],
    later_label: NDArray[np.int8],
    blocks: NDArray[np.int64],
    days: int,
    baseline: NDArray[np.float64],
    against_day: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None,
    resamples: int = RESAMPLES,
) -> Metrics:
    """Measure forecasts against what came true.

    Args:
        probabilities: (n, 3) P(down), P(flat), P(up).
        label: (n,) 0 down, 1 flat, 2 up.
        later_label: (n,) the same for an entry one bar later.
        blocks: (n,) block of days of each sample, from `block_ids`.
        days: Distinct days among the samples.
        baseline: (n, 3) the naive forecast.
        against_day: (n,) day and (n,) return of each sample, where many symbols share days.
        resamples: Bootstrap draws.
    """
    draws = block_weights(blocks, resamples)
    score = probabilities[:, 2] - probabilities[:, 0]
    losses, naive = log_losses(probabilities, label), log_losses(baseline, label)
    hit = (probabilities.argmax(1) == label).astype(np.float64)
    gain = _mean_estimate(naive - losses, blocks, draws)
    auc = _auc_estimate(score, label, blocks, draws)
    later = _auc_estimate(score, later_label, blocks, draws)
    cross = None
    if against_day is not None:
        relative_score, relative_label = against_median(score, *against_day)
        cross = _auc_estimate(relative_score, relative_label, blocks, draws)
    aucs = [a for a in (auc, later, cross) if a is not None]
    return Metrics(
        samples=len(label),
        days=days,
        log_loss=_mean_estimate(losses, blocks, draws),
        baseline_log_loss=float(naive.mean()),
        log_loss_gain=gain,
        auc=auc,
        auc_one_bar_later=later,
        accuracy=_mean_estimate(hit, blocks, draws),
        baseline_accuracy=float((baseline.argmax(1) == label).mean()),
        auc_against_same_day_median=cross,
        demonstrated_skill=gain.low > 0 and all(a.low > 0.5 for a in aucs),
    )


def against_median(
    score: NDArray[np.float64], day: NDArray[np.int64], forward: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """Return scores less their mean of the day, and 2 or 0 for returns above or below its median (1: equal)."""
    _, group = np.unique(day, return_inverse=True)
    counts = np.bincount(group)
    order = np.lexsort((forward, group))
    first = np.cumsum(counts) - counts
    median = (forward[order][first + (counts - 1) // 2] + forward[order][first + counts // 2]) / 2
    relative = score - (np.bincount(group, score) / counts)[group]
    return relative, (1 + np.sign(forward - median[group])).astype(np.int8)


def spread_percentiles(probabilities: NDArray[np.float64]) -> dict[str, float]:
    """Return percentiles of P(up) - P(down): what a policy's thresholds are set against."""
    spread = probabilities[:, 2] - probabilities[:, 0]
    marks = (5, 25, 50, 75, 95)
    return {f"p{m}": round(float(v), 4) for m, v in zip(marks, np.percentile(spread, marks), strict=True)}


def rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return Spearman's correlation (an information coefficient); NaN when one side is constant."""
    first, second = _ranks(a), _ranks(b)
    if first.std() == 0 or second.std() == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(middle[group], np.float64)
