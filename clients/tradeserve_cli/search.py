"""`tradeserve search`: past market states that look like an embedding or a window."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradeserve_cli import output
from tradeserve_cli.arguments import Subparsers, UsageError, add_command, whole
from tradeserve_cli.connections import place, timeout_s, tls
from tradeserve_cli.inputs import read_array
from tradeserve_client.answers import Answer
from tradeserve_client.similarity import IndexInfo, Match, Matches, SearchQuery, SimilarityClient

DEFAULT_INDEX = "market_states"
_NORM_TOLERANCE = 1e-3


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "search",
        summary="Find the past market states nearest to an embedding.",
        example="tradeserve search --embedding embedding.npy --count 5",
        servers=("similarity",),
        json_fields="index {name, version, artifact_sha256}, request_id, round_trip_ms, compute_ms, neighbors "
        "[{state_id, con_id, symbol, event_time, bar_size_s, similarity, forward_return_bps}]",
    )
    parser.add_argument(
        "--embedding",
        type=Path,
        required=True,
        metavar="FILE",
        help="one vector (.npy, .csv, .json); its length is normalised",
    )
    parser.add_argument("--index", default=DEFAULT_INDEX, metavar="NAME", help="(default: %(default)s)")
    parser.add_argument(
        "--count", type=whole(1, 256), default=10, metavar="N", help="how many (default: %(default)s)"
    )
    parser.set_defaults(run=_run)


async def _run(arguments: argparse.Namespace) -> int:
    embedding = unit_vector(read_array(arguments.embedding), str(arguments.embedding))
    client = SimilarityClient(place(arguments, "similarity").target, tls=tls(arguments))
    try:
        info = await client.get_index(arguments.index, timeout_s=timeout_s(arguments))
        if len(embedding) != info.dimension:
            raise UsageError(
                f"--embedding has length {len(embedding)}; {arguments.index} holds embeddings of "
                f"{info.embedding_model.name}, of length {info.dimension}"
            )
        query = SearchQuery(arguments.index, embedding, arguments.count)
        answer = await client.search(query, timeout_s=timeout_s(arguments))
    finally:
        await client.close()
    if arguments.json:
        output.document(as_json(answer))
    else:
        _print(answer, info)
    return 0


def unit_vector(array: NDArray[Any], where: str) -> NDArray[np.float32]:
    """Return a vector with length 1, (dimension,) float32.

    Raises:
        UsageError: It is not one vector of finite numbers that has a direction.
    """
    vector = np.asarray(array, np.float64).reshape(-1) if array.size == max(array.shape, default=0) else None
    if vector is None or not np.isfinite(vector).all() or not np.any(vector):
        raise UsageError(f"{where}: one vector of finite numbers, not all 0, is wanted")
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
        "neighbors": [_match(match) for match in answer.value.matches],
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
    if info.statement:
        output.line(info.statement)
