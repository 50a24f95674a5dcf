"""Puts one run together from its configuration, and takes it apart again."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import structlog
import uuid_utils

from journal.errors import JournalError
from journal.migrations import check_database
from journal.queries import JournalReader
from journal.rows import Run
from journal.writer import Journal
from server_runtime.errors import StartError
from server_runtime.metrics import ServerMetrics
from server_runtime.ready import remove_ready_file, write_ready_file
from server_runtime.server import GrpcServer
from server_runtime.tracing import SpanSender
from strategy import report
from strategy.adapters.clock import SystemClock
from strategy.adapters.control import SERVICE, StrategyServicer, control_options, register
from strategy.adapters.forecaster_specs import ForecasterSpec, IndexSpec, VoterSpec
from strategy.adapters.grpc_forecaster import GrpcForecaster
from strategy.adapters.ibkr_broker import IbkrBroker
from strategy.adapters.ibkr_connection import IbkrConnection
from strategy.adapters.ibkr_feed import IbkrFeed
from strategy.adapters.metrics import RunCollector
from strategy.adapters.shadow_forecaster import GrpcShadowForecaster
from strategy.adapters.tracing import DecisionTracer
from strategy.config import SIMILARITY, StrategyConfig
from strategy.engine import Engine
from strategy.garbage import GarbageKeeper
from strategy.market_view import MarketView
from strategy.ports import LateAnswer, VoterInfo
from strategy.screen import Screen
from strategy.situation import RunSettings
from strategy.trading_state import TradingGate, TradingState
from strategy.vision import VisionPlan
from strategy.vision_setup import open_vision, recorded_plan
from tradeserve_client.channel import TlsFiles, Transport

_log = structlog.get_logger(__name__)

DEFAULT_LOOK = 'psql "{url}" -c "{sql}"'

_EMBEDDING_DIMENSION = 128
_CLOSE_S = 10.0
_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line adds to the configuration.

    Attributes:
        state_dir: Where the kill switch is latched.
        data_source: What the market data are: "generated", "sample", "recorded: …" or "gateway".
        seed: Of a generated market.
        until_ns: Exchange time at which the run ends; None runs until it is stopped.
        live_confirmed: A person confirmed live trading.
        look: Command line, with {sql} and {url}, that the report shows for looking at the rows.
        ready_file: Written while the control service listens: pid, address, run_id.
    """

    state_dir: Path
    data_source: str = "gateway"
    seed: int | None = None
    until_ns: int | None = None
    live_confirmed: bool = False
    look: str = DEFAULT_LOOK
    ready_file: Path | None = None


async def run(config: StrategyConfig, options: RunOptions) -> None:
    """Trade one run and print its report.

    Raises:
        AdapterError, ContractError, JournalError, StartError: It can't begin; the message says what to do.
        asyncio.CancelledError: It was told to stop before it traded; everything is closed.
    """
    stop = _Stop()
    screen = Screen(config.screen.colour)
    run_id = str(uuid_utils.uuid7())
    structlog.contextvars.bind_contextvars(run_id=run_id)
    clock = SystemClock()
    engine: Engine | None = None
    garbage = GarbageKeeper()

    def late(answer: LateAnswer) -> None:
        if engine is not None:
            engine.on_late(answer)

    def state(now: TradingState, reason: str) -> None:
        if engine is not None:
            engine.on_state(now, reason)

    def recording(text: str) -> None:
        if engine is None:
            screen.line(f"journal: {text}")
        else:
            engine.on_recording(text)

    screen.line(
        f"run {run_id}: {config.strategy.name}, {config.trading.mode} trading, data: {options.data_source}"
    )
    # What nobody could look into afterwards must not begin; lost later, the journal spools.
    await check_database(config.journal.database_url)
    async with AsyncExitStack() as stack:
        forecaster = GrpcForecaster(forecaster_spec(config), on_late=late, **_tls(config))
        stack.push_async_callback(forecaster.close)
        voters = await forecaster.start()
        screen.voters(voters)
        vision = await open_vision(config, _tls(config).get("triton_tls"), stack, screen.line)
        journal = await Journal.open(
            config.journal.database_url,
            _run_row(run_id, config, options, voters, clock.wall_ns(), vision),
            spool_dir=Path(config.journal.spool_dir),
            queue_rows=config.journal.queue_rows,
            on_state=recording,
        )
        stack.push_async_callback(journal.close, _CLOSE_S)
        stack.push_async_callback(forecaster.close)  # before the journal: its late answers are recorded
        trace = None
        if config.telemetry.otlp_endpoint:
            spans = SpanSender("strategy", config.telemetry.otlp_endpoint)
            stack.push_async_callback(asyncio.to_thread, spans.close)
            trace = DecisionTracer(spans)
        connection = _connection(config)
        broker = IbkrBroker(connection)
        stack.push_async_callback(broker.close)
        feed = _feed(config, connection)
        stack.push_async_callback(feed.close)
        engine = Engine(
            _settings(run_id, config, options),
            config.rules,
            MarketView(config.strategy.bar_size_s, config.strategy.window_bars, options.until_ns),
            clock=clock,
            feed=feed,
            broker=broker,
            forecaster=forecaster,
            journal=journal,
            gate=TradingGate(options.state_dir / "killed.json", state),
            screen=screen,
            voters=voters,
            rows=lambda: _counts(journal),
            trace=trace,
            garbage=garbage,
            shadow=_shadow(config, stack, screen),
            vision=vision,
        )
        metrics = ServerMetrics()
        metrics.registry.register(RunCollector(engine, lambda: _counts(journal)))
        if config.telemetry.metrics_address:
            stack.push_async_callback(asyncio.to_thread, metrics.stop_http)  # a scrape may wait for this loop
            address = _serve_metrics(metrics, config.telemetry.metrics_address)
            screen.line(f"metrics: http://{address}/metrics")
        if config.control.address:
            control = _control(config, engine, metrics)
            address = await _listen(control, config.control.address)
            screen.line(f"control: {SERVICE} at {address}")
            stack.push_async_callback(control.stop)
            if options.ready_file is not None:
                content = {"pid": os.getpid(), "address": address, "run_id": run_id}
                write_ready_file(options.ready_file, content)
                stack.callback(remove_ready_file, options.ready_file)
        stop.engine = engine
        garbage.start()
        stack.callback(garbage.stop)
        await engine.run()
    recorded = await _recorded(journal, config, options, run_id)
    for line in _report(run_id, config, options, engine, recorded, garbage):
        screen.line(line)


