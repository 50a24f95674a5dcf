"""The whole decision: bar on the socket to order on the socket, on the real processes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.context import Bench, UnavailableError
from bench.figures import Figure, median, of_rounds, quantile, summary
from bench.in_process import MODELS, InProcess
from bench.session import SYMBOLS, Trade, Traded, trade
from journal.rows import ModelCallRow
from strategy.ledger import STAGES
from strategy.recording import IN_TIME, NEIGHBORS

_AROUND_MEDIAN = (0.4, 0.6)


_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Work:
    """The work of one decision in this process: milliseconds per window.

    Attributes:
        calls: The models alone.
        total: Models and search, one right after the other.
        paced: The same with a pause before each.
    """

    calls: Sequence[float]
    total: Sequence[float]
    paced: Sequence[float]


async def measure(bench: Bench, local: InProcess) -> list[Figure]:
    """Trade two sessions; between and after them, time the same work in this process.

    Raises:
        UnavailableError: A session sent no order.
    """
    size = bench.size
    together = await trade(bench, "together", SYMBOLS, size.together_bars, size.together_bar_s)
    _need_entries(together)
    bench.windows += [(d.window, d.event_ns) for d in together.decisions][-size.windows :]
    first = local.measure(bench.windows, size.passes)
    alone = await trade(bench, "alone", SYMBOLS[:1], size.alone_bars, size.alone_bar_s)
    _need_entries(alone)
    windows = [(d.window, d.event_ns) for d in alone.decisions][-size.windows :]
    second = local.measure(windows, size.passes)
    paced = local.measure(windows[: size.paced_windows], 1, pause_s=_PAUSE_S)
    work = Work([*first.calls, *second.calls], [*first.total, *second.total], paced.total)
    return [
        *_decision(bench, together, alone),
        *_stages(together.entries),
        _ratio(bench, together, alone, work),
        _garbage(together, alone),
    ]


def _garbage(*sessions: Traded) -> Figure:
    longest_ms = max(traded.garbage.on_path_ms for traded in sessions)
    detail = {
        "definition": "longest collection of Python's garbage collector that ran during a decision, or that ended "
        "in the 10 ms before its bar was read; as the strategies of both sessions reported, to 0.01 ms",
        "collections": sum(traded.garbage.collections for traded in sessions),
        "longest_between_decisions_ms": max(traded.garbage.longest_ms for traded in sessions),
        "decisions": sum(len(traded.decisions) for traded in sessions),
    }
    between_ms = detail["longest_between_decisions_ms"]
    says = f"longest collection on the path of a decision; between decisions {between_ms:.2f} ms"
    return Figure("gc_longest_pause_ms", longest_ms, "ms", says, detail)


def _need_entries(traded: Traded) -> None:
    if not traded.entries:
        raise UnavailableError(f"none of {len(traded.decisions)} decisions sent an order")


def _decision(bench: Bench, together: Traded, alone: Traded) -> list[Figure]:
    wire = [entry.wire_ms for entry in together.entries]
    detail = {
        "instruments_at_once": len(SYMBOLS),
        "wire_ms": summary(wire),
        "wire_ms_rounds": of_rounds(wire, bench.size.rounds),
        "inside_strategy_ms": summary([entry.inside_ms for entry in together.entries]),
        "wire_ms_by_place": _by_place(together.entries),
        "alone_wire_ms": summary([entry.wire_ms for entry in alone.entries]),
        "alone_inside_strategy_ms": summary([entry.inside_ms for entry in alone.entries]),
        "exit_wire_ms": summary([one.wire_ms for one in together.trades if not one.entry]),
        "decisions": len(together.decisions),
        "calls": _calls(together.calls),
        "machine": bench.machine,
    }
    says = f"bar on the socket to order on the socket, {len(SYMBOLS)} instruments' bars at once"
    return [
        Figure("decision_p50_ms", median(wire), "ms", says, detail),
        Figure("decision_p99_ms", quantile(wire, 0.99), "ms", f"{says}, {len(wire)} orders", detail),
    ]


def _by_place(entries: Sequence[Trade]) -> dict[str, dict[str, float]]:
    places: dict[int, list[float]] = defaultdict(list)
    for entry in entries:
        places[entry.place].append(entry.wire_ms)
    return {str(place + 1): summary(samples) for place, samples in sorted(places.items())}


def _calls(calls: Sequence[ModelCallRow]) -> dict[str, Any]:
    """Count the answers per service and outcome; a late answer has a row of its own."""
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    times: dict[str, list[float]] = defaultdict(list)
    for call in calls:
        outcomes[call.service][call.outcome] += 1
        if call.outcome == IN_TIME:
            times[call.service].append((call.received_after_ns - call.sent_after_ns) / 1e6)
    return {
        service: {"outcomes": dict(counts), "round_trip_ms": summary(times[service])}
        for service, counts in sorted(outcomes.items())
    }


def _stages(entries: Sequence[Trade]) -> list[Figure]:
    """Return each stage's share of the decisions around the median one, so that the shares add up to 1."""
    totals = [entry.inside_ms for entry in entries]
    low, high = (quantile(totals, share) for share in _AROUND_MEDIAN)
    middle = [entry for entry in entries if low <= entry.inside_ms <= high]
    whole = sum(entry.inside_ms for entry in middle)
    figures = []
    for stage in STAGES:
        share = sum(entry.decision.ledger.get(stage, 0) for entry in middle) / 1e6 / whole
        spans = [entry.decision.ledger.get(stage, 0) / 1e6 for entry in entries]
        says = f"{_STAGE_NAMES[stage]}: {median(spans):.3f} ms p50"
        figures.append(Figure(f"stage_{stage}_share", share, "share", says, {"ms": summary(spans)}))
    return figures


