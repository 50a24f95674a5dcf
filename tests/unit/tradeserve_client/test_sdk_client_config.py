from __future__ import annotations

from pathlib import Path

import pytest

from tradeserve_client.client_set import Clients
from tradeserve_client.config import ClientConfig, TritonSection, load_config
from tradeserve_client.errors import ConfigError, TradeserveError
from tradeserve_client.metadata import MetadataChannel, headers_for
from tradeserve_client.replicas import split_targets


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "clients.toml"


def test_a_file_says_where_the_services_are_and_how_to_call_them(toml: Path) -> None:
    (toml.parent / "ca.pem").write_text("a certificate")
    toml.write_text(
        """
        [triton]
        target = "a:8001, b:8001"
        max_in_flight = 8
        hedge = true
        transport = "http2"
        [triton.tls]
        ca_file = "ca.pem"
        [triton.metadata]
        authorization = "Bearer x"
        x-desk = "rates"
        [similarity]
        target = "unix:/run/similarity.sock"
        """
    )
    config = load_config(toml, environment={"TRADESERVE_CLIENT__TRITON__HEDGE_SHARE": "0.01"})
    triton = config.triton
    assert split_targets(triton.target) == ("a:8001", "b:8001")
    assert (triton.limits.max_in_flight, triton.resilience.hedge, triton.resilience.hedge_share) == (
        8,
        True,
        0.01,
    )
    assert (triton.transport, config.similarity.transport) == ("http2", "grpc")
    assert triton.tls.files is not None
    assert triton.tls.files.ca == toml.parent / "ca.pem"
    assert triton.metadata == {"authorization": "Bearer x", "x-desk": "rates"}
    assert config.similarity.target == "unix:/run/similarity.sock"
    assert config.similarity.tls.files is None
    assert config.vision.target == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[triton]\ntarge = 'a:1'",
            r"clients.toml: unknown key \[triton\] targe = 'a:1'; did you mean \[triton\] target",
        ),
        ("[tritn]\ntarget = 'a:1'", r"unknown key \[tritn\] target = 'a:1'"),
        (
            "[triton]\ntarget = 'a'",
            r"\[triton\] target = 'a'; expected a text of the form host:port or unix:path",
        ),
        ("[triton]\ntarget = 'a:1,,b:2'", r"\[triton\] target"),
        ("[strategy]\ntarget = 'a:1, b:2'", r"\[strategy\] target"),
        (
            "[triton]\nmax_in_flight = 0",
            r"\[triton\] max_in_flight = 0; expected a whole number from 1 to 10000",
        ),
        ("[triton]\nhedge_share = 0.9", r"\[triton\] hedge_share = 0.9; expected a number from 0 to 0.5"),
        ("[triton]\nhedge = 'yes'", r"\[triton\] hedge = 'yes'; expected true or false"),
        ("[triton.metadata]\nx = 1", r"\[triton.metadata\] x = 1; expected a text"),
        ("[triton]\nmetadata = 1", r"\[triton\] metadata = 1; expected a table \[triton.metadata\]"),
        ("[triton.tls]\nca_file = 'no.pem'", r"\[triton.tls\] ca_file = '.*no.pem'; there is no such file"),
        (
            "[triton.tls]\nkey_file = 'k.pem'",
            r"\[triton.tls\] key_file = .*; mutual TLS needs certificate_file too",
        ),
        (
            "[similarity]\nindex_sha256 = 'AB'",
            r"\[similarity\] index_sha256 = 'AB'; expected .*64 hexadecimal",
        ),
        (
            "[triton]\ntransport = 'http'",
            r"\[triton\] transport = 'http'; .*\"grpc\", \"http2\"; did you mean 'http2'",
        ),
        ("triton", "not valid TOML"),
    ],
)
def test_a_wrong_configuration_names_the_key_and_the_remedy(toml: Path, text: str, words: str) -> None:
    toml.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(toml)
    assert str(caught.value).startswith(str(toml))
    assert isinstance(caught.value, TradeserveError)


def test_a_wrong_variable_is_named() -> None:
    variable = "TRADESERVE_CLIENT__TRITON__MAX_IN_FLIGHT"
    with pytest.raises(ConfigError, match=f"environment variable {variable}: .* expected a whole number"):
        load_config(environment={variable: "many"})


def test_a_missing_file_is_named(toml: Path) -> None:
    with pytest.raises(ConfigError, match=r"clients.toml: can't be read: No such file"):
        load_config(toml)


def test_a_service_without_a_target_is_off_and_says_how_to_set_it() -> None:
    clients = Clients(ClientConfig(triton=TritonSection(target="a:1")))
    with pytest.raises(
        ConfigError, match=r"similarity is off: set \[similarity\] target = .*SIMILARITY__TARGET"
    ):
        clients.similarity  # noqa: B018 - reading it is what is tested


@pytest.mark.parametrize("wrong", ["", " , ", [], ["a:1"] * 65])
def test_no_target_and_too_many_are_refused(wrong: str | list[str]) -> None:
    with pytest.raises(TradeserveError, match="give one to 64"):
        split_targets(wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"Authorization": "x"}, {"a b": "x"}, {"grpc-timeout": "1"}, {"x-bin": "x"}, {"x": "line\nbreak"}],
)
def test_metadata_that_http2_does_not_carry_are_refused_by_name(wrong: dict[str, str]) -> None:
    name = next(iter(wrong))
    with pytest.raises(TradeserveError, match=f"metadata '{name}'"):
        MetadataChannel(None, wrong)
    with pytest.raises(TradeserveError, match=f"metadata '{name}'"):
        headers_for({}, wrong)
