from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from strategy.composition import forecaster_spec
from strategy.config import ConfigError, StrategyConfig, default_toml, load
from strategy.core.decision import rules_from_json
from tradeserve_client.resilience import Resilience


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_defaults_load_and_trade_on_paper() -> None:
    config = load()
    assert config.trading.mode == "paper"
    assert config.gateway.port == 4002
    assert config.weights == {"gaf_resnet": 1.0, "lstm_cnn": 1.0, "similarity": 0.5}
    assert config.risk.max_position_pct == 2.0
    assert config.risk.max_drawdown_pct == 5.0
    assert config.services.vision.target == ""


def test_a_file_changes_only_what_it_names(tmp_path: Path) -> None:
    path = write(tmp_path, '[strategy]\nsymbols = ["SPY"]\n[voters.lstm_cnn]\nweight = 2\n')
    config = load(path)
    assert config.strategy.symbols == ("SPY",)
    assert config.weights["lstm_cnn"] == 2.0
    assert dataclasses.replace(config, strategy=load().strategy, voters=load().voters) == load()


def test_overrides_beat_the_environment_beats_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "[gateway]\nport = 1\nclient_id = 1\ndepth_rows = 1\n")
    environment = {
        "TRADESERVE__GATEWAY__PORT": "2",
        "TRADESERVE__GATEWAY__CLIENT_ID": "2",
        "DATABASE_URL": "postgresql://db/x",
        "PATH": "/bin",
    }
    config = load(path, {"gateway.port": "3", "strategy.symbols": "AAPL, EUR.USD"}, environment=environment)
    assert (config.gateway.port, config.gateway.client_id, config.gateway.depth_rows) == (3, 2, 1)
    assert config.journal.database_url == "postgresql://db/x"
    assert config.strategy.symbols == ("AAPL", "EUR.USD")


def test_a_voter_of_one_s_own_needs_only_its_name(tmp_path: Path) -> None:
    config = load(write(tmp_path, "[voters.mine]\n"))
    assert config.weights["mine"] == 1.0
    assert config.voters["mine"].version == 1


def test_targets_may_name_several_servers_and_what_is_done_then_is_on(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '[services.triton]\ntarget = "gpu1:8001, [::1]:8001,unix:/run/triton"\n'
        '[services.similarity]\ntarget = "a:1,b:2"\n',
    )
    spec = forecaster_spec(load(path))
    assert spec.triton_target == "gpu1:8001, [::1]:8001,unix:/run/triton"
    assert spec.index.target == "a:1,b:2"
    assert spec.resilience == Resilience(retry=True, hedge=True, hedge_share=0.05)
    off = {"services.replicas.retry": "false", "services.replicas.hedge_share": "0"}
    assert forecaster_spec(load(path, off)).resilience == Resilience(retry=False, hedge=False, hedge_share=0)


