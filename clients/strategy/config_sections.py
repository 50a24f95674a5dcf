"""The sections of a strategy's configuration; `strategy.toml` says what each key is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from strategy.core.vision import VisionLimits
from tradeserve_client.bounds import OneOf, Within
from tradeserve_client.config_reader import Matches

Target = Annotated[
    str,
    Matches(r"|unix:.+|[^\s:/]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", 'host:port, unix:path, or "" for off'),
]
_ADDRESS = r"(unix:[^,\s]+|[^\s:/,]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5})"
Targets = Annotated[
    str,
    Matches(rf"|{_ADDRESS}(\s*,\s*{_ADDRESS})*", 'host:port or unix:path, more after commas, or "" for off'),
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
        target: host:port of its gRPC, replicas separated by commas; "" = off.
        max_in_flight: Calls open at once per model and replica; the next one is refused here (busy).
    """

    target: Targets
    max_in_flight: Annotated[int, Within(1, 10_000)]


@dataclass(frozen=True, slots=True)
class SimilaritySection:
    """The similarity server.

    Attributes:
        target: host:port, replicas separated by commas; "" = off.
        index_name: Index to search.
        index_version: Version the strategy was tested with.
        index_sha256: Its digest; "" accepts any.
        neighbor_count: Neighbours asked for.
    """

    target: Targets
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
class ReplicasSection:
    """What is done where a target names several servers; with one it costs nothing.

    Attributes:
        retry: Send a call once more, to another one, when its connection was lost and the budget allows.
        hedge_share: Calls sent to a second one because the first is slower than 95 % were, per call at
            most; 0 = none.
    """

    retry: bool
    hedge_share: Annotated[float, Within(0, 0.5)]


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
    replicas: ReplicasSection
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
class ShadowSection:
    """Versions that are tried on live traffic: asked after each decision, recorded, never used.

    Attributes:
        max_in_flight: Questions open at once; one more is dropped and counted. 0 = none is asked.
        deadline_ms: What an answer may take.
    """

    max_in_flight: Annotated[int, Within(0, 1000)]
    deadline_ms: Annotated[float, Within(1, 60_000)]


@dataclass(frozen=True, slots=True)
class ReadingsSection:
    """How the vision server is asked about charts, and how far its readings are heard.

    Attributes:
        max_in_flight: Questions open at once; 0 = none is asked.
        deadline_ms: What a reading may take.
        lifetime_bars: Bars after the chart's last one in which its reading is heard.
        min_trust: Trust below which a reading is not heard.
        veto_weight: Confidence x trust from which on entries against a reading are vetoed.
        smallest_share: Part of its strength that a shrunk entry keeps at least.
        min_calibration_count: Outcomes below which a calibration is not used.
        calibration_file: What `calibrate-vision` wrote; "" = not calibrated.
        calibration_sha256: Its digest; "" accepts any.
    """

    max_in_flight: Annotated[int, Within(0, 1000)]
    deadline_ms: Annotated[float, Within(1, 60_000)]
    lifetime_bars: Annotated[int, Within(1, 1000)]
    min_trust: Annotated[float, Within(0, 1)]
    veto_weight: Annotated[float, Within(0, 1)]
    smallest_share: Annotated[float, Within(0.01, 1)]
    min_calibration_count: Annotated[int, Within(1, 10_000_000)]
    calibration_file: str
    calibration_sha256: Sha256

    @property
    def limits(self) -> VisionLimits:
        """How far readings are heard."""
        return VisionLimits(
            self.lifetime_bars,
            self.min_trust,
            self.veto_weight,
            self.smallest_share,
            self.min_calibration_count,
        )


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
        transport: "http2", our own, which costs the event loop that trades a tenth, or "grpc", grpc.aio.
    """

    address: Target
    kill_file: str
    transport: Annotated[str, OneOf(("http2", "grpc"))]


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
