"""Reading charts: our server with vLLM in its process, and over vLLM's own HTTP API against that API alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bench.context import Bench, UnavailableError, need
from bench.figures import Figure, median, of_rounds, summary
from bench.in_process import InProcess
from fakes.charts_to_read import chart_query
from tradeserve_client.chart_messages import read_message
from tradeserve_client.chart_reading import ChartQuery, ChartReading, ChartReadingClient
from tradeserve_client.replicas import ReplicaLimits
from vision_processes import VLLM_VENV, vision_on, vllm_api
from vision_prompt import answer_schema
from vision_server.checkpoint import CARD, PACKAGED, load_card
from vision_server.installation import is_installed
from vision_server.openai_engine import OpenAiEngine
from vision_server.png import PngLimits, read_png
from vision_server.reading_engine import Generated, ReadingJob
from vision_server.requests import parse_read

_BUDGET_S = 120.0
_AT_ONCE = 64
_WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Places:
    """What is compared.

    Attributes:
        in_process: Our server with vLLM in its process, host:port.
        over_http: Our server over the HTTP API, host:port.
        api: The HTTP API, a URL.
    """

    in_process: str
    over_http: str
    api: str


async def measure(bench: Bench, local: InProcess) -> list[Figure]:
    """Start the three, and measure them.

    Raises:
        UnavailableError: vLLM is not installed, or nothing of this is to be measured.
    """
    del local
    if not bench.size.vision_charts:
        raise UnavailableError("a benchmark of a moment leaves it out")
    if not is_installed(VLLM_VENV):
        raise UnavailableError("vLLM is not installed: `make venv-vllm` builds build/venv-vllm (2.5 GB)")
    folder = bench.folder / "vision"
    with contextlib.ExitStack() as running:
        here = await asyncio.to_thread(lambda: running.enter_context(vision_on(folder / "here")))
        url, _ = await asyncio.to_thread(lambda: running.enter_context(vllm_api(folder / "vllm")))
        there = await asyncio.to_thread(
            lambda: running.enter_context(vision_on(folder / "there", "--api-url", url))
        )
        places = Places(here.address, there.address, url)
        return await compare(places, bench.size.vision_charts, bench.size.rounds)


async def compare(places: Places, charts: int, rounds: int) -> list[Figure]:
    """Read the same charts in each way in turn, then many at once.

    Args:
        places: What is compared.
        charts: How many are read one after the other in each way.
        rounds: Parts that the samples are cut into, to show the noise.
    """
    limits = ReplicaLimits(max_in_flight=2 * _AT_ONCE)
    here, there = (ChartReadingClient(at, limits=limits) for at in (places.in_process, places.over_http))
    api = OpenAiEngine(places.api, load_card(PACKAGED / CARD).name)
    times: dict[str, list[float]] = {"in_process": [], "over_http": [], "api": []}
    first_tokens: list[float] = []
    tokens: list[int] = []
    try:
        for number in range(_WARM_UP + charts):
            query = chart_query(10_000 + number)
            job = _job(query)
            ways: dict[str, Callable[[], Awaitable[ChartReading | Generated]]] = {
                "api": lambda job=job: api.generate(job),  # type: ignore[misc]
                "over_http": lambda query=query: _read(there, query),  # type: ignore[misc]
                "in_process": lambda query=query: _read(here, query),  # type: ignore[misc]
            }
            # Each is first as often as the others: the machine is warmer for who comes later.
            names = [*ways][number % 3 :] + [*ways][: number % 3]
            for name in names:
                began = time.perf_counter()
                answer = await ways[name]()
                if number < _WARM_UP:
                    continue
                times[name].append((time.perf_counter() - began) * 1e3)
                if name == "in_process" and isinstance(answer, ChartReading) and answer.record is not None:
                    first_tokens.append(answer.record.first_token_ns / 1e6)
                    tokens.append(answer.record.output_tokens)
        began = time.perf_counter()
        queries = [chart_query(20_000 + number) for number in range(_AT_ONCE)]
        await asyncio.gather(*(_read(here, query) for query in queries))
        rps = _AT_ONCE / (time.perf_counter() - began)
    finally:
        await here.close()
        await there.close()
        await api.stop()
    of_api = {name: _ratios(times[name], times["api"]) for name in ("over_http", "in_process")}
    detail = {name: {**summary(samples), **of_rounds(samples, rounds)} for name, samples in times.items()}
    return [
        Figure("vision_p50_ms", median(times["in_process"]), "ms",
               "one chart read by our server with vLLM in its process, over gRPC",
               {**detail, "output_tokens": summary(tokens)}),
        Figure("vision_first_token_p50_ms", median(first_tokens), "ms",
               "until the first token of it, by vLLM's own clock", summary(first_tokens)),
        Figure("vision_rps_64", rps, "1/s", "charts read per second when 64 come at once", {"charts": _AT_ONCE}),
        Figure("vision_overhead", median(of_api["over_http"]), "ratio",
               "our server over vLLM's HTTP API against that API asked directly, chart by chart",
               {**of_rounds(of_api["over_http"], rounds), "in_process_vs_api": median(of_api["in_process"])}),
    ]  # fmt: skip


def _ratios(ours: list[float], theirs: list[float]) -> list[float]:
    return [one / other for one, other in zip(ours, theirs, strict=True)]


async def _read(client: ChartReadingClient, query: ChartQuery) -> ChartReading:
    return need(await client.read_chart(query, budget=_BUDGET_S))


def _job(query: ChartQuery) -> ReadingJob:
    """Return what our server asks vLLM for a chart."""
    task = parse_read(read_message(query, "direct"))
    schema = json.loads(json.dumps(answer_schema()))
    picture = read_png(query.chart_png, PngLimits())
    sampling = load_card(PACKAGED / CARD).sampling
    prompt = task.prompt
    return ReadingJob("direct", prompt.before_chart, prompt.after_chart, picture, schema, sampling)
