"""What can be loaded: one target per file of deploy/ghz, each with the server it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from load_test import config
from load_test.errors import ConfigError

ServerName = Literal["triton", "similarity", "strategy"]

_SERVERS: dict[str, ServerName] = {
    "inference.GRPCInferenceService": "triton",
    "tradeserve.similarity.v1.SimilarityService": "similarity",
    "tradeserve.strategy.v1.StrategyService": "strategy",
}


def names(configs: Path) -> list[str]:
    """Return the targets of a folder of configs, sorted."""
    return sorted(path.stem for path in configs.glob("*.toml"))


def config_file(configs: Path, target: str) -> Path:
    """Return a target's config.

    Raises:
        ConfigError: There is none; the message lists those that are there.
    """
    path = configs / f"{target}.toml"
    if not target or not path.is_file():
        raise ConfigError(f"target {target!r}: give one of {', '.join(names(configs))}")
    return path


def server_of(configs: Path, target: str) -> ServerName:
    """Return which server a target's calls go to.

    Raises:
        ConfigError: No such target, or no server of ours has that call.
    """
    path = config_file(configs, target)
    call = str(config.read(path).get("call", ""))
    service = call.strip("/").replace("/", ".").rpartition(".")[0]
    if service not in _SERVERS:
        raise ConfigError(f"{path}: call: {call!r} belongs to none of {', '.join(_SERVERS)}")
    return _SERVERS[service]
