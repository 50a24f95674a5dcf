"""One trading session through the real processes: the stamps it left on the wire, the rows in Postgres."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.context import Bench, UnavailableError
from gateway_simulator.generated import generate
from journal.queries import JournalReader
from journal.rows import DecisionRow, ModelCallRow, OrderIntentRow
from local_stack.process import Service, StackError
from strategy.core.values import Purpose, intent_id_of

SYMBOLS = ("ALFA", "BRVO", "CHRL")
_BAR_SIZE_S = 60
_SEED = 7
_START_S = 60.0
_GARBAGE = re.compile(
    r"Garbage +(\d+) collections, the longest ([\d.]+) ms; on the path .* ([\d.]+) ms at most"
)
_CONFIG = Path(__file__).with_name("strategy.toml")


@dataclass(frozen=True, slots=True)
class Trade:
    """One order of a session, with the decision behind it.

    Attributes:
        decision: As it was recorded.
        entry: An entry; False for an exit, which waits until its stop is cancelled.
        wire_ms: From the bar's close handed to the gateway's socket to the order's first message off it.
        place: 0 for the first instrument whose bar closed at that instant, 1 for the second, …
    """

    decision: DecisionRow
    entry: bool
    wire_ms: float
    place: int

    @property
    def inside_ms(self) -> float:
        """Inside the strategy: from the bar off its socket to the order on its socket."""
        return sum(self.decision.ledger.values()) / 1e6


@dataclass(frozen=True, slots=True)
class Garbage:
    """What the strategy's report says of Python's garbage collector.

    Attributes:
        collections: In the session.
        longest_ms: The longest of them.
        on_path_ms: The longest that a decision, or its bar on the socket, had to wait for.
    """

    collections: int
    longest_ms: float
    on_path_ms: float


@dataclass(frozen=True, slots=True)
class Traded:
    """What a session left behind."""

    trades: Sequence[Trade]
    garbage: Garbage
    decisions: Sequence[DecisionRow]
    calls: Sequence[ModelCallRow]

    @property
    def entries(self) -> list[Trade]:
        """Return the orders that went out by the straight path."""
        return [trade for trade in self.trades if trade.entry]


async def trade(bench: Bench, name: str, symbols: Sequence[str], bars: int, bar_s: float) -> Traded:
    """Trade so many bars of the generated market, one every `bar_s` wall seconds.

    Raises:
        UnavailableError: The session did not go through.
    """
    folder = bench.folder / name
    folder.mkdir()
    wire_log, screen = folder / "wire.jsonl", folder / "screen.txt"
    until_ns = generate(symbols, bar_size_s=_BAR_SIZE_S, seed=_SEED).slots[bars - 1].end_ns
    gateway = _gateway(folder, symbols, bar_s, wire_log)
    try:
        await gateway.start()
        command = _stack(bench, folder, gateway.address, symbols, until_ns)
        await _run(command, screen, bench.database_url, _START_S + 2 * bars * bar_s)
    except StackError as error:
        raise UnavailableError(str(error)) from error
    finally:
        await gateway.stop()
    async with JournalReader(bench.database_url) as reader:
        run_id = (await reader.runs(1))[0].run.run_id
        decisions = await reader.decisions(run_id)
        intents = await reader.rows_of(OrderIntentRow, run_id)
        calls = await reader.rows_of(ModelCallRow, run_id)
    if not decisions:
        raise UnavailableError(f"the session's decisions did not get into Postgres in time; see {screen}")
    return Traded(_joined(wire_log, decisions, intents), _garbage(screen), decisions, calls)


def _gateway(folder: Path, symbols: Sequence[str], bar_s: float, wire_log: Path) -> Service:
    """Return a gateway that stamps; it keeps no state file, whose writing would delay its stamps."""
    arguments = {
        "--symbols": ",".join(symbols),
        "--bar-size-s": str(_BAR_SIZE_S),
        "--seed": str(_SEED),
        "--speed": str(_BAR_SIZE_S / bar_s),
        "--port": "0",
        "--wire-log": str(wire_log),
    }
    command = [sys.executable, "-m", "gateway_simulator"]
    return Service("gateway", [*command, *_words(arguments)], folder)


def _stack(bench: Bench, folder: Path, gateway: str, symbols: Sequence[str], until_ns: int) -> Sequence[str]:
    """Return the command that trades with the servers that run, until an exchange time."""
    arguments = {
        "--symbols": ",".join(symbols),
        "--gateway": gateway,
        "--triton": bench.triton,
        "--similarity": bench.similarity,
        "--config": str(_CONFIG),
        "--build-dir": str(folder),
    }
    command = [sys.executable, "-m", "local_stack", *_words(arguments)]
    settings = (
        f"strategy.bar_size_s={_BAR_SIZE_S}",
        f"journal.spool_dir={folder / 'spool'}",
        *bench.size.settings,
    )
    strategy = ["--until-ns", str(until_ns), "--data-source", "generated"]
    strategy += [word for setting in settings for word in ("--set", setting)]
    return [*command, *(f"--strategy-arg={word}" for word in strategy)]


def _words(arguments: Mapping[str, str]) -> list[str]:
    return [word for pair in arguments.items() for word in pair]


async def _run(command: Sequence[str], screen: Path, database_url: str, timeout_s: float) -> None:
    with screen.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, "DATABASE_URL": database_url},
        )
    try:
        async with asyncio.timeout(timeout_s):
            status = await process.wait()
    except TimeoutError:
        raise UnavailableError(f"the session did not end within {timeout_s:.0f} s; see {screen}") from None
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if status:
        raise UnavailableError(f"the session ended with status {status}: {_last_line(screen)}; see {screen}")


def _garbage(screen: Path) -> Garbage:
    found = _GARBAGE.search(screen.read_text(errors="replace"))
    if found is None:
        raise UnavailableError(f"the report says nothing of the garbage collector; see {screen}")
    return Garbage(int(found[1]), float(found[2]), float(found[3]))


def _last_line(screen: Path) -> str:
    return screen.read_text(errors="replace").strip().rsplit("\n", 1)[-1]


def _joined(
    wire_log: Path, decisions: Sequence[DecisionRow], intents: Sequence[OrderIntentRow]
) -> list[Trade]:
    """Match each order on the wire with the bar that caused it."""
    sent: dict[tuple[int, int], int] = {}
    ordered: dict[str, int] = {}
    for line in wire_log.read_text().splitlines():
        stamp = json.loads(line)
        if stamp["kind"] == "bar_close_sent":
            sent.setdefault((stamp["con_id"], stamp["bar_end_ns"]), stamp["ns"])
        else:
            ordered.setdefault(intent_id_of(stamp["order_ref"]) or "", stamp["ns"])
    instants: dict[int, list[int]] = defaultdict(list)
    for (_, bar_end_ns), ns in sent.items():
        instants[bar_end_ns].append(ns)
    by_id = {decision.decision_id: decision for decision in decisions}
    trades = []
    for intent in intents:
        decision = by_id.get(intent.decision_id)
        if decision is None or intent.intent_id not in ordered:
            continue  # a flatten at the session's end
        sent_ns = sent[decision.con_id, decision.event_ns]
        place = sorted(instants[decision.event_ns]).index(sent_ns)
        wire_ms = (ordered[intent.intent_id] - sent_ns) / 1e6
        trades.append(Trade(decision, intent.purpose == Purpose.ENTRY.value, wire_ms, place))
    return trades
