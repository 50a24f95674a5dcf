from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import tradeserve_client
from tradeserve_client.channel import TlsFiles, channel_options, target_uri
from tradeserve_client.errors import TradeserveError


@pytest.mark.parametrize(
    ("target", "uri"),
    [
        ("localhost:8001", "dns:///localhost:8001"),
        ("127.0.0.1:8001", "dns:///127.0.0.1:8001"),
        ("[::1]:8001", "dns:///[::1]:8001"),
        ("unix:/run/t.sock", "unix:/run/t.sock"),
        ("dns:///triton:8001", "dns:///triton:8001"),
    ],
)
def test_a_target_becomes_what_grpc_dials(target: str, uri: str) -> None:
    assert target_uri(target) == uri


@pytest.mark.parametrize(
    "target", ["", "localhost", ":8001", "localhost:", "localhost:http", "localhost:99999"]
)
def test_a_target_that_can_not_be_dialled_says_what_is_accepted(target: str) -> None:
    with pytest.raises(TradeserveError, match="give host:port"):
        target_uri(target)


def test_grpc_never_retries_or_uses_a_proxy_behind_our_back() -> None:
    options = dict(channel_options())
    assert options["grpc.enable_retries"] == 0
    assert options["grpc.enable_http_proxy"] == 0


def test_a_missing_tls_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TradeserveError, match=r"can't read .*ca\.pem"):
        TlsFiles(ca=tmp_path / "ca.pem").credentials()


def test_a_certificate_without_its_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TradeserveError, match="both certificate and key"):
        TlsFiles(certificate=tmp_path / "c.pem").credentials()


def test_every_public_name_can_be_imported() -> None:
    for name in tradeserve_client.__all__:
        assert getattr(tradeserve_client, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        tradeserve_client.no_such_name  # noqa: B018


def test_the_answers_come_without_grpc() -> None:
    heavy = ("grpc", "google.protobuf", "numpy")
    code = f"import tradeserve_client.answers, sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
