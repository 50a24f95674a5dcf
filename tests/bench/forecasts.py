"""The calls of a decision, models and then the search, through the strategy's own forecaster, back to back."""

from __future__ import annotations

import time

import uuid_utils

from bench.context import Bench, UnavailableError, need
from bench.figures import Figure, median, of_rounds, summary
from bench.in_process import MODELS, InProcess, window_of
from strategy import config
from strategy.adapters.grpc_forecaster import GrpcForecaster
from strategy.composition import forecaster_spec
from strategy.ports import ForecastRequest
from tradeserve_client.channel import Transport

_WARM_UP = 50
# Far away: this measures time, not lateness.
_PATIENT = {"budget.total_ms": "3000", "budget.forecast_ms": "1000", "budget.search_ms": "1000"}


async def measure(bench: Bench, local: InProcess) -> list[Figure]:
    """Ask on the recorded windows, each time next to the same work in this process.

    Raises:
        UnavailableError: There are no windows, or a service did not answer.
    """
    if not bench.windows:
        raise UnavailableError("no session recorded windows")
    targets = {"services.triton.target": bench.triton, "services.similarity.target": bench.similarity}
    shipped = config.load().services.transport
    forecasters = {
        transport.value: GrpcForecaster(
            forecaster_spec(config.load(None, {**targets, **_PATIENT, "services.transport": transport.value}))
        )
        for transport in Transport
    }
    times: dict[str, list[float]] = {transport: [] for transport in forecasters}
    local_ms: list[float] = []
    try:
        for forecaster in forecasters.values():
            await forecaster.start()
        for number in range(-_WARM_UP, bench.size.forecasts):
            raw, event_ns = bench.windows[number % len(bench.windows)]
            # Who goes first changes, so that nobody always finds the caches of the other.
            for transport in sorted(forecasters, reverse=bool(number % 2)):
                took_ms = await _ask(forecasters[transport], raw, event_ns)
                if number >= 0:
                    times[transport].append(took_ms)
            here = local.measure([(raw, event_ns)], 1).total
            if number >= 0:
                local_ms += here
    finally:
        for forecaster in forecasters.values():
            await forecaster.close()
    remote_ms = times[shipped]
    detail = {
        "definition": f"median of {', '.join(MODELS)} in parallel and then the search, through the strategy's "
        "forecaster, one decision after the other, over the median of the same in process, interleaved",
        "transport": shipped,
        "by_transport": {
            transport: {"ratio": round(median(ms) / median(local_ms), 4), "ms": summary(ms)}
            for transport, ms in times.items()
        },
        "forecaster_ms": summary(remote_ms),
        "forecaster_ms_rounds": of_rounds(remote_ms, bench.size.rounds),
        "in_process_ms": summary(local_ms),
        "in_process_ms_rounds": of_rounds(local_ms, bench.size.rounds),
    }
    says = f"all calls of a decision {median(remote_ms):.2f} ms, in process {median(local_ms):.2f} ms"
    return [Figure("forecast_vs_in_process_p50", median(remote_ms) / median(local_ms), "ratio", says, detail)]


async def _ask(forecaster: GrpcForecaster, raw: bytes, event_ns: int) -> float:
    window = window_of(raw)[0]
    began_ns = time.monotonic_ns()
    reply = await forecaster.forecast(ForecastRequest(uuid_utils.uuid7().hex, 1, window, event_ns, began_ns))
    took_ms = (time.monotonic_ns() - began_ns) / 1e6
    for outcome in (*reply.forecasts.values(), reply.neighbors):
        need(outcome)
    return took_ms