_STAGE_NAMES = {
    "window": "bar off the socket to window",
    "forecasts": "calls to models and index",
    "decide": "ensemble, policy, risk",
    "intent": "intent durable on the disk",
    "order": "order on the socket",
}


def _ratio(bench: Bench, together: Traded, alone: Traded, work: Work) -> Figure:
    one_ms, calls_ms = median(work.total), median(work.calls)
    alone_ms = median([entry.wire_ms for entry in alone.entries])
    forecasts = [entry.decision.ledger["forecasts"] / 1e6 for entry in alone.entries]
    # Bars that close at once wait for each other in one process too.
    waits_ms = median([one_ms * (entry.place + 1) for entry in together.entries])
    together_ms = median([entry.wire_ms for entry in together.entries])
    detail = {
        "definition": "median of bar on the socket to order on the socket, one instrument, over the median of "
        f"{', '.join(MODELS)} with onnxruntime (1 thread) one after the other and an exact FAISS search of 16 "
        "in the shipped index, on recorded windows, in one process, in the same run",
        "decision_ms": round(alone_ms, 4),
        "in_process_ms": summary(work.total),
        "in_process_ms_rounds": of_rounds(work.total, bench.size.rounds),
        "in_process_paced_ms": {
            **summary(work.paced),
            "definition": f"the same with a pause of {1000 * _PAUSE_S:.0f} ms before each, as decisions have: "
            "models and index are no longer in the processor's caches",
        },
        "against_paced": round(alone_ms / median(work.paced), 4),
        "without_search": round(alone_ms / calls_ms, 4),
        "forecast_stage_ms": summary(forecasts),
        "forecast_stage_only": round(median(forecasts) / one_ms, 4),
        "together": {
            "ratio": round(together_ms / waits_ms, 4),
            "decision_ms": round(together_ms, 4),
            "in_process_ms": round(waits_ms, 4),
            "definition": "bars of three instruments at once, against the same work in process, where the "
            "second and the third wait for the one before",
        },
        "searches_in_time": sum(c.service == NEIGHBORS and c.outcome == IN_TIME for c in alone.calls),
    }
    says = f"decision {alone_ms:.2f} ms alone, the same models and search in process {one_ms:.2f} ms"
    return Figure("order_vs_in_process_p50", alone_ms / one_ms, "ratio", says, detail)
