"""Has charts read by the vision server, over connections and breakers of its own."""

from __future__ import annotations

from tradeserve_client.answers import Outcome
from tradeserve_client.channel import TlsFiles, Transport
from tradeserve_client.chart_reading import ChartQuery, ChartReading, ChartReadingClient, ReaderInfo
from tradeserve_client.replicas import ReplicaLimits


class GrpcChartReader:
    """Implements ports.ChartReader on the SDK."""

    def __init__(
        self,
        target: str,
        *,
        deadline_s: float,
        max_in_flight: int,
        tls: TlsFiles | None = None,
        transport: Transport = Transport.GRPC,
    ) -> None:
        """Make one; it connects with the first question.

        Args:
            target: host:port or unix:/path.
            deadline_s: What a reading may take, from the question on.
            max_in_flight: Calls open at once.
            tls: Files for an encrypted connection; None for plain text.
            transport: What carries the calls.

        Raises:
            TradeserveError: The target or a TLS file is unusable.
        """
        self._deadline_s = deadline_s
        self._client = ChartReadingClient(
            target, tls=tls, transport=transport, limits=ReplicaLimits(max_in_flight=max_in_flight)
        )

    async def read(self, query: ChartQuery) -> Outcome[ChartReading]:
        """Ask; return by a deadline of its own, which begins now."""
        return await self._client.read_chart(query, budget=self._deadline_s)

    async def reader(self, timeout_s: float) -> ReaderInfo:
        """Return who reads, and what its card says.

        Raises:
            CallError: No answer.
        """
        return await self._client.reader(timeout_s=timeout_s)

    async def close(self) -> None:
        """Close the channels; nothing of this object runs afterwards."""
        await self._client.close()
