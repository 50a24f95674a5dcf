"""A strategy's configuration: `strategy.toml` (the defaults) < a file < the environment < overrides.

Environment variables are TRADESERVE__SECTION__KEY, e.g. TRADESERVE__GATEWAY__PORT=4001 or
TRADESERVE__SERVICES__TRITON__TARGET=10.0.0.5:8001; DATABASE_URL sets [journal] database_url.
Overrides (the command line's) have dotted keys: {"gateway.port": 4001}.

    ConfigError: the one error of this module.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from strategy.config_sections import (
    BudgetSection,
    ControlSection,
    GatewaySection,
    JournalSection,
    ReadingsSection,
    ScreenSection,
    ServicesSection,
    ShadowSection,
    StrategySection,
    TelemetrySection,
    TradingSection,
    VoterConfig,
)
from strategy.core.decision import DecisionRules, rules_to_json
from strategy.core.ensemble import EnsembleLimits
from strategy.core.plain import to_json
from strategy.core.policy import PolicyLimits
from strategy.core.risk_limits import RiskLimits
from tradeserve_client.config_reader import (
    ConfigError,
    Settings,
    build,
    display,
    read_environment,
    read_overrides,
    read_toml,
    read_toml_file,
    shown,
)

__all__ = ["ConfigError", "StrategyConfig", "default_toml", "load"]

SIMILARITY = "similarity"
DEFAULTS = "strategy.toml (defaults)"
BAR_SIZES_S = (5, 10, 15, 30, 60, 120, 180, 300, 600, 900, 1200, 1800, 3600, 7200, 10800, 14400, 28800, 86400)
ALIASES = {"DATABASE_URL": "journal.database_url"}


@dataclass(frozen=True, slots=True)
class StrategyConfig:
    """The whole configuration; `strategy.toml` documents every key."""

    strategy: StrategySection
    trading: TradingSection
    gateway: GatewaySection
    services: ServicesSection
    voters: Mapping[str, VoterConfig]
    budget: BudgetSection
    ensemble: EnsembleLimits
    policy: PolicyLimits
    risk: RiskLimits
    shadow: ShadowSection
    vision: ReadingsSection
    journal: JournalSection
    control: ControlSection
    telemetry: TelemetrySection
    screen: ScreenSection

    @property
    def active_voters(self) -> dict[str, VoterConfig]:
        """Voters that are enabled and whose server is configured, by name."""
        return {name: voter for name, voter in sorted(self.voters.items()) if self._is_active(name, voter)}

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each active voter."""
        return {name: voter.weight for name, voter in self.active_voters.items()}

    @property
    def rules(self) -> DecisionRules:
        """What decisions are made by."""
        return DecisionRules(self.weights, self.ensemble, self.policy, self.risk)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON for the journal, without password and account number.

        `rules` in it is what `strategy.core.decision.remake` needs.
        """
        data: dict[str, Any] = to_json(self)
        data["journal"]["database_url"] = re.sub(r"^(\w+://).*@", r"\1***@", self.journal.database_url)
        data["gateway"]["account"] = f"…{self.gateway.account[-2:]}" if self.gateway.account else ""
        data["rules"] = rules_to_json(self.rules)
        return data

    def _is_active(self, name: str, voter: VoterConfig) -> bool:
        service = self.services.similarity if name == SIMILARITY else self.services.triton
        return voter.enabled and bool(service.target)


def default_toml() -> str:
    """Return the text of the shipped `strategy.toml`."""
    return resources.files("strategy").joinpath("strategy.toml").read_text(encoding="utf-8")


def load(
    path: Path | str | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    live_confirmed: bool = False,
) -> StrategyConfig:
    """Return the configuration: defaults < file < environment < overrides.

    Args:
        path: The user's TOML; None for the defaults alone.
        overrides: Dotted key -> value; text is read as the key's type.
        environment: Usually os.environ; None reads no variables.
        live_confirmed: Whether --i-understand-this-trades-real-money was given.

    Raises:
        ConfigError: Something in it can't be used; the message names file, key, value and remedy.
    """
    settings: Settings = read_toml(default_toml(), DEFAULTS)
    if path is not None:
        settings |= read_toml_file(Path(path))
    settings |= read_environment(environment or {}, ALIASES)
    settings |= read_overrides(overrides or {})
    config = build(StrategyConfig, settings)
    for keys, problem in _contradictions(config, live_confirmed):
        key = _culprit(keys.split(), settings)
        setting = settings[key]
        raise ConfigError(f"{setting.origin}: {display(key)} = {shown(setting)}; {problem}")
    return config


def _culprit(patterns: list[str], settings: Settings) -> str:
    """Return which of the keys that contradict each other the user set; the first one for none."""
    keys = [key for pattern in patterns for key in fnmatch.filter(settings, pattern)]
    return next((key for key in keys if settings[key].origin != DEFAULTS), keys[0])


def _contradictions(config: StrategyConfig, live_confirmed: bool) -> list[tuple[str, str]]:
    """Return (keys, the main one first; what is wrong) for values that are fine alone but not together."""
    strategy, budget, policy, risk = config.strategy, config.budget, config.policy, config.risk
    shares = budget.decode_ms + budget.forecast_ms + budget.search_ms + budget.decide_ms + budget.order_ms
    voting = [name for name, weight in config.weights.items() if weight > 0]
    embedding = [name for name, voter in config.active_voters.items() if voter.embedding]
    searching = SIMILARITY in config.active_voters
    tls = config.services.tls
    symbols = [
        symbol for symbol in strategy.symbols if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ./-]{0,31}", symbol)
    ]
    sizes = ", ".join(map(str, BAR_SIZES_S))
    found = [
        (config.trading.mode == "live" and not live_confirmed, "trading.mode",
         "live trading needs --i-understand-this-trades-real-money as well; paper needs nothing"),
        (not 1 <= len(strategy.symbols) <= 100, "strategy.symbols", "1 to 100 symbols are needed"),
        (len(symbols) != len(strategy.symbols), "strategy.symbols", 'a symbol looks like "AAPL" or "EUR.USD"'),
        (len(set(symbols)) != len(symbols), "strategy.symbols", "a symbol is listed twice"),
        (strategy.bar_size_s not in BAR_SIZES_S, "strategy.bar_size_s", f"expected one of {sizes}"),
        (risk.atr_period_bars >= strategy.window_bars, "risk.atr_period_bars strategy.window_bars",
         f"[risk] atr_period_bars {risk.atr_period_bars} must be below [strategy] window_bars {strategy.window_bars}"),
        (shares > budget.total_ms, "budget.total_ms budget.*",
         f"the shares add up to {shares:g} ms; raise the total or lower a share"),
        (not voting, "ensemble.quorum_voters voters.* services.*.target",
         "no voter is enabled, has a server and a weight above 0"),
        (config.ensemble.quorum_voters > len(voting) > 0, "ensemble.quorum_voters voters.* services.*.target",
         f"the quorum is {config.ensemble.quorum_voters}, but only {len(voting)} can vote: {', '.join(voting)}"),
        (searching and len(embedding) != 1, "services.similarity.target voters.*",
         f"exactly one enabled voter must have embedding = true, not {len(embedding)}; or disable the search"),
        (SIMILARITY in embedding, "voters.similarity.embedding", "the embedding comes from a model"),
        (config.ensemble.min_neighbors > config.services.similarity.neighbor_count,
         "ensemble.min_neighbors services.similarity.neighbor_count",
         "[ensemble] min_neighbors is above [services.similarity] neighbor_count: similarity could never vote"),
        (policy.full_strength_edge < policy.entry_edge, "policy.full_strength_edge policy.entry_edge",
         "[policy] full_strength_edge must be at least entry_edge"),
        (policy.no_entry_last_bars < policy.flatten_last_bars, "policy.no_entry_last_bars policy.flatten_last_bars",
         "[policy] no_entry_last_bars must be at least flatten_last_bars"),
        (risk.min_stop_bps > risk.max_stop_bps, "risk.min_stop_bps risk.max_stop_bps",
         "[risk] min_stop_bps must be at most max_stop_bps"),
        (risk.max_position_pct > risk.max_gross_notional_pct, "risk.max_position_pct risk.max_gross_notional_pct",
         "[risk] max_position_pct must be at most max_gross_notional_pct"),
        (risk.max_orders_per_minute < 3, "risk.max_orders_per_minute", "a bracket alone is 3 orders"),
        (bool(tls.certificate_file) != bool(tls.key_file), "services.tls.certificate_file services.tls.key_file",
         "certificate_file and key_file go together"),
        (bool(tls.certificate_file) and not tls.ca_file, "services.tls.ca_file", "mutual TLS needs it too"),
    ]  # fmt: skip
    return [(key, problem) for wrong, key, problem in found if wrong]
