"""`tradeserve search`: past market states that look like an embedding, or like a window of bars."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradeserve_cli import output
from tradeserve_cli.arguments import MAX_CON_ID, Parser, Subparsers, UsageError, add_command, instant, whole
from tradeserve_cli.connections import clients, timeout_s
from tradeserve_cli.infer import contract_of
from tradeserve_cli.inputs import fitted, made_up, read_array
from tradeserve_client.answers import Answer, NoAnswer
from tradeserve_client.contract import digest_differences
from tradeserve_client.errors import CallError, ContractError
from tradeserve_client.similarity import IndexInfo, Match, Matches, Outcomes, SearchQuery
from tradeserve_client.triton import TritonClient

DEFAULT_INDEX = "market_states"
_EMBEDDING = "embedding"


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "search",
        summary="Find the past market states nearest to an embedding, or to a window of bars.",
        example="tradeserve search --embedding embedding.npy --count 5\n"
        "tradeserve search --window window.csv --json\n"
        "tradeserve search --random",
        servers=("similarity", "triton"),
        json_fields="index {name, version, artifact_sha256}, request_id, round_trip_ms, compute_ms, outcomes "
        "(null, or {neighbor_count, mean_return_bps, hit_rate, dispersion_bps, effective_count}), neighbors "
        "[{state_id, con_id, symbol, event_time, bar_size_s, similarity, forward_return_bps}]; without an "
        "answer: answered false, service, reason, detail",
    )
    _add_options(parser)
    parser.set_defaults(run=_run)


def _add_options(parser: Parser) -> None:
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument(
        "--embedding", type=Path, metavar="FILE", help="one vector (.npy, .csv, .json); it is made one long"
    )
    query.add_argument(
        "--window",
        type=Path,
        metavar="FILE",
        help="bars (.npy, .csv, .json): the index's own model in Triton makes the embedding",
    )
    query.add_argument("--random", action="store_true", help="the same with made-up bars")
    parser.add_argument(
        "--seed", type=whole(0, 2**32 - 1), default=0, metavar="N", help="of --random (default: 0)"
    )
    parser.add_argument("--index", default=DEFAULT_INDEX, metavar="NAME", help="(default: %(default)s)")
    parser.add_argument(
        "--count", type=whole(1, 256), default=10, metavar="N", help="how many (default: %(default)s)"
    )
    states = parser.add_argument_group("which states count")
    states.add_argument(
        "--before", type=instant, default=0, metavar="TIME", help="outcome known before this, ISO-8601"
    )
    states.add_argument(
        "--con-id",
        type=whole(1, MAX_CON_ID),
        action="append",
        default=[],
        metavar="N",
        help="of this instrument; repeatable",
    )
    states.add_argument(
        "--bar-size-s", type=whole(1, 86_400), default=0, metavar="S", help="of bars of this length"
    )


async def _run(arguments: argparse.Namespace) -> int:
    needed = ("similarity",) if arguments.embedding else ("similarity", "triton")
    async with clients(arguments, *needed) as connected:
        info = await connected.similarity.get_index(arguments.index, timeout_s=timeout_s(arguments))
        if arguments.embedding is not None:
            where = str(arguments.embedding)
            embedding = unit_vector(read_array(arguments.embedding), where)
        else:
            where = info.embedding_model.name
            embedding = unit_vector(await _embed(arguments, info, connected.triton), where)
        if len(embedding) != info.dimension:
            raise UsageError(
                f"{where}: has length {len(embedding)}; {arguments.index} holds embeddings of "
                f"{info.embedding_model.name}, of length {info.dimension}"
            )
        query = SearchQuery(
            arguments.index,
            embedding,
            arguments.count,
            before_ns=arguments.before,
            con_ids=tuple(arguments.con_id),
            bar_size_s=arguments.bar_size_s,
        )
        outcome = await connected.similarity.search(query, budget=timeout_s(arguments))
    if isinstance(outcome, NoAnswer):
        return output.no_answer("similarity", outcome.reason, outcome.detail, as_json=arguments.json)
    if arguments.json:
        output.document(as_json(outcome))
    else:
        _print(outcome, info)
    return 0


async def _embed(arguments: argparse.Namespace, info: IndexInfo, client: TritonClient) -> NDArray[Any]:
    """Have the index's own model make the embedding.

    Raises:
        CallError: No answer.
        ContractError: Triton serves other bytes than those that the index was built with.
        UsageError: The model, or the file, is not as it must be.
    """
    model = info.embedding_model
    contract = await contract_of(client, model.name, model.version, timeout_s(arguments))
    found = digest_differences(model.name, model.artifact_sha256, contract.artifact_sha256)
    if found:
        raise ContractError(found)
    if len(contract.inputs) != 1 or _EMBEDDING not in {spec.name for spec in contract.outputs}:
        raise UsageError(f"{model.name} does not make an embedding of one input: give --embedding instead")
    (spec,) = contract.inputs
    if arguments.window is not None:
        window = fitted(read_array(arguments.window), spec, arguments.window)
    else:
        window = made_up(spec, arguments.seed)
    outcome = await client.infer(
        model.name,
        {spec.name: window},
        budget=timeout_s(arguments),
        version=model.version,
        outputs=(_EMBEDDING,),
    )
    if isinstance(outcome, NoAnswer):
        raise CallError(model.name, outcome.detail, outcome.reason)
    return outcome.value.outputs[_EMBEDDING]


def unit_vector(array: NDArray[Any], where: str) -> NDArray[np.float32]:
    """Return a vector with length 1, (dimension,) float32.

    Raises:
        UsageError: It is not one vector of finite numbers that has a direction.
    """
    is_vector = array.size == max(array.shape, default=0) and array.dtype.kind in "fiu"
    vector = np.asarray(array, np.float64).reshape(-1) if is_vector else np.zeros(1)
    if not np.isfinite(vector).all() or not np.any(vector):
        shape = list(array.shape)
        raise UsageError(f"{where}: one vector of finite numbers, not all 0, is wanted; its shape is {shape}")
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def as_json(answer: Answer[Matches]) -> Mapping[str, Any]:
    """Return the documented fields."""
    index, call = answer.value.index, answer.call
    return {
        "answered": True,
        "index": {"name": index.name, "version": index.version, "artifact_sha256": index.artifact_sha256},
        "request_id": call.request_id,
        "round_trip_ms": output.milliseconds(call.round_trip_ns),
        "compute_ms": output.milliseconds(call.compute_ns),
        "outcomes": _outcomes(answer.value.outcomes),
        "neighbors": [_match(match) for match in answer.value.matches],
    }


def _outcomes(outcomes: Outcomes | None) -> Mapping[str, Any] | None:
    if outcomes is None:
        return None
    return {
        "neighbor_count": outcomes.neighbor_count,
        "mean_return_bps": outcomes.mean_return_bps,
        "hit_rate": outcomes.hit_rate,
        "dispersion_bps": outcomes.dispersion_bps,
        "effective_count": outcomes.effective_count,
    }


def _match(match: Match) -> Mapping[str, Any]:
    return {
        "state_id": match.state_id,
        "con_id": match.con_id,
        "symbol": match.symbol,
        "event_time": output.moment(match.event_ns),
        "bar_size_s": match.bar_size_s,
        "similarity": match.similarity,
        "forward_return_bps": match.forward_return_bps,
    }


def _print(answer: Answer[Matches], info: IndexInfo) -> None:
    index, matches = answer.value.index, answer.value.matches
    output.line(
        f"{index.name} version {index.version} ({info.state_count} states): the {len(matches)} nearest "
        f"in {answer.call.round_trip_ns / 1e6:.1f} ms"
    )
    output.line(f"similarity  {'symbol':8} {'time':20} {'bar':>7}  return over {info.horizon_bars} bars")
    for match in matches:
        output.line(
            f"{match.similarity:10.4f}  {match.symbol:8} {output.moment(match.event_ns):20} "
            f"{match.bar_size_s:5d} s  {match.forward_return_bps:+9.1f} bps"
        )
    if (outcomes := answer.value.outcomes) is not None:
        output.line(
            f"together: {outcomes.mean_return_bps:+.1f} bps on average, {outcomes.hit_rate:.0%} rose, "
            f"dispersion {outcomes.dispersion_bps:.1f} bps, {outcomes.effective_count:.1f} effective neighbours"
        )
    if info.statement:
        output.line(info.statement)
