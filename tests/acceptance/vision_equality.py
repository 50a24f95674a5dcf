"""Compare what our server reads with what transformers' `generate` says of the same charts, to the byte.

`build/venv/bin/python tests/acceptance/vision_equality.py --charts 512`; needs build/venv-vllm. With `--planted` the
charts are generated ones with patterns, as the reader was examined on (needs the export extra), else random walks.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))

from acceptance.reading import read_charts  # noqa: E402
from fakes.charts_to_read import chart_query  # noqa: E402
from tradeserve_client.chart_reading import ChartQuery  # noqa: E402
from vision_processes import VLLM_VENV, vision_on  # noqa: E402
from vision_prompt import answer_schema  # noqa: E402
from vision_server.checkpoint import PACKAGED, load_card  # noqa: E402

_FIRST_SEED = 50_000


@dataclass(frozen=True, slots=True)
class Equality:
    """How often both said the same.

    Attributes:
        charts: Compared.
        equal: The same to the byte.
        first_difference: What each said of the first chart on which they differ; "" when on none.
    """

    charts: int
    equal: int
    first_difference: str


async def compare(
    address: str, charts: int, folder: Path, query_of: Callable[[int], ChartQuery] = chart_query
) -> Equality:
    """Read charts with a server that runs the packaged checkpoint, then with transformers.

    Args:
        address: Of the server.
        charts: How many.
        folder: For the questions.
        query_of: Makes a question of a number.
    """
    queries = [query_of(_FIRST_SEED + number) for number in range(charts)]
    records = [record for _, record in await read_charts(address, queries)]
    ours = [record.raw_output for record in records]
    most = load_card(PACKAGED / "card.json").sampling.max_tokens
    jobs: list[str] = []
    for query, record in zip(queries, records, strict=True):
        before, after = record.prompt.split("{chart}")
        job = {"before": before, "after": after, "schema": answer_schema(), "max_tokens": most}
        jobs.append(json.dumps({**job, "png": base64.b64encode(query.chart_png).decode()}))
    questions = folder / "questions.jsonl"
    questions.write_text("\n".join(jobs) + "\n")
    python, script = VLLM_VENV / "bin" / "python", Path(__file__).with_name("hf_generate.py")
    done = await asyncio.to_thread(
        subprocess.run,
        [str(python), str(script), str(PACKAGED), str(questions)],
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = [json.loads(line) for line in done.stdout.splitlines()]
    pairs = list(zip(ours, theirs, strict=True))
    different = [f"ours: {one}\ntheirs: {other}" for one, other in pairs if one != other]
    return Equality(len(pairs), len(pairs) - len(different), different[0] if different else "")


def main() -> int:
    """Compare and print; 0 when all are equal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--charts", type=int, default=512)
    parser.add_argument("--planted", action="store_true", help="charts with patterns")
    arguments = parser.parse_args()
    query_of: Callable[[int], ChartQuery] = chart_query
    if arguments.planted:
        from fakes.planted_charts import planted_query

        query_of = planted_query
    with tempfile.TemporaryDirectory() as name, vision_on(Path(name)) as running:
        found = asyncio.run(compare(running.address, arguments.charts, Path(name), query_of))
    print(
        f"{found.equal} of {found.charts} charts: the same answer to the byte\n{found.first_difference}".strip()
    )
    return 0 if found.equal == found.charts else 1


if __name__ == "__main__":
    sys.exit(main())
