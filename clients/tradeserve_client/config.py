"""Configuration of the clients, in code or as TOML.

    [triton]
    target = "gpu1:8001, gpu2:8001"     # replicas
    max_in_flight = 32
    hedge = true
    [triton.tls]
    ca_file = "ca.pem"                  # beside the file that names it
    [triton.metadata]
    authorization = "Bearer …"

A file < environment variables TRADESERVE_CLIENT__SECTION__KEY, e.g.
TRADESERVE_CLIENT__TRITON__TARGET=127.0.0.1:8001.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from tradeserve_client.bounds import OneOf, Within
from tradeserve_client.channel import TlsFiles, Transport
from tradeserve_client.config_reader import (
    ConfigError,
    Matches,
    Settings,
    build,
    display,
    read_environment,
    read_toml_file,
    shown,
)
from tradeserve_client.replicas import ReplicaLimits
from tradeserve_client.resilience import Resilience

__all__ = [
    "ChartReadingSection",
    "ClientConfig",
    "ConfigError",
    "SimilaritySection",
    "StrategySection",
    "TlsSection",
    "TritonSection",
    "load_config",
]

ENVIRONMENT_PREFIX = "TRADESERVE_CLIENT__"

_ADDRESS = r"(unix:[^,\s]+|[^\s:/,]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5})"
_Targets = Annotated[
    str,
    Matches(rf"|{_ADDRESS}(\s*,\s*{_ADDRESS})*", 'host:port or unix:path, more after commas, or "" for off'),
]
_Target = Annotated[str, Matches(rf"|{_ADDRESS}", 'host:port, unix:path, or "" for off')]
_Sha256 = Annotated[str, Matches(r"|[0-9a-f]{64}", '64 hexadecimal digits, or "" for any')]
_InFlight = Annotated[int, Within(1, 10_000)]
_Failures = Annotated[int, Within(1, 1_000)]
_Share = Annotated[float, Within(0, 0.5)]
_Transport = Annotated[str, OneOf(tuple(transport.value for transport in Transport))]


@dataclass(frozen=True, slots=True)
class TlsSection:
    """TLS to one service; plain text unless something in it is set.

    Attributes:
        enabled: True uses the machine's own certificates when ca_file is "".
        ca_file: PEM certificates that sign the server's; relative to the configuration's file.
        certificate_file: Ours, for mutual TLS; together with key_file.
        key_file: Its private key.
    """

    enabled: bool = False
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""

    @property
    def files(self) -> TlsFiles | None:
        """The files; None for plain text."""
        if not (self.enabled or self.ca_file or self.certificate_file or self.key_file):
            return None
        return TlsFiles(_path(self.ca_file), _path(self.certificate_file), _path(self.key_file))


@dataclass(frozen=True, slots=True)
class TritonSection:
    """Triton.

    Attributes:
        target: host:port of its gRPC, replicas separated by commas; "" = off.
        max_in_flight: Calls open at once per replica; more are shed.
        breaker_failure_count: Failures in a row after which a replica is not asked for a while.
        retry: Send once more when the connection was lost.
        hedge: Send to a second replica when an answer takes longer than 95 % did.
        hedge_share: Hedges per call at most.
        recheck_s: Pause between looks at contracts that hold.
        transport: "grpc" balances over every address behind a name; "http2" is faster.
        tls: Encryption.
        metadata: Headers of every call.
    """

    target: _Targets = ""
    max_in_flight: _InFlight = 32
    breaker_failure_count: _Failures = 5
    retry: bool = True
    hedge: bool = False
    hedge_share: _Share = 0.05
    recheck_s: Annotated[float, Within(0.05, 86_400)] = 5.0
    transport: _Transport = Transport.GRPC.value
    tls: TlsSection = field(default_factory=TlsSection)
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def limits(self) -> ReplicaLimits:
        """Bounds per replica."""
        return ReplicaLimits(self.max_in_flight, self.breaker_failure_count)

    @property
    def resilience(self) -> Resilience:
        """Retries and hedges."""
        return Resilience(retry=self.retry, hedge=self.hedge, hedge_share=self.hedge_share)


@dataclass(frozen=True, slots=True)
class SimilaritySection:
    """The similarity server.

    Attributes:
        target: host:port, replicas separated by commas; "" = off.
        index_sha256: Digest that every answer's index must have; "" accepts any.
        max_in_flight: Calls open at once per replica; more are shed.
        breaker_failure_count: Failures in a row after which a replica is not asked for a while.
        retry: Send once more when the connection was lost.
        hedge: Send to a second replica when an answer takes longer than 95 % did.
        hedge_share: Hedges per call at most.
        transport: "grpc" balances over every address behind a name; "http2" is faster.
        tls: Encryption.
        metadata: Headers of every search.
    """

    target: _Targets = ""
    index_sha256: _Sha256 = ""
    max_in_flight: _InFlight = 32
    breaker_failure_count: _Failures = 5
    retry: bool = True
    hedge: bool = False
    hedge_share: _Share = 0.05
    transport: _Transport = Transport.GRPC.value
    tls: TlsSection = field(default_factory=TlsSection)
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def limits(self) -> ReplicaLimits:
        """Bounds per replica."""
        return ReplicaLimits(self.max_in_flight, self.breaker_failure_count)

    @property
    def resilience(self) -> Resilience:
        """Retries and hedges."""
        return Resilience(retry=self.retry, hedge=self.hedge, hedge_share=self.hedge_share)


@dataclass(frozen=True, slots=True)
class ChartReadingSection:
    """The vision server.

    Attributes:
        target: host:port, replicas separated by commas; "" = off.
        max_in_flight: Calls open at once per replica; more are shed.
        breaker_failure_count: Failures in a row after which a replica is not asked for a while.
        retry: Send once more when the connection was lost.
        transport: "grpc" balances over every address behind a name; "http2" is faster.
        tls: Encryption.
        metadata: Headers of every call.
    """

    target: _Targets = ""
    max_in_flight: _InFlight = 4
    breaker_failure_count: _Failures = 5
    retry: bool = True
    transport: _Transport = Transport.GRPC.value
    tls: TlsSection = field(default_factory=TlsSection)
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def limits(self) -> ReplicaLimits:
        """Bounds per replica."""
        return ReplicaLimits(self.max_in_flight, self.breaker_failure_count)

    @property
    def resilience(self) -> Resilience:
        """Retries."""
        return Resilience(retry=self.retry)


@dataclass(frozen=True, slots=True)
class StrategySection:
    """The control service of a running strategy.

    Attributes:
        target: host:port; "" = off.
        tls: Encryption.
        metadata: Headers of every call.
    """

    target: _Target = ""
    tls: TlsSection = field(default_factory=TlsSection)
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """Where the services are; what has no target is off."""

    triton: TritonSection = field(default_factory=TritonSection)
    similarity: SimilaritySection = field(default_factory=SimilaritySection)
    vision: ChartReadingSection = field(default_factory=ChartReadingSection)
    strategy: StrategySection = field(default_factory=StrategySection)


def load_config(
    path: Path | str | None = None, *, environment: Mapping[str, str] | None = None
) -> ClientConfig:
    """Return the configuration: a file < the environment.

    Args:
        path: TOML; None for the environment alone.
        environment: Usually os.environ; None reads no variables.

    Raises:
        ConfigError: Something in it can't be used; the message names file, key, value and remedy.
    """
    settings: Settings = read_toml_file(Path(path)) if path is not None else {}
    settings = _beside(settings, Path(path).parent) if path is not None else settings
    settings |= read_environment(environment or {}, {}, ENVIRONMENT_PREFIX)
    config = build(ClientConfig, settings)
    for name, section in (
        ("triton", config.triton),
        ("similarity", config.similarity),
        ("vision", config.vision),
        ("strategy", config.strategy),
    ):
        _check_tls(name, section.tls, settings)
    return config


def _check_tls(name: str, tls: TlsSection, settings: Settings) -> None:
    """Refuse what could only fail at the first call.

    Raises:
        ConfigError: A file is not there, or one of certificate and key is missing.
    """
    for key, other in (("certificate_file", "key_file"), ("key_file", "certificate_file")):
        if getattr(tls, key) and not getattr(tls, other):
            setting = settings[f"{name}.tls.{key}"]
            raise ConfigError(
                f"{setting.origin}: {display(f'{name}.tls.{key}')} = {shown(setting)}; "
                f"mutual TLS needs {other} too"
            )
    for key in ("ca_file", "certificate_file", "key_file"):
        text = getattr(tls, key)
        if text and not Path(text).is_file():
            setting = settings[f"{name}.tls.{key}"]
            raise ConfigError(
                f"{setting.origin}: {display(f'{name}.tls.{key}')} = {shown(setting)}; there is no such file"
            )


def _beside(settings: Settings, folder: Path) -> Settings:
    """Return the settings with the files named in them found beside their own file."""
    return {
        key: replace(setting, value=str(folder / setting.value))
        if ".tls." in key and key.endswith("_file") and isinstance(setting.value, str) and setting.value
        else setting
        for key, setting in settings.items()
    }


def _path(text: str) -> Path | None:
    return Path(text) if text else None
