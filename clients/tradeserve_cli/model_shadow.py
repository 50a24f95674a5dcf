"""`tradeserve models shadow`: try a version beside the promoted one, offline or on live traffic; nobody uses it."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from numpy.typing import NDArray

from tradeserve_cli import output
from tradeserve_cli.arguments import Subparsers, UsageError, number, whole
from tradeserve_cli.connections import clients, timeout_s
from tradeserve_cli.inputs import fitted, made_up, read_arrays
from tradeserve_cli.model_lifecycle import add_version, command, control_of, say
from tradeserve_cli.recorded import recorded
from tradeserve_client.contract import ModelContract, TensorSpec
from tradeserve_client.model_shadow import Comparison, Question, ShadowAnswers, compare

if TYPE_CHECKING:
    from journal.queries import ShadowSummary
    from journal.rows import DecisionRow

_MAX_QUESTIONS = 100_000
_RUNS_LOOKED_AT = 20
_WINDOW_COLUMNS = 5


def register(commands: Subparsers) -> None:
    """Add the command below `tradeserve models`."""
    shadow = command(
        commands,
        "shadow",
        "Try a deployed version: ask it what the promoted one is asked, record both answers, use neither.",
        "tradeserve models shadow lstm_cnn --version 2 --decisions 500 --record answers.jsonl\n"
        "tradeserve models shadow lstm_cnn --version 2 --inputs windows.npy\n"
        "tradeserve models shadow lstm_cnn --version 2 --random 200 --max-difference 1e-4\n"
        "tradeserve models shadow lstm_cnn --version 2 --live    (running strategies ask it after each decision)\n"
        "tradeserve models shadow lstm_cnn --version 2 --report  (what they recorded)\n"
        "tradeserve models shadow lstm_cnn --off",
        json_fields="of a comparison: live_version, shadow_version, questions, live_unanswered, "
        "shadow_unanswered, max_abs_difference {output}, same_class_share, live_p50_ms, live_p99_ms, "
        "shadow_p50_ms, shadow_p99_ms; of --report: model, version, artifacts, runs, decisions, asked, "
        "answered, missing {reason}, agreed, agreement, changes {real -> would-be}, "
        "max_probability_difference, p50_ms, p99_ms; of --live and --off: model, version, versions, "
        "artifact_sha256",
    )
    add_version(shadow, required=False, text="its number; only --off does without")
    source = shadow.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--decisions",
        type=whole(1, _MAX_QUESTIONS),
        metavar="N",
        help="windows of the last N decisions of the latest run in the journal (--database-url)",
    )
    source.add_argument(
        "--inputs", type=Path, metavar="FILE", help=".npy, .npz, .csv or .json; rows are asked one by one"
    )
    source.add_argument("--random", type=whole(1, _MAX_QUESTIONS), metavar="N", help="N made-up inputs")
    source.add_argument(
        "--live",
        action="store_true",
        help="have running strategies ask it after each decision, and record it",
    )
    source.add_argument("--off", action="store_true", help="have them stop")
    source.add_argument(
        "--report", action="store_true", help="sum up what strategies recorded of it (--database-url)"
    )
    shadow.add_argument(
        "--database-url",
        default=os.environ.get("DATABASE_URL", ""),
        metavar="URL",
        help="of the journal (DATABASE_URL)",
    )
    shadow.add_argument("--record", type=Path, metavar="FILE", help="a line of JSON per question")
    shadow.add_argument(
        "--max-difference",
        type=number(0.0, 1e9),
        metavar="X",
        help="exit with 1 when an output differs by more, or the shadow left a question unanswered",
    )
    shadow.set_defaults(run=_shadow)


async def _shadow(arguments: argparse.Namespace) -> int:
    if arguments.off:
        return await _off(arguments)
    if not arguments.version:
        raise UsageError("--version N is missing: which version is tried?")
    if arguments.live:
        return await _live(arguments)
    return await (_report if arguments.report else _compare)(arguments)


async def _live(arguments: argparse.Namespace) -> int:
    async with clients(arguments, "triton") as connected:
        changing = control_of(arguments, connected.triton)
        contract = await changing.shadow(arguments.model, arguments.version)
    return say(arguments, contract, f"promoted; strategies try version {arguments.version} beside theirs")


async def _off(arguments: argparse.Namespace) -> int:
    async with clients(arguments, "triton") as connected:
        changing = control_of(arguments, connected.triton)
        tried = changing.folder(arguments.model).read().shadow
        if arguments.version not in (0, tried):
            found = f"version {tried} is" if tried else "none is"
            raise UsageError(f"--off: version {arguments.version} is not tried live, {found}")
        contract = await changing.shadow(arguments.model, 0)
    return say(arguments, contract, "promoted; no version is tried beside it")


async def _report(arguments: argparse.Namespace) -> int:
    async with recorded(arguments.database_url, "--report") as reader:
        found = await reader.shadow_summary(arguments.model, arguments.version)
    agreement = found.agreed / found.answered if found.answered else None
    summary = {
        "model": arguments.model,
        "version": arguments.version,
        **asdict(found),
        "agreement": agreement,
    }
    if arguments.json:
        output.document(summary)
    else:
        for line in _report_lines(arguments, found, agreement):
            output.line(line)
    return 0


def _report_lines(
    arguments: argparse.Namespace, found: ShadowSummary, agreement: float | None
) -> Iterator[str]:
    digests = ", ".join(map(output.digest, found.artifacts))
    yield f"{arguments.model} version {arguments.version} ({digests}), runs that tried it: {found.runs}"
    missing = "".join(f", {count} {reason}" for reason, count in found.missing.items())
    yield f"  decisions    {found.decisions}: asked {found.asked}, answered {found.answered}{missing}"
    if agreement is None:
        return
    yield f"  agreement    {found.agreed} of {found.answered} would-be decisions are the real ones ({agreement:.1%})"
    for change, count in found.changes.items():
        yield f"               {change}: {count}"
    if found.max_probability_difference is not None:
        yield f"  difference   a probability by {found.max_probability_difference:.6f} at most"
    yield f"  round trip   p50 {found.p50_ms:.2f} ms, p99 {found.p99_ms:.2f} ms"


async def _compare(arguments: argparse.Namespace) -> int:
    async with clients(arguments, "triton") as connected:
        client = connected.triton
        live = await client.contract(arguments.model, timeout_s=timeout_s(arguments))
        if arguments.version not in live.versions or arguments.version == live.version:
            loaded = ", ".join(map(str, live.versions))
            raise UsageError(
                f"--version {arguments.version}: give a deployed version that is not promoted; loaded: {loaded}, "
                f"promoted: {live.version}"
            )
        questions = await _questions(arguments, live)
        with _recorder(arguments.record) as file:
            comparison = await compare(
                client,
                arguments.model,
                live.version,
                arguments.version,
                questions,
                on_answers=_writer(file),
            )
    summary = _summary(live.version, arguments.version, comparison)
    if arguments.json:
        output.document(summary)
    else:
        for name, value in summary.items():
            output.line(f"{name.replace('_', ' '):<22} {value}")
    return int(arguments.max_difference is not None and _differs(comparison, arguments.max_difference))


async def _questions(arguments: argparse.Namespace, contract: ModelContract) -> Sequence[Question]:
    if arguments.decisions:
        return await _decisions(arguments.database_url, arguments.decisions, contract)
    if arguments.random:
        return [
            Question(f"random {seed}", {spec.name: made_up(spec, seed) for spec in contract.inputs})
            for seed in range(arguments.random)
        ]
    arrays = read_arrays(arguments.inputs, [spec.name for spec in contract.inputs])
    specs = {spec.name: spec for spec in contract.inputs}
    if missing := sorted(specs.keys() - arrays.keys()):
        raise UsageError(f"{arguments.inputs}: lacks the input {missing[0]!r}")
    whole_inputs = {name: fitted(arrays[name], specs[name], arguments.inputs) for name in specs}
    counts = {len(array) for array in whole_inputs.values()}
    if len(counts) != 1:
        raise UsageError(f"{arguments.inputs}: the inputs have {sorted(counts)} rows; give as many of each")
    return [
        Question(
            f"{arguments.inputs} row {row}",
            {name: array[row : row + 1] for name, array in whole_inputs.items()},
        )
        for row in range(min(counts.pop(), _MAX_QUESTIONS))
    ]


async def _decisions(database_url: str, count: int, contract: ModelContract) -> Sequence[Question]:
    async with recorded(database_url, "--decisions") as reader:
        runs = await reader.runs(_RUNS_LOOKED_AT)
        run_id = next((found.run.run_id for found in runs if found.row_counts["decisions"]), "")
        rows = await reader.last_decisions(run_id, count) if run_id else []
    if not rows:
        raise UsageError("--decisions: the journal has none")
    if len(contract.inputs) != 1:
        names = ", ".join(spec.name for spec in contract.inputs)
        raise UsageError(f"--decisions: the journal has windows, the model wants {names}; give --inputs")
    spec = contract.inputs[0]
    return [Question(f"decision {row.decision_id}", {spec.name: _window(row, spec)}) for row in rows]


def _window(row: DecisionRow, spec: TensorSpec) -> NDArray[Any]:
    where = f"decision {row.decision_id}"
    values = np.frombuffer(row.window, "<f4") if len(row.window) % 4 == 0 else np.zeros(0)
    if not values.size or values.size % _WINDOW_COLUMNS:
        raise UsageError(f"{where}: its window has {len(row.window)} bytes, which are no bars")
    return fitted(values.reshape(-1, _WINDOW_COLUMNS), spec, where)


@contextmanager
def _recorder(path: Path | None) -> Iterator[TextIO | None]:
    try:
        with nullcontext() if path is None else path.open("a", encoding="utf-8") as file:
            yield file
    except OSError as error:
        raise UsageError(f"--record {path}: can't be written: {error.strerror}") from error


def _writer(file: TextIO | None) -> Any:
    if file is None:
        return None

    def write(answers: ShadowAnswers) -> None:
        file.write(json.dumps(answers.record()) + "\n")

    return write


def _differs(comparison: Comparison, limit: float) -> bool:
    apart = max(comparison.max_abs_difference.values(), default=0.0)
    return apart > limit or comparison.shadow_unanswered_count > 0


def _summary(live: int, shadow: int, comparison: Comparison) -> Mapping[str, Any]:
    summary: dict[str, Any] = {
        "live_version": live,
        "shadow_version": shadow,
        "questions": comparison.question_count,
        "live_unanswered": comparison.live_unanswered_count,
        "shadow_unanswered": comparison.shadow_unanswered_count,
        "max_abs_difference": comparison.max_abs_difference,
        "same_class_share": comparison.same_class_count / comparison.row_count
        if comparison.row_count
        else None,
    }
    for side, times in (("live", comparison.live_ms), ("shadow", comparison.shadow_ms)):
        for share in (50, 99):
            summary[f"{side}_p{share}_ms"] = round(float(np.percentile(times, share)), 3) if times else None
    return summary
