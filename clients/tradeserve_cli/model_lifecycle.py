"""`tradeserve models deploy|shadow|canary|promote|rollback|retire`: replace a model without a lost request."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from tradeserve_cli import output
from tradeserve_cli.arguments import Parser, Subparsers, UsageError, add_command, number, whole
from tradeserve_cli.connections import clients, timeout_s
from tradeserve_cli.inputs import fitted, made_up, read_arrays
from tradeserve_client.contract import ModelContract
from tradeserve_client.model_control import ModelControl
from tradeserve_client.model_shadow import Comparison, Question, ShadowAnswers, compare
from tradeserve_client.triton import TritonClient

_MAX_VERSION = 2**31 - 1
_MAX_QUESTIONS = 100_000
_LOAD_TIMEOUT_MS = 120_000.0
_WINDOW_COLUMNS = 5


def register(commands: Subparsers) -> None:
    """Add the commands below `tradeserve models`."""
    deploy = _command(
        commands,
        "deploy",
        "Load a new version beside those that serve, warm it, check its contract; nobody uses it yet.",
        "tradeserve models deploy lstm_cnn new.onnx --card new.card.json",
    )
    deploy.add_argument("file", type=Path, metavar="FILE", help="the model file, .onnx; it is copied")
    deploy.add_argument(
        "--card", type=Path, metavar="FILE", help="its card.json, for what clients show of it"
    )
    _add_version(deploy, required=False, text="its number (default: the next free one)")
    deploy.set_defaults(run=_deploy)

    promote = _command(
        commands,
        "promote",
        "Make a deployed version the one for clients that name none.",
        "tradeserve models promote lstm_cnn --version 2",
    )
    _add_version(promote)
    promote.set_defaults(run=_promote)

    rollback = _command(
        commands,
        "rollback",
        "Promote again what was promoted before.",
        "tradeserve models rollback lstm_cnn",
    )
    rollback.set_defaults(run=_rollback)

    canary = _command(
        commands,
        "canary",
        "Have a deployed version answer a share of the clients that pinned neither version nor sha256.",
        "tradeserve models canary lstm_cnn --version 2 --share 0.05\n"
        "tradeserve models canary lstm_cnn --version 2 --share 0",
    )
    _add_version(canary)
    canary.add_argument(
        "--share", type=number(0.0, 0.5), required=True, metavar="SHARE", help="0 ends it; at most 0.5"
    )
    canary.set_defaults(run=_canary)

    retire = _command(
        commands,
        "retire",
        "Unload a version that is not promoted; its folder stays.",
        "tradeserve models retire lstm_cnn --version 1",
    )
    _add_version(retire)
    retire.set_defaults(run=_retire)
    _register_shadow(commands)


def _register_shadow(commands: Subparsers) -> None:
    shadow = _command(
        commands,
        "shadow",
        "Ask a deployed version what the promoted one is asked, record both answers, use neither.",
        "tradeserve models shadow lstm_cnn --version 2 --decisions 500 --record answers.jsonl\n"
        "tradeserve models shadow lstm_cnn --version 2 --inputs windows.npy\n"
        "tradeserve models shadow lstm_cnn --version 2 --random 200 --max-difference 1e-4",
        json_fields="live_version, shadow_version, questions, live_unanswered, shadow_unanswered, "
        "max_abs_difference {output}, same_class_share, live_p50_ms, live_p99_ms, shadow_p50_ms, shadow_p99_ms",
    )
    _add_version(shadow)
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


def _command(commands: Subparsers, name: str, summary: str, example: str, json_fields: str = "") -> Parser:
    parser = add_command(
        commands,
        name,
        summary=summary,
        example=example,
        servers=("triton",),
        timeout_ms=_LOAD_TIMEOUT_MS,
        json_fields=json_fields or "model, version, versions, artifact_sha256",
    )
    parser.add_argument("model", metavar="MODEL", help="its name in Triton")
    parser.add_argument(
        "--model-repository",
        type=Path,
        default=Path("model_repository"),
        metavar="FOLDER",
        help="the repository that Triton serves, writable here (default: %(default)s)",
    )
    return parser


def _add_version(parser: Parser, *, required: bool = True, text: str = "its number") -> None:
    parser.add_argument(
        "--version",
        type=whole(1, _MAX_VERSION),
        default=0,
        required=required,
        metavar="N",
        help=text,
    )


def _control(arguments: argparse.Namespace, client: TritonClient) -> ModelControl:
    return ModelControl(client, arguments.model_repository, load_timeout_s=timeout_s(arguments))


async def _deploy(arguments: argparse.Namespace) -> int:
    async with clients(arguments, "triton") as connected:
        control = _control(arguments, connected.triton)
        deployed = await control.deploy(
            arguments.model, arguments.file, version=arguments.version, card=arguments.card
        )
    return _say(arguments, deployed.contract, "deployed, not promoted")


async def _promote(arguments: argparse.Namespace) -> int:
    async with clients(arguments, "triton") as connected:
        control = _control(arguments, connected.triton)
        contract = await control.promote(arguments.model, arguments.version)
    return _say(arguments, contract, "promoted")


async def _rollback(arguments: argparse.Namespace) -> int:
    async with clients(arguments, "triton") as connected:
        control = _control(arguments, connected.triton)
        contract = await control.rollback(arguments.model)
    return _say(arguments, contract, "promoted again")


async def _canary(arguments: argparse.Namespace) -> int:
    async with clients(arguments, "triton") as connected:
        control = _control(arguments, connected.triton)
        contract = await control.canary(arguments.model, arguments.version, arguments.share)
    share = f"{100 * arguments.share:g}% of unpinned calls go to version {arguments.version}"
    return _say(arguments, contract, f"promoted; {share}" if arguments.share else "promoted; no canary")


async def _retire(arguments: argparse.Namespace) -> int:
    async with clients(arguments, "triton") as connected:
        control = _control(arguments, connected.triton)
        await control.retire(arguments.model, arguments.version)
        contract = await control.client.contract(arguments.model, timeout_s=timeout_s(arguments))
    return _say(arguments, contract, f"promoted; version {arguments.version} retired")


def _say(arguments: argparse.Namespace, contract: ModelContract, state: str) -> int:
    if arguments.json:
        output.document(
            {
                "model": contract.name,
                "version": contract.version,
                "versions": contract.versions,
                "artifact_sha256": contract.artifact_sha256,
            }
        )
        return 0
    served = ", ".join(map(str, contract.versions))
    output.line(
        f"{contract.name} version {contract.version} ({output.digest(contract.artifact_sha256)}) {state}; "
        f"loaded: {served}"
    )
    return 0


async def _shadow(arguments: argparse.Namespace) -> int:
    async with clients(arguments, "triton") as connected:
        control = _control(arguments, connected.triton)
        client = control.client
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
    if not database_url:
        raise UsageError("--decisions: where is the journal? give --database-url, or set DATABASE_URL")
    # The only command that needs the database's driver.
    from journal.errors import JournalError
    from journal.queries import JournalReader

    try:
        async with JournalReader(database_url) as reader:
            runs = await reader.runs(1)
            rows = await reader.decisions(runs[0].run.run_id) if runs else []
    except JournalError as error:
        raise UsageError(f"--decisions: {error}") from error
    if not rows:
        raise UsageError("--decisions: the journal has none")
    spec = contract.inputs[0]
    windows = ((row.decision_id, np.frombuffer(row.window, "<f4")) for row in rows[-count:] if row.window)
    return [
        Question(
            f"decision {decision_id}",
            {spec.name: fitted(window.reshape(-1, _WINDOW_COLUMNS), spec, f"decision {decision_id}")},
        )
        for decision_id, window in windows
    ]


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
