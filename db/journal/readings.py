"""What is found again of the readings of charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from journal import rows

OUTCOMES_SQL = """
SELECT * FROM (
    SELECT DISTINCT ON (r.artifact_sha256, r.prompt_template_sha256, one.picture)
           r.as_of_ns, r.signal, r.stated_confidence, (later.close / drawn.close - 1) * 1e4 AS forward_return_bps,
           runs.data_source, r.artifact_sha256, r.prompt_template_sha256
    FROM vision_readings r
    JOIN runs ON runs.run_id = r.run_id
    CROSS JOIN LATERAL (
        SELECT (runs.config -> 'strategy' ->> 'bar_size_s')::bigint * 1000000000 AS bar_ns,
               coalesce(nullif(r.chart_sha256, ''), r.decision_id) AS picture
    ) one
    JOIN bars drawn ON drawn.run_id = r.run_id AND drawn.con_id = r.con_id
        AND drawn.start_time = utc_from_ns(r.as_of_ns - one.bar_ns) AND drawn.end_ns = r.as_of_ns
    JOIN bars later ON later.run_id = r.run_id AND later.con_id = r.con_id
        AND later.start_time = utc_from_ns(r.as_of_ns + ($1::bigint - 1) * one.bar_ns)
        AND later.end_ns = r.as_of_ns + $1::bigint * one.bar_ns
    WHERE r.outcome = 'in time' AND r.signal IN ('BUY', 'SELL')
    ORDER BY r.artifact_sha256, r.prompt_template_sha256, one.picture, r.as_of_ns
) outcomes ORDER BY as_of_ns
"""


@dataclass(frozen=True, slots=True)
class ReadChart:
    """A decision's chart and its reading.

    Attributes:
        symbol: What it shows.
        reading: What was read, or why nothing was.
        png: The picture; empty when none was drawn.
        effects: What the reading did to later decisions.
    """

    symbol: str
    reading: rows.VisionReadingRow
    png: bytes
    effects: Sequence[rows.VisionEffectRow]


@dataclass(frozen=True, slots=True)
class ReadingOutcome:
    """A reading that named a direction, and what the price did afterwards.

    Attributes:
        as_of_ns: End of the chart's last bar.
        signal: BUY or SELL.
        stated_confidence: 0 to 1.
        forward_return_bps: Of the close, over the horizon.
        data_source: Of the run.
        artifact_sha256: Model that answered.
        prompt_template_sha256: Prompt that asked.
    """

    as_of_ns: int
    signal: str
    stated_confidence: float
    forward_return_bps: float
    data_source: str
    artifact_sha256: str
    prompt_template_sha256: str
