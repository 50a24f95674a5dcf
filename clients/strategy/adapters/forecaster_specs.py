"""What the forecaster is told: who votes, where they are served, and how much time each call has."""

from __future__ import annotations

from dataclasses import dataclass

from tradeserve_client.channel import Transport
from tradeserve_client.contract import ExpectedModel, ModelContract, TensorSpec
from tradeserve_client.resilience import Resilience

WINDOW_COLUMNS = 5
"""open, high, low, close, volume"""


@dataclass(frozen=True, slots=True)
class VoterSpec:
    """One model that votes.

    Attributes:
        name: Its name in Triton.
        version: 0 accepts the newest served.
        artifact_sha256: Hex digest of its model.onnx; "" accepts and reports whatever is served.
        embedding_dimension: > 0 where its embedding feeds the neighbour search; one voter at most.
    """

    name: str
    version: int = 0
    artifact_sha256: str = ""
    embedding_dimension: int = 0

    def expected(self, window_bars: int) -> ExpectedModel:
        """Return the contract that the served model must hold."""
        outputs = [TensorSpec("probabilities", "FP32", (-1, 3))]
        if self.embedding_dimension:
            outputs.append(TensorSpec("embedding", "FP32", (-1, self.embedding_dimension)))
        window = TensorSpec("window", "FP32", (-1, window_bars, WINDOW_COLUMNS))
        return ExpectedModel(self.name, self.version, self.artifact_sha256, (window,), tuple(outputs))


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """The index of past market states.

    Attributes:
        target: Where the similarity server is; several separated by commas; "" for none.
        name: Index.
        version: 0 accepts whichever is loaded.
        artifact_sha256: Hex digest of its states.npz; "" accepts and reports whatever is loaded.
        neighbor_count: Neighbours asked for, 1 to 256.
    """

    target: str = ""
    name: str = "market_states"
    version: int = 0
    artifact_sha256: str = ""
    neighbor_count: int = 16


@dataclass(frozen=True, slots=True)
class ForecasterSpec:
    """Everything the forecaster is told.

    Attributes:
        triton_target: "host:port" or "unix:/path"; several separated by commas.
        voters: Asked in parallel, reported in this order.
        index: The neighbour search.
        forecast_share_ns: Time each model has, from when the calls start.
        search_share_ns: Time the search has beyond the models' share; it also has what the
            embedding leaves of that.
        total_ns: Hard end of the whole phase, from the request's start_ns.
        window_bars: Bars in every window.
        bar_size_s: Seconds per bar that is traded, checked against what the models were trained on;
            0 leaves it unchecked.
        max_in_flight: Calls at once per service; where a target names several servers, per server.
        breaker_failure_count: Failures in a row after which a service is left alone for a moment.
        connect_timeout_s: How long start() waits for a server that is away.
        check_timeout_s: How long one contract check may take, with its trial inference.
        recheck_s: Pause between checks of a service that is away or differs.
        look_again_s: Pause between looks at a service whose contract holds: what is replaced in place,
            under the same version and without a lost connection, is noticed after that.
        retry: With several servers: send once more, to another one, when a connection was lost.
        hedge_share: With several servers: calls sent to a second one because the first is slow, per call
            at most; 0 sends none.
        transport: What carries the calls.
        traced: Send `traceparent` with each model call, the decision's id as the trace's, so that a
            server's spans join the decision's.
    """

    triton_target: str
    voters: tuple[VoterSpec, ...]
    index: IndexSpec = IndexSpec()
    forecast_share_ns: int = 15_000_000
    search_share_ns: int = 8_000_000
    total_ns: int = 40_000_000
    window_bars: int = 60
    bar_size_s: int = 0
    max_in_flight: int = 32
    breaker_failure_count: int = 5
    connect_timeout_s: float = 2.0
    check_timeout_s: float = 5.0
    recheck_s: float = 1.0
    look_again_s: float = 10.0
    retry: bool = True
    hedge_share: float = 0.05
    transport: Transport = Transport.HTTP2
    traced: bool = False

    def __post_init__(self) -> None:
        names = [voter.name for voter in self.voters]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"voters: need at least one, each named once, got {names}")
        if sum(voter.embedding_dimension > 0 for voter in self.voters) > 1:
            raise ValueError("voters: at most one may have an embedding_dimension")
        if self.index.target and self.embedding_voter is None:
            raise ValueError("index.target is set, but no voter has an embedding_dimension")
        if not 1 <= self.index.neighbor_count <= 256:
            raise ValueError(f"index.neighbor_count: 1 to 256, got {self.index.neighbor_count}")
        for field in (
            "forecast_share_ns",
            "search_share_ns",
            "total_ns",
            "window_bars",
            "max_in_flight",
            "breaker_failure_count",
        ):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: must be positive, got {getattr(self, field)}")

    @property
    def resilience(self) -> Resilience:
        """What is done where a target names several servers."""
        return Resilience(retry=self.retry, hedge=self.hedge_share > 0, hedge_share=self.hedge_share)

    @property
    def embedding_voter(self) -> VoterSpec | None:
        """The voter whose embedding feeds the search."""
        return next((voter for voter in self.voters if voter.embedding_dimension), None)


def bar_size_differences(contract: ModelContract, bar_size_s: int) -> list[str]:
    """Return why a model is not for bars of this length; empty when it is, or for 0."""
    if not bar_size_s:
        return []
    stated = contract.parameters.get("bar_sizes_s", "")
    if str(bar_size_s) in [size.strip() for size in stated.split(",")]:
        return []
    trained = (
        f"was trained for bars of {stated} s" if stated else "does not say which bar sizes it was trained for"
    )
    return [f"{contract.name}: the strategy trades bars of {bar_size_s} s, the served model {trained}"]
