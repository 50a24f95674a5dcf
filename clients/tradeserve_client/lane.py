"""The way to one service: whether a call may go there now, and how many are under way."""

from __future__ import annotations

from typing import TypeAlias

import grpc.aio

from tradeserve_client.answers import Reason
from tradeserve_client.breaker import BreakerState, CircuitBreaker

BytesMethod: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]"

UNFINISHED_FACTOR = 4
"""How many times max_in_flight calls may be unfinished at the server, those given up among them."""
MIN_CALL_NS = 500_000
"""No server answers faster than this over gRPC; with less left nothing is sent."""

_TRITON = "/inference.GRPCInferenceService/"


class Lane:
    """The way to one service: its method, a bound on calls in flight, and its breaker.

    Attributes:
        service: Name for records and messages.
        max_in_flight: Calls that may run at once; more are shed as BUSY.
        max_unfinished: Calls that the server may not have answered; more are shed as BUSY.
        breaker: Stops calls to what does not answer.
        lets_run: Whether calls that are given up are left to the server to finish. Always so with Triton:
            cancelled and expired requests crash 24.10 (triton-inference-server/server#7368,
            #8034; here one crash in a few thousand), and a model that runs is not stopped by them anyway.
        channel: Its connection.
        method: Takes the bytes of a request and returns the call.
        in_flight: Calls that somebody waits for; whoever makes a call counts it.
        unfinished: Calls the server has not answered: those in flight, and those that were given up.
    """

    __slots__ = (
        "breaker",
        "channel",
        "in_flight",
        "lets_run",
        "max_in_flight",
        "max_unfinished",
        "method",
        "service",
        "unfinished",
    )

    def __init__(
        self,
        service: str,
        channel: grpc.aio.Channel,
        method: str,
        *,
        breaker: CircuitBreaker,
        max_in_flight: int = 32,
    ) -> None:
        if max_in_flight < 1:
            raise ValueError(f"{service}: max_in_flight must be at least 1")
        self.service = service
        self.max_in_flight = max_in_flight
        self.max_unfinished = UNFINISHED_FACTOR * max_in_flight
        self.breaker = breaker
        self.channel = channel
        # Without serializers: requests are prebuilt bytes, answers are read in `decode`.
        self.method: BytesMethod = channel.unary_unary(method)
        self.in_flight = 0
        self.unfinished = 0
        self.lets_run = method.startswith(_TRITON)

    def takes(self, left_ns: int) -> bool:
        """Return whether a call may go out that has this long; then the breaker must be told its outcome."""
        return (
            left_ns >= MIN_CALL_NS
            and self.in_flight < self.max_in_flight
            and self.unfinished < self.max_unfinished
            and self.breaker.allow()
        )

    def refusal(self, left_ns: int) -> tuple[Reason, str]:
        """Return why it does not take a call."""
        if left_ns < MIN_CALL_NS:
            return Reason.NO_BUDGET, f"{max(0, left_ns) / 1e6:.2f} ms left, nothing was sent"
        if self.in_flight >= self.max_in_flight:
            return Reason.BUSY, f"{self.in_flight} calls in flight, the limit of this client"
        if self.unfinished >= self.max_unfinished:
            return Reason.BUSY, f"{self.unfinished} calls unfinished at the server, most of them given up"
        state = "half open, a probe is out" if self.breaker.state is BreakerState.HALF_OPEN else "open"
        return Reason.DOWN, f"too many answers in a row were late or failed (breaker {state})"
