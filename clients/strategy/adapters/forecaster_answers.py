"""What a voter's model answered, as a forecast; or that it was not asked."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from strategy.core.values import Probabilities
from strategy.ports import Forecast
from tradeserve_client.answers import Answer, CallRecord, NoAnswer, Outcome, Reason
from tradeserve_client.inference import Inference

_SUM_TOLERANCE = 1e-3
_NORM_TOLERANCE = 1e-2


def read_forecast(answer: Answer[Inference], embedding_dimension: int) -> Outcome[Forecast]:
    """Read a model's outputs; what is not a distribution or a unit vector is a failure."""
    outputs = answer.value.outputs
    down, flat, up = (float(value) for value in outputs["probabilities"][0])
    # NaN fails every comparison.
    if not (min(down, flat, up) >= 0.0 and abs(down + flat + up - 1.0) <= _SUM_TOLERANCE):
        detail = f"malformed answer: probabilities {down:.4g}, {flat:.4g}, {up:.4g} are not a distribution"
        return NoAnswer(Reason.FAILED, detail, answer.call)
    embedding: NDArray[np.float32] | None = None
    if embedding_dimension:
        embedding = outputs["embedding"][0]
        norm = float(np.sqrt(np.dot(embedding, embedding)))
        if not abs(norm - 1.0) <= _NORM_TOLERANCE:
            return NoAnswer(
                Reason.FAILED, f"malformed answer: the embedding has length {norm:.4g}", answer.call
            )
    return Answer(Forecast(Probabilities(down, flat, up), embedding), answer.call)


def not_sent(service: str, reason: Reason, detail: str, deadline_ns: int) -> NoAnswer:
    """Return why a service was not asked."""
    return NoAnswer(reason, detail, CallRecord(service, "", 0, deadline_ns, 0))
