"""The client SDK: typed calls to Triton and tradeserve's own services under a latency budget.

Every public name can be imported from here; each is loaded when it is first asked for, so that
`tradeserve_client.answers` stays free of gRPC for pure code.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tradeserve_client.answers import Answer, CallRecord, NoAnswer, Outcome, Reason
    from tradeserve_client.blocking import BlockingClients
    from tradeserve_client.breaker import BreakerState, CircuitBreaker
    from tradeserve_client.budget import Budget, Deadline, LatencyBudget
    from tradeserve_client.channel import Link, TlsFiles, open_channel
    from tradeserve_client.chart_reading import (
        ChartContext,
        ChartExtent,
        ChartQuery,
        ChartReading,
        ChartReadingClient,
        Contradiction,
        PastOutcome,
        ReaderInfo,
        ReadingRecord,
    )
    from tradeserve_client.client_set import Clients
    from tradeserve_client.config import (
        ChartReadingSection,
        ClientConfig,
        SimilaritySection,
        StrategySection,
        TlsSection,
        TritonSection,
        load_config,
    )
    from tradeserve_client.contract import ExpectedModel, ModelContract, TensorSpec, require
    from tradeserve_client.errors import (
        CallError,
        ConfigError,
        ContractError,
        MalformedResponseError,
        ServerBusyError,
        ServerDownError,
        ServerFailedError,
        TooLateError,
        TradeserveError,
        WrongRequestError,
    )
    from tradeserve_client.fan_out import CallGroup, FanOut, PendingCall
    from tradeserve_client.inference import Inference, PreparedModel
    from tradeserve_client.lane import Lane
    from tradeserve_client.metrics import CallMetrics
    from tradeserve_client.replicas import ReplicaLimits
    from tradeserve_client.resilience import CallCounts, Resilience
    from tradeserve_client.search_stream import PendingSearch, SearchStream
    from tradeserve_client.search_streams import SearchStreams
    from tradeserve_client.sequence import SequenceStep
    from tradeserve_client.similarity import (
        IndexInfo,
        Match,
        Matches,
        NewState,
        Outcomes,
        SearchQuery,
        SimilarityClient,
    )
    from tradeserve_client.similarity_replicas import SimilarityReplicas
    from tradeserve_client.strategy_service import (
        KillResult,
        OpenPosition,
        ServiceState,
        Side,
        StrategyClient,
        StrategyDecision,
        StrategyStatus,
        TradingState,
    )
    from tradeserve_client.triton import TritonClient

_HOMES = {
    "answers": ("Answer", "CallRecord", "NoAnswer", "Outcome", "Reason"),
    "blocking": ("BlockingClients",),
    "breaker": ("BreakerState", "CircuitBreaker"),
    "budget": ("Budget", "Deadline", "LatencyBudget"),
    "channel": ("Link", "TlsFiles", "open_channel"),
    "chart_reading": (
        "ChartContext",
        "ChartExtent",
        "ChartQuery",
        "ChartReading",
        "ChartReadingClient",
        "Contradiction",
        "PastOutcome",
        "ReaderInfo",
        "ReadingRecord",
    ),
    "client_set": ("Clients",),
    "config": (
        "ChartReadingSection",
        "ClientConfig",
        "SimilaritySection",
        "StrategySection",
        "TlsSection",
        "TritonSection",
        "load_config",
    ),
    "contract": ("ExpectedModel", "ModelContract", "TensorSpec", "require"),
    "errors": (
        "CallError",
        "ConfigError",
        "ContractError",
        "MalformedResponseError",
        "ServerBusyError",
        "ServerDownError",
        "ServerFailedError",
        "TooLateError",
        "TradeserveError",
        "WrongRequestError",
    ),
    "fan_out": ("CallGroup", "FanOut", "PendingCall"),
    "inference": ("Inference", "PreparedModel"),
    "lane": ("Lane",),
    "metrics": ("CallMetrics",),
    "replicas": ("ReplicaLimits",),
    "resilience": ("CallCounts", "Resilience"),
    "search_stream": ("PendingSearch", "SearchStream"),
    "search_streams": ("SearchStreams",),
    "sequence": ("SequenceStep",),
    "similarity": (
        "IndexInfo",
        "Match",
        "Matches",
        "NewState",
        "Outcomes",
        "SearchQuery",
        "SimilarityClient",
    ),
    "similarity_replicas": ("SimilarityReplicas",),
    "strategy_service": (
        "KillResult",
        "OpenPosition",
        "ServiceState",
        "Side",
        "StrategyClient",
        "StrategyDecision",
        "StrategyStatus",
        "TradingState",
    ),
    "triton": ("TritonClient",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Answer",
    "BlockingClients",
    "BreakerState",
    "Budget",
    "CallCounts",
    "CallError",
    "CallGroup",
    "CallMetrics",
    "CallRecord",
    "ChartContext",
    "ChartExtent",
    "ChartQuery",
    "ChartReading",
    "ChartReadingClient",
    "ChartReadingSection",
    "CircuitBreaker",
    "ClientConfig",
    "Clients",
    "ConfigError",
    "ContractError",
    "Contradiction",
    "Deadline",
    "ExpectedModel",
    "FanOut",
    "IndexInfo",
    "Inference",
    "KillResult",
    "Lane",
    "LatencyBudget",
    "Link",
    "MalformedResponseError",
    "Match",
    "Matches",
    "ModelContract",
    "NewState",
    "NoAnswer",
    "OpenPosition",
    "Outcome",
    "Outcomes",
    "PastOutcome",
    "PendingCall",
    "PendingSearch",
    "PreparedModel",
    "ReaderInfo",
    "ReadingRecord",
    "Reason",
    "ReplicaLimits",
    "Resilience",
    "SearchQuery",
    "SearchStream",
    "SearchStreams",
    "SequenceStep",
    "ServerBusyError",
    "ServerDownError",
    "ServerFailedError",
    "ServiceState",
    "Side",
    "SimilarityClient",
    "SimilarityReplicas",
    "SimilaritySection",
    "StrategyClient",
    "StrategyDecision",
    "StrategySection",
    "StrategyStatus",
    "TensorSpec",
    "TlsFiles",
    "TlsSection",
    "TooLateError",
    "TradeserveError",
    "TradingState",
    "TritonClient",
    "TritonSection",
    "WrongRequestError",
    "load_config",
    "open_channel",
    "require",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module when it is first asked for (PEP 562)."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
