"""A million states: what a search finds, what the hop costs, and what adding does to searching.

The server runs on an index that is built once and kept (`similarity_data`), and stores what is
added in the benchmark's Postgres.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import similarity_data as data
from bench.context import Bench, UnavailableError, need
from bench.figures import Figure, median, of_rounds, quantile, summary
from bench.in_process import InProcess
from local_stack.process import Service, StackError
from similarity_server import snapshot
from similarity_server.artifact import read_card
from similarity_server.index import StateIndex
from similarity_server.loading import snapshots_of
from similarity_server.main_index import MainIndex
from tradeserve_client.answers import Answer
from tradeserve_client.channel import Transport
from tradeserve_client.errors import CallError
from tradeserve_client.search_stream import SearchStream
from tradeserve_client.similarity import Matches, NewState, SearchQuery, SimilarityClient

NEIGHBORS = 10
CACHE = Path("build/bench-cache/similarity")
_BUILD_TIMEOUT_S = 1800.0
_PATIENT_S = 2.0
_SEARCHES_PER_S = 200
_ADDS_PER_S = 100
_STATES_PER_ADD = 5
_MERGE_AT = 1_000
_WARM_UP_ADDS = 10
_SLACK = 1e-5


@dataclass(slots=True)
class _Added:
    """States that were added, in order; id is the number of states in the index plus the place."""

    embeddings: NDArray[np.float32]
    sent: int = 0
    answered: int = 0
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Search:
    """One search that was timed.

    Attributes:
        query: What was searched for.
        ms: Round trip.
        outcome: What came.
        answered: Added states that were there for sure when it started.
        sent: Added states that may have been there when it ended.
    """

    query: NDArray[np.float32]
    ms: float
    outcome: Any
    answered: int
    sent: int


async def measure(bench: Bench, local: InProcess) -> list[Figure]:
    """Measure recall, the hop, adds beside searches, memory and start.

    Raises:
        UnavailableError: The index cannot be built, or the server cannot be started.
    """
    del local  # this section has an index of its own
    size = bench.size
    indexes = await indexes_of(bench, size.similarity_states)
    async with _server(bench, indexes) as (service, start_s):
        # Loaded after the server: its start is not to find the files in this process's memory.
        folder, card = read_card(indexes, data.INDEX)
        loaded = snapshot.read_latest(snapshots_of(folder), card)
        if loaded is None:
            raise UnavailableError(f"{folder} has no snapshot: remove {CACHE} and run again")
        main = loaded.main
        queries = data.members(data.centers(len(main.table)), size.similarity_searches, seed=101)
        client = SimilarityClient(service.address, transport=Transport.HTTP2)  # as the strategy does
        # A machine that stalls for a moment is waited for; what is shed would not be measured.
        stream = SearchStream(client, max_in_flight=2 * int(_PATIENT_S * _SEARCHES_PER_S))
        try:
            if not await stream.ready(_PATIENT_S):
                raise UnavailableError("the similarity server takes no stream")
            info = await client.get_index(data.INDEX, timeout_s=_PATIENT_S)
            hop = await _hop(stream, StateIndex(card, main, store=loaded.store), queries, size.rounds)
            recall = _recall(main, queries, hop.pop("answers"))
            adds = await _adds(bench, client, stream, main)
        finally:
            await stream.close()
            await client.close()
        memory = _memory_mb(service)
    states, kind = len(main.table), str(main.kind)
    of = {"states": states, "dimension": data.DIMENSION, "kind": kind}
    built = {"recall_at_10_at_build": info.recall_at_10, "queries_at_build": info.recall_query_count}
    at = f"{states:,} x {data.DIMENSION}"
    return [
        Figure("similarity_recall_at_10", recall, "share",
               f"of the ten nearest of {at} are found ({kind}), against comparing all",
               {**of, **built, "queries": len(queries)}),
        Figure("similarity_stream_vs_in_process_p50", hop["ratio"], "ratio",
               f"search of {at} over the stream against the same index in this process",
               {**of, **hop}),
        Figure("similarity_adds_p99_ratio", adds["ratio"], "ratio",
               f"p99 of searches while {_ADDS_PER_S} states/s are added against without, "
               f"{adds['wrong']} wrong of {adds['searches']}, {adds['errors']} errors",
               {**of, **adds}),
        Figure("similarity_rss_gb", memory["VmHWM"] / 1000, "GB",
               f"most memory that the server of {at} used, adds and merges included",
               {**of, **memory}),
        Figure("similarity_start_ms", start_s * 1e3, "ms",
               f"from the start of the process to healthy, from the snapshot of {at}", of),
    ]  # fmt: skip


async def indexes_of(bench: Bench, states: int) -> Path:
    """Return the folder of the index; build it in a process of its own when it is not there."""
    cache = CACHE if states >= 100_000 else bench.folder / "similarity-indexes"
    command = [sys.executable, str(Path(data.__file__)), "--folder", str(cache), "--states", str(states)]
    if states >= 100_000 and not cache.exists():
        bench.say(f"similarity: building the index of {states:,} states once, for some minutes")
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        output, failure = await asyncio.wait_for(process.communicate(), _BUILD_TIMEOUT_S)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise
    if process.returncode:
        raise UnavailableError(f"the index could not be built: {failure.decode()[-500:]}")
    return Path(output.decode().splitlines()[-1])


@contextlib.asynccontextmanager
async def _server(bench: Bench, indexes: Path) -> AsyncIterator[tuple[Service, float]]:
    command = [sys.executable, "-m", "similarity_server", "--indexes", str(indexes), "--index", data.INDEX]
    command += ["--merge-at", str(_MERGE_AT), "--database-url", bench.database_url]
    service = Service("similarity-bench", command, bench.folder, start_timeout_s=120)
    try:
        yield service, await service.start()
    except StackError as error:
        raise UnavailableError(str(error)) from error
    finally:
        await service.stop()


async def _hop(
    stream: SearchStream, index: StateIndex, queries: NDArray[np.float32], rounds: int
) -> dict[str, Any]:
    """Time each query in this process and over the stream, one directly after the other.

    Both give the neighbours with their facts: instrument, times, similarity, forward return.
    """
    in_process, rows_alone, over_stream, compute, answers = [], [], [], [], []
    for query in queries[: min(50, len(queries))]:  # warms up both
        index.search(query, NEIGHBORS)
        await _search(stream, query)
    for number, query in enumerate(queries):
        for server_first in (number % 2 == 0, number % 2 == 1):
            began = time.perf_counter_ns()
            if not server_first:
                index.search(query, NEIGHBORS)
                between = time.perf_counter_ns()
                in_process.append((between - began) / 1e6)
                index.main.search(query, NEIGHBORS)
                rows_alone.append((time.perf_counter_ns() - between) / 1e6)
                continue
            outcome = await _search(stream, query)
            over_stream.append((time.perf_counter_ns() - began) / 1e6)
            answers.append(need(outcome))
            compute.append(outcome.call.compute_ns / 1e6)
    return {
        "ratio": median(over_stream) / median(in_process),
        "stream_ms": summary(over_stream),
        "in_process_ms": summary(in_process),
        "in_process_rows_alone_ms": summary(rows_alone),
        "server_compute_ms": summary(compute),
        "noise": {
            "stream": of_rounds(over_stream, rounds),
            "in process": of_rounds(in_process, rounds),
        },
        "answers": answers,
    }


def _recall(main: MainIndex, queries: NDArray[np.float32], answers: list[Matches]) -> float:
    nearest = _nearest(main.table.embedding, queries)
    found = sum(
        len({match.state_id for match in answer.matches} & set(main.table.state_id[rows].tolist()))
        for answer, rows in zip(answers, nearest, strict=True)
    )
    return found / nearest.size


def _nearest(vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.int64]:
    """Compare all, block by block; the ten nearest rows of each query."""
    best = np.empty((len(queries), 0), dtype=np.float32)
    rows = np.empty((len(queries), 0), dtype=np.int64)
    for first in range(0, len(vectors), 100_000):
        similarity = queries @ vectors[first : first + 100_000].T
        keep = min(NEIGHBORS, similarity.shape[1])
        top = np.argpartition(-similarity, keep - 1, axis=1)[:, :keep]
        best = np.concatenate((best, np.take_along_axis(similarity, top, axis=1)), axis=1)
        rows = np.concatenate((rows, top + first), axis=1)
    order = np.argsort(-best, axis=1)[:, :NEIGHBORS]
    return np.take_along_axis(rows, order, axis=1)


async def _adds(
    bench: Bench, client: SimilarityClient, stream: SearchStream, main: MainIndex
) -> dict[str, Any]:
    """Search at a steady rate, by turns with and without states being added; check every answer."""
    size = bench.size
    pairs, seconds = size.similarity_turns, size.similarity_turn_s
    centers = data.centers(len(main.table))
    added = _Added(data.members(centers, int(pairs * seconds * _ADDS_PER_S) + _ADDS_PER_S, seed=202))
    queries = data.members(centers, int(pairs * seconds * _SEARCHES_PER_S) + 1, seed=303)
    searches: dict[bool, list[_Search]] = {False: [], True: []}
    for warm_up in range(_WARM_UP_ADDS):
        await _add_some(client, len(main.table), added)
        await _search(stream, queries[warm_up % len(queries)])
    for turn in range(pairs):
        for adding in (turn % 2 == 0, turn % 2 == 1):
            stop = asyncio.Event()
            task = asyncio.create_task(_add(client, len(main.table), added, stop)) if adding else None
            try:
                searches[adding] += await _searching(stream, queries, added, seconds, seed=turn)
            finally:
                stop.set()
                if task is not None:
                    await task
    everything = searches[False] + searches[True]
    wrong = _wrong(main, added, everything)
    info = await client.get_index(data.INDEX, timeout_s=_PATIENT_S)
    errors = added.errors + [str(s.outcome) for s in everything if not isinstance(s.outcome, Answer)]
    with_adds, without = ([s.ms for s in searches[adding]] for adding in (True, False))
    turns = [
        [quantile(t.tolist(), 0.99) for t in np.array_split(np.asarray(ms), pairs)]
        for ms in (with_adds, without)
    ]
    return {
        # Of the turns' p99, the median: a moment that the machine was taken away is in one turn.
        "ratio": median(turns[0]) / median(turns[1]),
        "ratio_of_all": quantile(with_adds, 0.99) / quantile(without, 0.99),
        "p99_of_turns_with_adds_ms": [round(ms, 3) for ms in turns[0]],
        "p99_of_turns_without_ms": [round(ms, 3) for ms in turns[1]],
        "with_adds_ms": summary(with_adds),
        "without_ms": summary(without),
        "wrong": len(wrong),
        "wrong_examples": wrong[:5],
        "errors": len(errors),
        "error_examples": errors[:5],
        "searches": len(everything),
        "added": added.answered,
        "merged": added.answered - info.unmerged_count,
        "recall_on_the_live_set": _live_recall(main, added, searches[True]),
    }


async def _add(client: SimilarityClient, first_id: int, added: _Added, stop: asyncio.Event) -> None:
    period_s = _STATES_PER_ADD / _ADDS_PER_S
    due = time.monotonic()
    while not stop.is_set() and added.sent + _STATES_PER_ADD <= len(added.embeddings):
        if not await _add_some(client, first_id, added):
            return
        due += period_s
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def _add_some(client: SimilarityClient, first_id: int, added: _Added) -> bool:
    first, last = added.sent, added.sent + _STATES_PER_ADD
    event_ns = data.START_NS + (first_id + first) * data.MINUTE_NS
    outcome_ns = event_ns + data.MINUTE_NS
    states = [
        NewState(first_id + 1 + row, 1, "NEW", event_ns, outcome_ns, 60, 1.0, added.embeddings[row])
        for row in range(first, last)
    ]
    added.sent = last
    try:
        await client.add_states(data.INDEX, states, timeout_s=_PATIENT_S)
    except CallError as error:
        added.errors.append(str(error))
        return False
    added.answered = last
    return True


async def _searching(
    stream: SearchStream, queries: NDArray[np.float32], added: _Added, seconds: float, seed: int
) -> list[_Search]:
    """Start searches at a steady rate, whether those before are answered or not."""
    rng = np.random.default_rng(seed)
    running: list[asyncio.Task[_Search]] = []
    began = time.monotonic()
    for number in range(int(seconds * _SEARCHES_PER_S)):
        await asyncio.sleep(max(0.0, began + number / _SEARCHES_PER_S - time.monotonic()))
        # Every other one looks for a state that was just added.
        if number % 2 and added.answered:
            query = added.embeddings[max(0, added.answered - 1 - int(rng.integers(0, 20)))]
        else:
            query = queries[int(rng.integers(0, len(queries)))]
        running.append(asyncio.create_task(_timed(stream, query, added)))
    return list(await asyncio.gather(*running))


async def _timed(stream: SearchStream, query: NDArray[np.float32], added: _Added) -> _Search:
    answered = added.answered
    began = time.perf_counter_ns()
    outcome = await _search(stream, query)
    return _Search(query, (time.perf_counter_ns() - began) / 1e6, outcome, answered, added.sent)


async def _search(stream: SearchStream, query: NDArray[np.float32]) -> Any:
    deadline_ns = time.monotonic_ns() + int(_PATIENT_S * 1e9)
    return await stream.start(SearchQuery(data.INDEX, query, NEIGHBORS), deadline_ns).outcome()


def _wrong(main: MainIndex, added: _Added, searches: list[_Search]) -> list[str]:
    """Return what is wrong: a similarity, a state that is not there, a nearer added one that is missing."""
    wrong = []
    count = len(main.table)
    for one in searches:
        if not isinstance(one.outcome, Answer):
            continue
        matches = one.outcome.value.matches
        ids = np.array([match.state_id for match in matches])
        if len(set(ids.tolist())) != NEIGHBORS or ids.max() > count + one.sent:
            wrong.append(f"ids {ids.tolist()} of {count} + {one.sent}")
            continue
        vectors = np.empty((len(ids), data.DIMENSION), dtype=np.float32)
        old = ids <= count  # row i holds state i + 1
        vectors[old] = main.table.embedding[ids[old] - 1]
        vectors[~old] = added.embeddings[ids[~old] - count - 1]
        stated = np.array([match.similarity for match in matches])
        if np.abs(vectors @ one.query - stated).max() > _SLACK or np.any(np.diff(stated) > 0):
            wrong.append(f"similarities of {ids.tolist()}")
        there = added.embeddings[: one.answered] @ one.query
        nearer = np.flatnonzero(there > stated[-1] + _SLACK) + count + 1
        if not set(nearer.tolist()) <= set(ids.tolist()):
            wrong.append(f"{sorted(set(nearer.tolist()) - set(ids.tolist()))} were added and not found")
    return wrong


def _live_recall(main: MainIndex, added: _Added, searches: list[_Search]) -> float:
    """Compare a sample with a brute-force search of the live set: all states, and those added by then."""
    answered = [s for s in searches if isinstance(s.outcome, Answer)]
    sample = answered[:: max(1, len(answered) // 300)]
    if not sample:
        return float("nan")
    queries = np.stack([s.query for s in sample])
    rows = _nearest(main.table.embedding, queries)
    found = total = 0
    for one, old in zip(sample, rows, strict=True):
        similarity = np.concatenate(
            (main.table.embedding[old] @ one.query, added.embeddings[: one.answered] @ one.query)
        )
        least = np.sort(similarity)[-NEIGHBORS] - _SLACK
        found += sum(match.similarity >= least for match in one.outcome.value.matches)
        total += NEIGHBORS
    return found / total


def _memory_mb(service: Service) -> dict[str, float]:
    """Return the memory of the server now (VmRSS) and at most (VmHWM), in megabytes."""
    text = Path(f"/proc/{service.ready['pid']}/status").read_text()
    lines = dict(line.split(":", 1) for line in text.splitlines())
    return {name: int(lines[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM")}