def test_a_service_that_is_off_takes_its_voters_along() -> None:
    assert set(load(None, {"services.similarity.target": ""}).weights) == {"gaf_resnet", "lstm_cnn"}
    assert set(load(None, {"voters.lstm_cnn.enabled": "false"}).weights) == {"gaf_resnet", "similarity"}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "[risk]\nmax_spred_bps = 3",
            ["unknown key [risk] max_spred_bps = 3", "did you mean [risk] max_spread_bps?"],
        ),
        ("[gateway]\nmax_spread_bps = 3", ["did you mean [risk] max_spread_bps?"]),
        ("[rsk]\nmax_spread_bps = 3", ["did you mean [risk] max_spread_bps?"]),
        ("[gateway]\nzzz = 3", ["known there: account, bar_source"]),
        ("zzz = 3", ["known sections: budget, control"]),
        ("risk = 3", ["risk = 3; expected a table [risk]"]),
        ('[gateway]\nport = "4002"', ["[gateway] port = '4002'; expected a whole number from 1 to 65535"]),
        ("[gateway]\nport = 4002.0", ["expected a whole number"]),
        ("[gateway]\nport = true", ["expected a whole number"]),
        ("[gateway]\nport = 0", ["[gateway] port = 0; expected a whole number from 1 to 65535"]),
        ("[risk]\nmax_drawdown_pct = nan", ["max_drawdown_pct = nan; expected a number"]),
        ("[risk]\nmax_drawdown_pct = -5", ["expected a number from 0.001 to 100"]),
        ("[risk]\nflatten_on_halt = 1", ["expected true or false"]),
        ("[strategy]\nsymbols = [1]", ["symbols = [1]; expected a list of texts"]),
        ('[strategy]\nsymbols = "SPY"', ["expected a list of texts"]),
        ("[strategy]\nsymbols = []", ["1 to 100 symbols"]),
        ('[strategy]\nsymbols = ["A", "A"]', ["a symbol is listed twice"]),
        ('[strategy]\nsymbols = ["A\\n"]', ["a symbol looks like"]),
        ("[strategy]\nbar_size_s = 61", ["expected one of 5, 10"]),
        ("[strategy]\nwindow_bars = 10", ["[strategy] window_bars = 10", "atr_period_bars 14 must be below"]),
        ('[trading]\nmode = "papr"', ['one of "paper", "live"', "did you mean 'paper'?"]),
        ('[services.triton]\ntarget = "localhost"', ["expected a text of the form host:port"]),
        (
            '[services.triton]\ntarget = "a:1, b"',
            ["expected a text of the form host:port", "more after commas"],
        ),
        ("[services.replicas]\nhedge_share = 0.6", ["expected a number from 0 to 0.5"]),
        ('[voters.lstm_cnn]\nartifact_sha256 = "abc"', ["64 hexadecimal digits"]),
        ("[budget]\nforecast_ms = 45", ["[budget] forecast_ms = 45", "the shares add up to 62 ms"]),
        ("[ensemble]\nquorum_voters = 4", ["the quorum is 4, but only 3 can vote"]),
        (
            "[voters.lstm_cnn]\nweight=0\n[voters.gaf_resnet]\nweight=0\n[voters.similarity]\nweight=0",
            ["no voter is enabled, has a server and a weight above 0"],
        ),
        (
            "[voters.gaf_resnet]\nembedding = false",
            ["exactly one enabled voter must have embedding = true, not 0"],
        ),
        ("[voters.lstm_cnn]\nembedding = true", ["embedding = true, not 2"]),
        ("[ensemble]\nmin_neighbors = 17", ["similarity could never vote"]),
        ("[policy]\nentry_edge = 0.5", ["full_strength_edge must be at least entry_edge"]),
        ("[policy]\nflatten_last_bars = 7", ["no_entry_last_bars must be at least flatten_last_bars"]),
        ("[risk]\nmin_stop_bps = 400", ["min_stop_bps must be at most max_stop_bps"]),
        ("[risk]\nmax_position_pct = 30", ["max_position_pct must be at most max_gross_notional_pct"]),
        ("[risk]\nmax_orders_per_minute = 2", ["a bracket alone is 3 orders"]),
        ('[services.tls]\nkey_file = "k"', ["certificate_file and key_file go together"]),
        ('[journal]\ndatabase_url = "mysql://x"', ["expected a text of the form postgresql://"]),
        ('[journal]\ndatabase_url = "mysql://me:hush@x"', ["'mysql://***@x'"]),
        ("[risk\n", ["not valid TOML"]),
    ],
)
def test_what_can_not_be_used_is_named_in_one_line(text: str, parts: list[str], tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    assert message.startswith(str(path))


def test_a_file_that_is_not_there_or_not_text_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.toml: can't be read: No such file"):
        load(tmp_path / "nothing.toml")
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8 text at byte 0"):
        load(path)


def test_errors_name_the_variable_or_the_override() -> None:
    with pytest.raises(ConfigError, match=r"environment variable TRADESERVE__GATEWAY__PORT: .*port = 'x'"):
        load(environment={"TRADESERVE__GATEWAY__PORT": "x"})
    with pytest.raises(
        ConfigError, match=r"TRADESERVE__GATEWAY__PROT: unknown key .* did you mean \[gateway\] port"
    ):
        load(environment={"TRADESERVE__GATEWAY__PROT": "1"})
    with pytest.raises(ConfigError, match=r"override risk\.max_spread_bps: .* = 'wide'; expected a number"):
        load(None, {"risk.max_spread_bps": "wide"})


def test_live_trading_needs_both_the_mode_and_the_flag() -> None:
    with pytest.raises(ConfigError, match="--i-understand-this-trades-real-money"):
        load(None, {"trading.mode": "live"})
    assert load(None, {"trading.mode": "live"}, live_confirmed=True).trading.mode == "live"
    assert load(live_confirmed=True).trading.mode == "paper"


def test_the_journal_s_copy_has_no_secret_and_remakes_the_rules() -> None:
    config = load(None, {"journal.database_url": "postgresql://me:hush@db/x", "gateway.account": "DU1234567"})
    text = json.dumps(config.to_json(), allow_nan=False)
    assert "hush" not in text
    assert "DU12345" not in text
    assert "postgresql://***@db/x" in text
    assert rules_from_json(json.loads(text)["rules"]) == config.rules


def keys(kind: Any, prefix: str = "") -> Iterator[str]:
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from keys(hint, f"{prefix}{field.name}.")
        elif get_origin(hint) is not None and get_origin(hint) is not tuple:
            yield from (f"{prefix}{field.name}.*.{name}" for name in keys(get_args(hint)[1]))
        else:
            yield f"{prefix}{field.name}"


def test_every_key_is_in_the_shipped_file_and_explained() -> None:
    text = default_toml()
    for key in keys(StrategyConfig):
        name = key.rpartition(".")[2]
        assert f"\n{name} = " in text, key


def test_every_field_has_its_sentence() -> None:
    kinds: list[Any] = [StrategyConfig]
    while kinds:
        kind = kinds.pop()
        hints = get_type_hints(kind)
        nested = [hint for hint in hints.values() if dataclasses.is_dataclass(hint)]
        kinds += nested
        for name, hint in hints.items():
            if hint not in nested and get_origin(hint) is None:
                assert f"        {name}: " in (kind.__doc__ or ""), f"{kind.__name__}.{name}"