class _Stop:
    """What SIGINT and SIGTERM do: end the trading, or else the start, and never the cleaning up."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self._starting = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self)

    def __call__(self) -> None:
        starting, self._starting = self._starting, None
        if self.engine is not None and self.engine.started:
            self.engine.stop()
        elif starting is not None:
            starting.cancel()


def _connection(config: StrategyConfig) -> IbkrConnection:
    gateway = config.gateway
    return IbkrConnection(
        gateway.host,
        gateway.port,
        gateway.client_id,
        account=gateway.account,
        paper_only=config.trading.mode == "paper",
        connect_timeout_s=gateway.connect_timeout_s,
    )


def _feed(config: StrategyConfig, connection: IbkrConnection) -> IbkrFeed:
    return IbkrFeed(
        connection,
        bar_size_s=config.strategy.bar_size_s,
        history_bars=config.strategy.window_bars,
        bar_source=config.gateway.bar_source,
        depth_rows=config.gateway.depth_rows,
        currency=config.gateway.currency,
        exchange=config.gateway.exchange,
    )


def _settings(run_id: str, config: StrategyConfig, options: RunOptions) -> RunSettings:
    return RunSettings(
        run_id=run_id,
        symbols=config.strategy.symbols,
        trading_mode=config.trading.mode,
        live_confirmed=options.live_confirmed,
        budget_ms=config.budget.total_ms,
        kill_file=Path(config.control.kill_file) if config.control.kill_file else None,
        shadow_in_flight=config.shadow.max_in_flight,
    )


def forecaster_spec(config: StrategyConfig) -> ForecasterSpec:
    """Return what the forecaster is told, from the configuration."""
    budget = config.budget
    voters = tuple(
        VoterSpec(name, voter.version, voter.artifact_sha256, _EMBEDDING_DIMENSION if voter.embedding else 0)
        for name, voter in config.voters.items()
        if voter.enabled and name != SIMILARITY
    )
    similarity = config.services.similarity
    return ForecasterSpec(
        triton_target=config.services.triton.target,
        voters=voters,
        index=IndexSpec(
            similarity.target,
            similarity.index_name,
            similarity.index_version,
            similarity.index_sha256,
            similarity.neighbor_count,
        ),
        forecast_share_ns=int(budget.forecast_ms * _MS),
        search_share_ns=int(budget.search_ms * _MS),
        total_ns=int((budget.total_ms - budget.decide_ms - budget.order_ms) * _MS),
        window_bars=config.strategy.window_bars,
        bar_size_s=config.strategy.bar_size_s,
        max_in_flight=config.services.triton.max_in_flight,
        transport=Transport(config.services.transport),
        traced=bool(config.telemetry.otlp_endpoint),
        retry=config.services.replicas.retry,
        hedge_share=config.services.replicas.hedge_share,
    )


def _shadow(config: StrategyConfig, stack: AsyncExitStack, screen: Screen) -> GrpcShadowForecaster | None:
    if not config.shadow.max_in_flight or not config.services.triton.target:
        return None
    shadow = GrpcShadowForecaster(
        forecaster_spec(config),
        deadline_ns=int(config.shadow.deadline_ms * _MS),
        max_in_flight=config.shadow.max_in_flight,
        on_change=lambda words: screen.line(f"shadow: {words}"),
        tls=_tls(config).get("triton_tls"),
    )
    shadow.open()
    stack.push_async_callback(shadow.close)
    return shadow


def _tls(config: StrategyConfig) -> Mapping[str, Any]:
    tls = config.services.tls
    if not tls.ca_file:
        return {}
    files = TlsFiles(
        *(Path(name) if name else None for name in (tls.ca_file, tls.certificate_file, tls.key_file))
    )
    return {"triton_tls": files, "similarity_tls": files}


def _run_row(
    run_id: str,
    config: StrategyConfig,
    options: RunOptions,
    voters: Sequence[VoterInfo],
    started_ns: int,
    vision: VisionPlan | None,
) -> Run:
    return Run(
        run_id=run_id,
        started_ns=started_ns,
        strategy_name=config.strategy.name,
        trading_mode=config.trading.mode,
        data_source=options.data_source,
        seed=options.seed,
        code_version=metadata.version("tradeserve"),
        config={**config.to_json(), **recorded_plan(vision)},
        models=[asdict(voter) for voter in voters],
    )


def _control(config: StrategyConfig, engine: Engine, metrics: ServerMetrics) -> GrpcServer:
    host, _, port = config.control.address.rpartition(":")
    server = GrpcServer(control_options(host, int(port), config.control.transport), metrics)
    server.add_service(SERVICE, register(StrategyServicer(engine)))
    return server


def _counts(journal: Journal) -> tuple[int, int]:
    tables = journal.stats().tables.values()
    return sum(table.written for table in tables), sum(table.spooled + table.queued for table in tables)


async def _recorded(
    journal: Journal, config: StrategyConfig, options: RunOptions, run_id: str
) -> report.Recorded:
    """Count what is in Postgres now, not what was sent to it."""
    stats = journal.stats()
    try:
        async with asyncio.timeout(_CLOSE_S), JournalReader(config.journal.database_url) as reader:
            tables = await reader.row_counts(run_id)
    except (JournalError, TimeoutError) as error:
        _log.warning("rows not counted", error=str(error))
        tables = {}
    return report.Recorded(
        tables=tables,
        waiting=_counts(journal)[1],
        dropped=sum(table.dropped + table.rejected for table in stats.tables.values()),
        look=_look(config, options, run_id),
    )


def _look(config: StrategyConfig, options: RunOptions, run_id: str) -> str:
    """Return a command line for a person; psql asks for the password, which is not shown."""
    sql = f"select * from v_decisions where run_id = '{run_id}' order by event_time limit 20"  # noqa: S608 - shown, not run
    url = re.sub(r"(://[^:/@]+):[^@]*@", r"\1@", config.journal.database_url)
    return options.look.format(sql=sql, url=url)


async def _listen(control: GrpcServer, address: str) -> str:
    try:
        return await control.start()
    except StartError as error:
        problem = str(error).partition(":")[0]
        raise StartError(
            f"control.address {address}: {problem}; stop what listens there, or set another (port 0 picks a free one)"
        ) from error


def _serve_metrics(metrics: ServerMetrics, address: str) -> str:
    host, _, port = address.rpartition(":")
    try:
        return f"{host}:{metrics.start_http(host, int(port))}"
    except StartError as error:
        problem = str(error).partition(": choose")[0]
        raise StartError(
            f"telemetry.metrics_address {address}: {problem}; set another (port 0 picks a free one)"
        ) from error


def _report(
    run_id: str,
    config: StrategyConfig,
    options: RunOptions,
    engine: Engine,
    recorded: report.Recorded,
    garbage: GarbageKeeper,
) -> Iterator[str]:
    return report.lines(
        run_id=run_id,
        data_source=options.data_source,
        mode=config.trading.mode,
        voters=engine.voters,
        ledger=engine.ledger,
        money=engine.portfolio.money(),
        recorded=recorded,
        garbage=garbage,
        budget_ms=config.budget.total_ms,
    )
