"""Count what our server reads right, under vLLM and its grammar, of generated charts that it was not trained on.

`build/venv/bin/python tests/acceptance/reader_accuracy.py --charts 504`; needs build/venv-vllm and the export extra.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))

from acceptance.reading import read_charts  # noqa: E402
from fakes.planted_charts import planted_chart  # noqa: E402
from model_export.chart_patterns import FAMILIES, Family  # noqa: E402
from model_export.pattern_shapes import NONE  # noqa: E402
from model_export.vlm.answers import SIGNALS  # noqa: E402
from model_export.vlm.evaluate import share  # noqa: E402
from vision_processes import vision_on  # noqa: E402


@dataclass(slots=True)
class Tally:
    """What was read.

    Attributes:
        patterns: Whether each chart's pattern was named.
        signals: Whether each signal was the one that goes with the pattern.
        trusted: Whether nothing in the answer contradicted the chart.
        confused: How often which pattern was taken for which other.
    """

    patterns: list[bool] = field(default_factory=list)
    signals: list[bool] = field(default_factory=list)
    trusted: list[bool] = field(default_factory=list)
    confused: Counter[tuple[str, str]] = field(default_factory=Counter)


async def read(address: str, family: Family, charts: int, shown: int) -> Tally:
    """Have charts read; print the first `shown` answers."""
    asked = [planted_chart(number, family) for number in range(charts)]
    read = await read_charts(address, [query for query, _ in asked])
    tally = Tally()
    for number, ((_, pattern), (reading, record)) in enumerate(zip(asked, read, strict=True)):
        named = reading.patterns[0] if reading.patterns else NONE
        tally.patterns.append(named == pattern)
        tally.signals.append(reading.signal.name == SIGNALS[pattern].name)
        tally.trusted.append(not reading.contradictions)
        if named != pattern:
            tally.confused[(pattern, named)] += 1
        if number < shown:
            print(f"{pattern}, trust {reading.trust}: {record.raw_output}")
    return tally


def main() -> int:
    """Read and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--charts", type=int, default=504)
    parser.add_argument("--family", choices=[family.name for family in FAMILIES], default="held_out")
    parser.add_argument("--show", type=int, default=0, help="answers to print")
    arguments = parser.parse_args()
    family = next(one for one in FAMILIES if one.name == arguments.family)
    with tempfile.TemporaryDirectory() as name, vision_on(Path(name)) as running:
        tally = asyncio.run(read(running.address, family, arguments.charts, arguments.show))
    for words, hits in (
        ("the pattern named", tally.patterns),
        ("its signal", tally.signals),
        ("nothing contradicts the chart", tally.trusted),
    ):
        found = share(hits)
        print(f"{words}: {found['value']:.1%} of {found['of']}, 95% interval {found['ci95']}")
    print("taken for: " + ", ".join(f"{a} for {b} {n}" for (a, b), n in tally.confused.most_common()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
