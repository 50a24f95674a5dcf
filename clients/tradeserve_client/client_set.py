"""The clients of one configuration, made when they are first asked for and closed together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tradeserve_client.channel import Transport
from tradeserve_client.chart_reading import ChartReadingClient
from tradeserve_client.config import ClientConfig, load_config
from tradeserve_client.contract import ExpectedModel
from tradeserve_client.errors import ConfigError
from tradeserve_client.fan_out import OnLate
from tradeserve_client.resilience import OnOutcome
from tradeserve_client.similarity_replicas import SimilarityReplicas
from tradeserve_client.strategy_service import StrategyClient
from tradeserve_client.triton import TritonClient


class Clients:
    """Clients of every service that has a target. Use as an async context manager.

    Attributes:
        config: What they are made from.
    """

    def __init__(
        self,
        config: ClientConfig,
        *,
        expected: Sequence[ExpectedModel] = (),
        on_late: OnLate | None = None,
        on_outcome: OnOutcome | None = None,
    ) -> None:
        """Make the set; nothing is connected yet.

        Args:
            config: Where the services are.
            expected: Contracts of models; a server whose model differs is not asked for it.
            on_late: Told of every answer that came after its deadline; it is never returned.
            on_outcome: Told of what every call gave back, e.g. CallMetrics.observe.
        """
        self.config = config
        self._expected = tuple(expected)
        self._on_late = on_late
        self._on_outcome = on_outcome
        self._triton: TritonClient | None = None
        self._similarity: SimilarityReplicas | None = None
        self._charts: ChartReadingClient | None = None
        self._strategy: StrategyClient | None = None

    @classmethod
    def from_toml(
        cls,
        path: Path | str,
        *,
        environment: Mapping[str, str] | None = None,
        expected: Sequence[ExpectedModel] = (),
        on_late: OnLate | None = None,
        on_outcome: OnOutcome | None = None,
    ) -> Clients:
        """Return the clients of a file.

        Raises:
            ConfigError: Something in it can't be used; the message names file, key, value and remedy.
        """
        return cls(
            load_config(path, environment=environment),
            expected=expected,
            on_late=on_late,
            on_outcome=on_outcome,
        )

    @property
    def triton(self) -> TritonClient:
        """Triton. Needs a running loop the first time, as do the others.

        Raises:
            ConfigError: It has no target.
        """
        if self._triton is None:
            section = self.config.triton
            self._triton = TritonClient(
                _configured("triton", section.target),
                tls=section.tls.files,
                limits=section.limits,
                resilience=section.resilience,
                expected=self._expected,
                recheck_s=section.recheck_s,
                metadata=section.metadata,
                transport=Transport(section.transport),
                on_late=self._on_late,
                on_outcome=self._on_outcome,
            )
        return self._triton

    @property
    def similarity(self) -> SimilarityReplicas:
        """The similarity servers.

        Raises:
            ConfigError: They have no target.
        """
        if self._similarity is None:
            section = self.config.similarity
            self._similarity = SimilarityReplicas(
                _configured("similarity", section.target),
                tls=section.tls.files,
                limits=section.limits,
                resilience=section.resilience,
                index_sha256=section.index_sha256,
                metadata=section.metadata,
                transport=Transport(section.transport),
                on_late=self._on_late,
                on_outcome=self._on_outcome,
            )
        return self._similarity

    @property
    def charts(self) -> ChartReadingClient:
        """The vision server.

        Raises:
            ConfigError: It has no target.
        """
        if self._charts is None:
            section = self.config.vision
            self._charts = ChartReadingClient(
                _configured("vision", section.target),
                tls=section.tls.files,
                limits=section.limits,
                resilience=section.resilience,
                metadata=section.metadata,
                transport=Transport(section.transport),
                on_late=self._on_late,
                on_outcome=self._on_outcome,
            )
        return self._charts

    @property
    def strategy(self) -> StrategyClient:
        """The running strategy.

        Raises:
            ConfigError: It has no target.
        """
        if self._strategy is None:
            section = self.config.strategy
            self._strategy = StrategyClient(
                _configured("strategy", section.target), tls=section.tls.files, metadata=section.metadata
            )
        return self._strategy

    async def close(self) -> None:
        """Close every client that was made."""
        for client in (self._triton, self._similarity, self._charts, self._strategy):
            if client is not None:
                await client.close()
        self._triton = self._similarity = self._charts = self._strategy = None

    async def __aenter__(self) -> Clients:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _configured(name: str, target: str) -> str:
    if not target:
        raise ConfigError(
            f'{name} is off: set [{name}] target = "host:port", or TRADESERVE_CLIENT__{name.upper()}__TARGET'
        )
    return target
