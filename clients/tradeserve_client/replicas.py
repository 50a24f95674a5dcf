"""Several servers of one service: a watched connection and a breaker to each, and which one to ask."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import grpc
import grpc.aio

from tradeserve_client.breaker import BreakerState, CircuitBreaker
from tradeserve_client.budget import ClockNs
from tradeserve_client.channel import Link, TlsFiles, Transport
from tradeserve_client.errors import TradeserveError
from tradeserve_client.lane import Lane
from tradeserve_client.metadata import MetadataChannel, MetadataSource

Targets: TypeAlias = str | Sequence[str]
"""One target, several separated by commas, or a sequence of them."""

MAX_REPLICAS = 64
MAX_LANES = 256


@dataclass(frozen=True, slots=True)
class ReplicaLimits:
    """Bounds per replica.

    Attributes:
        max_in_flight: Calls open at once, over all models; more go to another replica or are shed.
        breaker_failure_count: Failures in a row after which it is not asked for a while.
    """

    max_in_flight: int = 32
    breaker_failure_count: int = 5


class Replica:
    """One server.

    Attributes:
        link: Its channel, watched.
        channel: The same with the client's metadata on every call; for stubs.
        metadata: The client's, which whoever starts a call on a lane adds to it.
    """

    __slots__ = ("_clock_ns", "_lanes", "_limits", "channel", "link", "metadata")

    def __init__(
        self,
        target: str,
        *,
        tls: TlsFiles | None,
        metadata: MetadataSource,
        limits: ReplicaLimits,
        clock_ns: ClockNs,
        transport: Transport = Transport.GRPC,
    ) -> None:
        self.link = Link(target, tls=tls, transport=transport)
        # It has what callers need of a channel; grpc has no narrower type for that.
        self.channel = cast("grpc.aio.Channel", MetadataChannel(self.link.channel, metadata))
        self.metadata = metadata
        self._limits = limits
        self._clock_ns = clock_ns
        self._lanes: dict[tuple[str, str], Lane] = {}

    @property
    def target(self) -> str:
        """Where it is."""
        return self.link.target

    @property
    def in_flight(self) -> int:
        """Calls running now."""
        return sum(lane.in_flight for lane in self._lanes.values())

    @property
    def is_full(self) -> bool:
        """Whether another call would be one too many."""
        return self.in_flight >= self._limits.max_in_flight

    def lane(self, service: str, method: str) -> Lane:
        """Return the way to one service or model on this server.

        Raises:
            TradeserveError: More services than a client keeps track of.
        """
        lane = self._lanes.get((service, method))
        if lane is None:
            if len(self._lanes) >= MAX_LANES:
                raise TradeserveError(
                    f"{self.target}: more than {MAX_LANES} models; use another client for others"
                )
            lane = self._lanes[service, method] = Lane(
                service,
                self.link.channel,
                method,
                breaker=CircuitBreaker(self._clock_ns, failure_count=self._limits.breaker_failure_count),
                max_in_flight=self._limits.max_in_flight,
            )
        return lane


class ReplicaSet:
    """The servers of one service.

    Attributes:
        replicas: In the order given.
    """

    def __init__(
        self,
        targets: Targets,
        *,
        tls: TlsFiles | None = None,
        metadata: MetadataSource | None = None,
        limits: ReplicaLimits | None = None,
        clock_ns: ClockNs,
        transport: Transport = Transport.GRPC,
    ) -> None:
        addresses = split_targets(targets)
        self.replicas = tuple(
            Replica(
                target,
                tls=tls,
                metadata=metadata or {},
                limits=limits or ReplicaLimits(),
                clock_ns=clock_ns,
                transport=transport,
            )
            for target in addresses
        )
        self._turns: dict[str, int] = {}

    def open(self) -> None:
        """Start connecting to all of them. Needs a running loop."""
        for replica in self.replicas:
            replica.link.open()

    async def ready(self, timeout_s: float) -> bool:
        """Wait for a connection to the first that has one, bounded; return whether there is one."""
        self.open()
        return await any_ready([replica.link for replica in self.replicas], timeout_s)

    def pick(
        self, service: str, method: str, may_ask: Callable[[Replica], bool], without: Replica | None = None
    ) -> Replica | None:
        """Return the replica to ask: connected, breaker closed, the fewest calls in flight.

        One that is not well is returned only when no better one may be asked, so that the call's
        outcome says what is wrong with it. None when none may be asked.
        """
        if len(self.replicas) == 1:  # nothing to choose: the call itself finds out how it is
            only = self.replicas[0]
            return only if only is not without and may_ask(only) else None
        best: Replica | None = None
        best_rank: tuple[int, int] | None = None
        count = len(self.replicas)
        # A turn per service: with one for all, two models asked in turn would stick to a server each.
        turn = self._turns[service] = (self._turns.get(service, 0) + 1) % count
        for offset in range(count):
            replica = self.replicas[(turn + offset) % count]
            if replica is without or not may_ask(replica):
                continue
            rank = (self._health(replica, service, method), replica.in_flight)
            if best_rank is None or rank < best_rank:
                best, best_rank = replica, rank
        return best

    def half_open(self, service: str, method: str, may_ask: Callable[[Replica], bool]) -> list[Replica]:
        """Return who waits for a probe: connected, breaker half open."""
        return [
            replica
            for replica in self.replicas
            if replica.lane(service, method).breaker.state is BreakerState.HALF_OPEN
            and replica.link.is_ready
            and may_ask(replica)
        ]

    def is_well(self, replica: Replica, service: str, method: str) -> bool:
        """Return whether a replica is connected, has room and answers."""
        return self._health(replica, service, method) == 0

    def has_well(self, service: str, method: str, may_ask: Callable[[Replica], bool]) -> bool:
        """Return whether any replica that may be asked is well."""
        return any(may_ask(replica) and self.is_well(replica, service, method) for replica in self.replicas)

    async def close(self, grace_s: float = 0.0) -> None:
        """Close every channel; calls still running after the grace are cancelled."""
        await asyncio.gather(*(replica.link.close(grace_s) for replica in self.replicas))

    def _health(self, replica: Replica, service: str, method: str) -> int:
        if not replica.link.is_ready:
            return 3
        if replica.lane(service, method).breaker.state is not BreakerState.CLOSED:
            return 2
        return 1 if replica.is_full else 0


def split_targets(targets: Targets) -> tuple[str, ...]:
    """Return every target by itself.

    Raises:
        TradeserveError: None, or more than a client keeps.
    """
    parts = targets.split(",") if isinstance(targets, str) else list(targets)
    found = tuple(part.strip() for part in parts if part.strip())
    if not 1 <= len(found) <= MAX_REPLICAS:
        raise TradeserveError(
            f"target {targets!r}: give one to {MAX_REPLICAS} of host:port or unix:/path, separated by commas"
        )
    return found


async def any_ready(links: Sequence[Link], timeout_s: float) -> bool:
    """Wait until one of the links stands, bounded; return whether one does."""
    if any(link.is_ready for link in links):
        return True
    waits: set[Any] = {asyncio.ensure_future(link.ready(timeout_s)) for link in links}
    try:
        while waits:
            done, waits = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if any(wait.result() for wait in done):
                return True
        return False
    finally:
        for wait in waits:
            wait.cancel()
        if waits:
            await asyncio.wait(waits)
