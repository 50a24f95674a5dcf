"""The client SDK: typed calls to Triton and tradeserve's own services under a latency budget.

Every public name can be imported from here; each is loaded when it is first asked for, so that
`tradeserve_client.answers` stays free of gRPC for pure code.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tradeserve_client.answers import Answer, CallRecord, NoAnswer, Outcome, Reason
    from tradeserve_client.breaker import BreakerState, CircuitBreaker
    from tradeserve_client.budget import Deadline, LatencyBudget
    from tradeserve_client.channel import Link, TlsFiles, open_channel
    from tradeserve_client.contract import ExpectedModel, ModelContract, TensorSpec, require
    from tradeserve_client.errors import (
        CallError,
        ContractError,
        MalformedResponseError,
        ServerBusyError,
        ServerDownError,
        ServerFailedError,
        TooLateError,
        TradeserveError,
        WrongRequestError,
    )
    from tradeserve_client.fan_out import CallGroup, FanOut, Lane, PendingCall
    from tradeserve_client.search_stream import PendingSearch, SearchStream
    from tradeserve_client.similarity import IndexInfo, Match, Matches, SearchQuery, SimilarityClient
    from tradeserve_client.triton import Inference, PreparedModel, TritonClient

_HOMES = {
    "answers": ("Answer", "CallRecord", "NoAnswer", "Outcome", "Reason"),
    "breaker": ("BreakerState", "CircuitBreaker"),
    "budget": ("Deadline", "LatencyBudget"),
    "channel": ("Link", "TlsFiles", "open_channel"),
    "contract": ("ExpectedModel", "ModelContract", "TensorSpec", "require"),
    "errors": (
        "CallError",
        "ContractError",
        "MalformedResponseError",
        "ServerBusyError",
        "ServerDownError",
        "ServerFailedError",
        "TooLateError",
        "TradeserveError",
        "WrongRequestError",
    ),
    "fan_out": ("CallGroup", "FanOut", "Lane", "PendingCall"),
    "search_stream": ("PendingSearch", "SearchStream"),
    "similarity": ("IndexInfo", "Match", "Matches", "SearchQuery", "SimilarityClient"),
    "triton": ("Inference", "PreparedModel", "TritonClient"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Answer",
    "BreakerState",
    "CallError",
    "CallGroup",
    "CallRecord",
    "CircuitBreaker",
    "ContractError",
    "Deadline",
    "ExpectedModel",
    "FanOut",
    "IndexInfo",
    "Inference",
    "Lane",
    "LatencyBudget",
    "Link",
    "MalformedResponseError",
    "Match",
    "Matches",
    "ModelContract",
    "NoAnswer",
    "Outcome",
    "PendingCall",
    "PendingSearch",
    "PreparedModel",
    "Reason",
    "SearchQuery",
    "SearchStream",
    "ServerBusyError",
    "ServerDownError",
    "ServerFailedError",
    "SimilarityClient",
    "TensorSpec",
    "TlsFiles",
    "TooLateError",
    "TradeserveError",
    "TritonClient",
    "WrongRequestError",
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
