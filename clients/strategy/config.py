"""A strategy's configuration: `strategy.toml` (the defaults) < a file < the environment < overrides.

Environment variables are TRADESERVE__SECTION__KEY, e.g. TRADESERVE__GATEWAY__PORT=4001 or
TRADESERVE__SERVICES__TRITON__TARGET=10.0.0.5:8001; DATABASE_URL sets [journal] database_url.
Overrides (the command line's) have dotted keys: {"gateway.port": 4001}.

    ConfigError: the one error of this module.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from strategy.core.decision import DecisionRules, rules_to_json
from strategy.core.ensemble import EnsembleLimits
from strategy.core.plain import to_json
from strategy.core.policy import PolicyLimits
from strategy.core.risk import RiskLimits
from tradeserve_client.bounds import OneOf, Within
from tradeserve_client.config_reader import (
    ConfigError,
    Matches,
    Settings,
    build,
    display,
    read_environment,
    read_overrides,
    read_toml,
    read_toml_file,
    shown,
)

__all__ = ["ConfigError", "StrategyConfig", "default_toml", "load"]

SIMILARITY = "similarity"
DEFAULTS = "strategy.toml (defaults)"
BAR_SIZES_S = (5, 10, 15, 30, 60, 120, 180, 300, 600, 900, 1200, 1800, 3600, 7200, 10800, 14400, 28800, 86400)
ALIASES = {"DATABASE_URL": "journal.database_url"}

Target = Annotated[
    str,
    Matches(r"|unix:.+|[^\s:/]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", 'host:port, unix:path, or "" for off'),
]
Sha256 = Annotated[str, Matches(r"|[0-9a-f]{64}", '64 hexadecimal digits, or "" for any')]
Name = Annotated[str, Matches(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", "letters, digits, _ . or -, at most 64")]


@dataclass(frozen=True, slots=True)
class StrategySection:
    """What is traded.

    Attributes:
        name: On the screen, in the journal and in the database.
        symbols: Symbols at the broker, at most 100.
        bar_size_s: Seconds per bar; a size that Interactive Brokers has.
        window_bars: Bars that the models see.
    """

    name: Name
    symbols: tuple[str, ...]
    bar_size_s: int
    window_bars: Annotated[int, Within(2, 10_000)]


@dataclass(frozen=True, slots=True)
class TradingSection:
    """With whose money.

    Attributes:
        mode: "paper", or "live", which needs --i-understand-this-trades-real-money as well.
    """

    mode: Annotated[str, OneOf(("paper", "live"))]


@dataclass(frozen=True, slots=True)
class GatewaySection:
    """The connection to IB Gateway, TWS or the simulator.

    Attributes:
        host: Where it listens.
        port: 4002 paper and 4001 live of IB Gateway; 7497 and 7496 of TWS.
        client_id: API client id; two clients with one id throw each other out (error 326).
        connect_timeout_s: For the connection and each reconnection.
        account: Account to trade; "" takes the only one.
        depth_rows: Order book rows per side; 0 = no order book.
        bar_source: "historical" (keepUpToDate, any size) or "realtime" (5-second bars, aggregated).
        currency: Of the contracts.
        exchange: Routing.
    """

    host: str
    port: Annotated[int, Within(1, 65535)]
    client_id: Annotated[int, Within(0, 2**31 - 1)]
    connect_timeout_s: Annotated[float, Within(0.1, 300)]
    account: str
    depth_rows: Annotated[int, Within(0, 100)]
    bar_source: Annotated[str, OneOf(("historical", "realtime"))]
    currency: Annotated[str, Matches(r"[A-Z]{3}", "an ISO 4217 code like USD")]
    exchange: Name


@dataclass(frozen=True, slots=True)
class TritonSection:
    """Triton Inference Server.

    Attributes:
        target: host:port of its gRPC; "" = off.
        max_in_flight: Calls open at once; the next one is refused here (busy).
    """

    target: Target
    max_in_flight: Annotated[int, Within(1, 10_000)]


@dataclass(frozen=True, slots=True)
class SimilaritySection:
    """The similarity server.

    Attributes:
        target: host:port; "" = off.
        index_name: Index to search.
        index_version: Version the strategy was tested with.
        index_sha256: Its digest; "" accepts any.
        neighbor_count: Neighbours asked for.
    """

    target: Target
    index_name: Name
    index_version: Annotated[int, Within(1, 2**31 - 1)]
    index_sha256: Sha256
    neighbor_count: Annotated[int, Within(1, 1000)]


@dataclass(frozen=True, slots=True)
class VisionSection:
    """The vision server.

    Attributes:
        target: host:port; "" = off.
    """

    target: Target


@dataclass(frozen=True, slots=True)
class TlsSection:
    """TLS to the services; all "" is plain text, for one machine.

    Attributes:
        ca_file: Certificates that sign the servers'.
        certificate_file: Ours, for mutual TLS; together with key_file.
        key_file: Its private key.
    """

    ca_file: str
    certificate_file: str
    key_file: str


@dataclass(frozen=True, slots=True)
class ServicesSection:
    """The servers that are asked; see each one.

    Attributes:
        transport: "http2", our own, one connection per target, or "grpc", grpc.aio, which balances over
            every address behind a name.
    """

    transport: Annotated[str, OneOf(("http2", "grpc"))]
    triton: TritonSection
    similarity: SimilaritySection
    vision: VisionSection
    tls: TlsSection


@dataclass(frozen=True, slots=True)
class VoterConfig:
    """One voter; its name is the model's, or "similarity".

    Attributes:
        version: Version the strategy was tested with.
        artifact_sha256: Its digest; "" accepts any.
        weight: Relative weight; 0 is asked and recorded but does not vote.
        embedding: Whether its embedding is what neighbours are searched with.
        enabled: False: not asked at all.
    """

    version: Annotated[int, Within(1, 2**31 - 1)] = 1
    artifact_sha256: Sha256 = ""
    weight: Annotated[float, Within(0, 1000)] = 1.0
    embedding: bool = False
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class BudgetSection:
    """The latency budget of a decision and its shares.

    Attributes:
        total_ms: From the bar on the socket to the order on the socket.
        decode_ms: Decode, bars, window.
        forecast_ms: Each forecast; they run in parallel.
        search_ms: Neighbours, after the embedding and beside what it leaves of its share.
        decide_ms: Ensemble, policy, risk.
        order_ms: Order onto the socket.
    """

    total_ms: Annotated[float, Within(1, 60_000)]
    decode_ms: Annotated[float, Within(0.1, 60_000)]
    forecast_ms: Annotated[float, Within(0.1, 60_000)]
    search_ms: Annotated[float, Within(0.1, 60_000)]
    decide_ms: Annotated[float, Within(0.1, 60_000)]
    order_ms: Annotated[float, Within(0.1, 60_000)]


@dataclass(frozen=True, slots=True)
class JournalSection:
    """Where everything is recorded.

    Attributes:
        database_url: postgresql://…; "" leaves it to DATABASE_URL or the embedded launcher.
        spool_dir: Folder for rows while Postgres is away.
        queue_rows: Telemetry rows waiting in memory; beyond it they go to the spool.
    """

    database_url: Annotated[str, Matches(r"|postgres(ql)?://.+", 'postgresql://…, or "" for none')]
    spool_dir: str
    queue_rows: Annotated[int, Within(1, 10_000_000)]


@dataclass(frozen=True, slots=True)
class ControlSection:
    """How people and other programs reach the running strategy.

    Attributes:
        address: Where its control service listens; port 0 picks one; "" = off.
        kill_file: The kill switch: trading stops while this file exists; "" = none.
    """

    address: Target
    kill_file: str


@dataclass(frozen=True, slots=True)
class TelemetrySection:
    """What monitoring systems are shown.

    Attributes:
        metrics_address: Where Prometheus finds the figures of the run; port 0 picks one; "" = off.
        otlp_endpoint: OpenTelemetry collector that gets a trace of every decision; "" = off.
    """

    metrics_address: Annotated[str, Matches(r"|[^\s:/]+:\d{1,5}", 'host:port, or "" for off')]
    otlp_endpoint: Annotated[
        str, Matches(r"|(https://)?[^\s:/]+:\d{1,5}", 'host:port, https://host:port, or "" for off')
    ]


@dataclass(frozen=True, slots=True)
class ScreenSection:
    """The terminal.

    Attributes:
        colour: "auto" (when it is a terminal), "always" or "never".
    """

    colour: Annotated[str, OneOf(("auto", "always", "never"))]


@dataclass(frozen=True, slots=True)
class StrategyConfig:
    """The whole configuration; `strategy.toml` documents every key."""

    strategy: StrategySection
    trading: TradingSection
    gateway: GatewaySection
    services: ServicesSection
    voters: Mapping[str, VoterConfig]
    budget: BudgetSection
    ensemble: EnsembleLimits
    policy: PolicyLimits
    risk: RiskLimits
    journal: JournalSection
    control: ControlSection
    telemetry: TelemetrySection
    screen: ScreenSection

    @property
    def active_voters(self) -> dict[str, VoterConfig]:
        """Voters that are enabled and whose server is configured, by name."""
        return {name: voter for name, voter in sorted(self.voters.items()) if self._is_active(name, voter)}

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each active voter."""
        return {name: voter.weight for name, voter in self.active_voters.items()}

    @property
    def rules(self) -> DecisionRules:
        """What decisions are made by."""
        return DecisionRules(self.weights, self.ensemble, self.policy, self.risk)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON for the journal, without password and account number.

        `rules` in it is what `strategy.core.decision.remake` needs.
        """
        data: dict[str, Any] = to_json(self)
        data["journal"]["database_url"] = re.sub(r"^(\w+://).*@", r"\1***@", self.journal.database_url)
        data["gateway"]["account"] = f"…{self.gateway.account[-2:]}" if self.gateway.account else ""
        data["rules"] = rules_to_json(self.rules)
        return data

    def _is_active(self, name: str, voter: VoterConfig) -> bool:
        service = self.services.similarity if name == SIMILARITY else self.services.triton
        return voter.enabled and bool(service.target)


def default_toml() -> str:
    """Return the text of the shipped `strategy.toml`."""
    return resources.files("strategy").joinpath("strategy.toml").read_text(encoding="utf-8")


def load(
    path: Path | str | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    live_confirmed: bool = False,
) -> StrategyConfig:
    """Return the configuration: defaults < file < environment < overrides.

    Args:
        path: The user's TOML; None for the defaults alone.
        overrides: Dotted key -> value; text is read as the key's type.
        environment: Usually os.environ; None reads no variables.
        live_confirmed: Whether --i-understand-this-trades-real-money was given.

    Raises:
        ConfigError: Something in it can't be used; the message names file, key, value and remedy.
    """
    settings: Settings = read_toml(default_toml(), DEFAULTS)
    if path is not None:
        settings |= read_toml_file(Path(path))
    settings |= read_environment(environment or {}, ALIASES)
    settings |= read_overrides(overrides or {})
    config = build(StrategyConfig, settings)
    for keys, problem in _contradictions(config, live_confirmed):
        key = _culprit(keys.split(), settings)
        setting = settings[key]
        raise ConfigError(f"{setting.origin}: {display(key)} = {shown(setting)}; {problem}")
    return config


def _culprit(patterns: list[str], settings: Settings) -> str:
    """Return which of the keys that contradict each other the user set; the first one for none."""
    keys = [key for pattern in patterns for key in fnmatch.filter(settings, pattern)]
    return next((key for key in keys if settings[key].origin != DEFAULTS), keys[0])


def _contradictions(config: StrategyConfig, live_confirmed: bool) -> list[tuple[str, str]]:
    """Return (keys, the main one first; what is wrong) for values that are fine alone but not together."""
    strategy, budget, policy, risk = config.strategy, config.budget, config.policy, config.risk
    shares = budget.decode_ms + budget.forecast_ms + budget.search_ms + budget.decide_ms + budget.order_ms
    voting = [name for name, weight in config.weights.items() if weight > 0]
    embedding = [name for name, voter in config.active_voters.items() if voter.embedding]
    searching = SIMILARITY in config.active_voters
    tls = config.services.tls
    symbols = [
        symbol for symbol in strategy.symbols if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ./-]{0,31}", symbol)
    ]
    sizes = ", ".join(map(str, BAR_SIZES_S))
    found = [
        (config.trading.mode == "live" and not live_confirmed, "trading.mode",
         "live trading needs --i-understand-this-trades-real-money as well; paper needs nothing"),
        (not 1 <= len(strategy.symbols) <= 100, "strategy.symbols", "1 to 100 symbols are needed"),
        (len(symbols) != len(strategy.symbols), "strategy.symbols", 'a symbol looks like "AAPL" or "EUR.USD"'),
        (len(set(symbols)) != len(symbols), "strategy.symbols", "a symbol is listed twice"),
        (strategy.bar_size_s not in BAR_SIZES_S, "strategy.bar_size_s", f"expected one of {sizes}"),
        (risk.atr_period_bars >= strategy.window_bars, "risk.atr_period_bars strategy.window_bars",
         f"[risk] atr_period_bars {risk.atr_period_bars} must be below [strategy] window_bars {strategy.window_bars}"),
        (shares > budget.total_ms, "budget.total_ms budget.*",
         f"the shares add up to {shares:g} ms; raise the total or lower a share"),
        (not voting, "ensemble.quorum_voters voters.* services.*.target",
         "no voter is enabled, has a server and a weight above 0"),
        (config.ensemble.quorum_voters > len(voting) > 0, "ensemble.quorum_voters voters.* services.*.target",
         f"the quorum is {config.ensemble.quorum_voters}, but only {len(voting)} can vote: {', '.join(voting)}"),
        (searching and len(embedding) != 1, "services.similarity.target voters.*",
         f"exactly one enabled voter must have embedding = true, not {len(embedding)}; or disable the search"),
        (SIMILARITY in embedding, "voters.similarity.embedding", "the embedding comes from a model"),
        (config.ensemble.min_neighbors > config.services.similarity.neighbor_count,
         "ensemble.min_neighbors services.similarity.neighbor_count",
         "[ensemble] min_neighbors is above [services.similarity] neighbor_count: similarity could never vote"),
        (policy.full_strength_edge < policy.entry_edge, "policy.full_strength_edge policy.entry_edge",
         "[policy] full_strength_edge must be at least entry_edge"),
        (policy.no_entry_last_bars < policy.flatten_last_bars, "policy.no_entry_last_bars policy.flatten_last_bars",
         "[policy] no_entry_last_bars must be at least flatten_last_bars"),
        (risk.min_stop_bps > risk.max_stop_bps, "risk.min_stop_bps risk.max_stop_bps",
         "[risk] min_stop_bps must be at most max_stop_bps"),
        (risk.max_position_pct > risk.max_gross_notional_pct, "risk.max_position_pct risk.max_gross_notional_pct",
         "[risk] max_position_pct must be at most max_gross_notional_pct"),
        (risk.max_orders_per_minute < 3, "risk.max_orders_per_minute", "a bracket alone is 3 orders"),
        (bool(tls.certificate_file) != bool(tls.key_file), "services.tls.certificate_file services.tls.key_file",
         "certificate_file and key_file go together"),
        (bool(tls.certificate_file) and not tls.ca_file, "services.tls.ca_file", "mutual TLS needs it too"),
    ]  # fmt: skip
    return [(key, problem) for wrong, key, problem in found if wrong]
