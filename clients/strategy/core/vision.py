"""What the reading of a chart may do to later entries: forbid them, make them smaller, or nothing.

It never makes an order, never enlarges one, never turns one around, and never touches an exit. A reading
that is missing, expired, contradicted by its own chart, or of a chart of another time has no effect.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

from strategy.core.calibration import Calibration
from strategy.core.values import Purpose, Side, Signal
from tradeserve_client.bounds import Within

_COIN = 0.5
_UNDECIDED_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class VisionLimits:
    """How far readings are heard.

    Attributes:
        lifetime_bars: Bars after the chart's last one in which its reading is heard; the server's
            expiry may come sooner.
        min_trust: Trust below which a reading is not heard.
        veto_weight: Confidence x trust from which on entries against a reading are vetoed.
        smallest_share: Part of its strength that a shrunk entry keeps at least.
        min_calibration_count: Outcomes below which a calibration is not used.
    """

    lifetime_bars: Annotated[int, Within(1, 1000)]
    min_trust: Annotated[float, Within(0, 1)]
    veto_weight: Annotated[float, Within(0, 1)]
    smallest_share: Annotated[float, Within(0.01, 1)]
    min_calibration_count: Annotated[int, Within(1, 10_000_000)]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model saw on the chart of a decision.

    Attributes:
        decision_id: Decision whose chart it was.
        signal: Which way it leans.
        stated_confidence: 0 to 1, as the model states it.
        trust: How far it agrees with the chart's own data, 0 to 1.
        as_of_ns: End of the chart's last bar, exchange time.
        expire_ns: Not to be used at or after this instant, wall clock.
        model_sha256: What answered.
        prompt_sha256: What asked.
    """

    decision_id: str
    signal: Side
    stated_confidence: float
    trust: float
    as_of_ns: int
    expire_ns: int
    model_sha256: str
    prompt_sha256: str


@dataclass(frozen=True, slots=True)
class VisionEffect:
    """What a reading does to one decision; an input of it, recorded with it.

    Attributes:
        decision_id: Decision whose chart was read.
        signal: Which way the reading leans: entries that do not are restrained.
        confidence: As stated, or the probability that its calibration gives.
        calibrated: Which of them.
        trust: Of the reading.
        veto: Whether entries against it are forbidden; else they are shrunk.
        share: Part of its strength that a shrunk entry keeps, > 0 to 1.
        now_ns: Wall clock at which it was found to be alive.
    """

    decision_id: str
    signal: Side
    confidence: float
    calibrated: bool
    trust: float
    veto: bool
    share: float
    now_ns: int


def effect_of(
    reading: Reading | None,
    calibration: Calibration | None,
    limits: VisionLimits,
    *,
    now_ns: int,
    event_ns: int,
    bar_ns: int,
) -> VisionEffect | None:
    """Return what a reading does to the decision of a bar; None: nothing.

    Args:
        reading: The newest of the instrument.
        calibration: Of some model and prompt; used when they are the reading's.
        limits: How far readings are heard.
        now_ns: Wall clock.
        event_ns: End of the decision's bar, exchange time.
        bar_ns: Length of a bar.
    """
    if reading is None or now_ns >= reading.expire_ns:
        return None
    if not reading.as_of_ns < event_ns <= reading.as_of_ns + limits.lifetime_bars * bar_ns:
        return None
    trust, stated = reading.trust, reading.stated_confidence
    if not (_is_share(trust) and _is_share(stated) and trust >= limits.min_trust):
        return None
    confidence, calibrated = stated, False
    undecided = reading.signal is Side.HOLD
    # What was fitted is how often a direction came; HOLD names none.
    if calibration is not None and not undecided and _fits(reading, calibration, limits):
        confidence, calibrated = calibration.probability(stated), True
        if confidence <= _COIN:
            return None  # as stated it was right no more often than a coin
    weight = confidence * trust
    veto = not undecided and weight >= limits.veto_weight
    # Calibrated, only what lies beyond a coin's chance is a reason to doubt the entry.
    doubt = (2 * confidence - 1) * trust if calibrated else weight
    share = max(limits.smallest_share, 1.0 - doubt * (_UNDECIDED_SHARE if undecided else 1.0))
    if not veto and share >= 1:
        return None
    return VisionEffect(
        decision_id=reading.decision_id,
        signal=reading.signal,
        confidence=confidence,
        calibrated=calibrated,
        trust=trust,
        veto=veto,
        share=share,
        now_ns=now_ns,
    )


def restrain(signal: Signal, effect: VisionEffect | None) -> Signal:
    """Return the signal with an entry against a reading forbidden or shrunk; every other one as it is."""
    if effect is None or signal.purpose is not Purpose.ENTRY or signal.side is effect.signal:
        return signal
    kind = "probability" if effect.calibrated else "stated confidence"
    read = f"vision reads {effect.signal.value}, {kind} {effect.confidence:.2f} x trust {effect.trust:.2f}"
    if effect.veto:
        return Signal(Side.HOLD, 0.0, None, f"{signal.reason}; vetoed: {read}")
    return replace(
        signal,
        strength=signal.strength * effect.share,
        reason=f"{signal.reason}; shrunk to {effect.share:.2f}: {read}",
    )


def _fits(reading: Reading, calibration: Calibration, limits: VisionLimits) -> bool:
    return (
        calibration.count >= limits.min_calibration_count
        and (calibration.model_sha256, calibration.prompt_sha256)
        == (reading.model_sha256, reading.prompt_sha256)
        and bool(reading.model_sha256)
    )


def _is_share(value: float) -> bool:
    return math.isfinite(value) and 0 <= value <= 1
