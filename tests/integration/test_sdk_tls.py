"""Encrypted connections with certificates made on the spot."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import grpc
import pytest

from fakes.fake_triton import FakeTriton
from tradeserve_client.channel import TlsFiles, Transport
from tradeserve_client.triton import TritonClient


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed here; it makes the test's certificate")
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    command = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        str(key),
        "-out",
        str(chain),
    ]
    command += ["-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    return key, chain


def secure(address: str) -> str:
    return address.replace("127.0.0.1", "localhost")


@pytest.mark.parametrize("mutual", [False, True], ids=["server only", "mutual"])
async def test_an_encrypted_connection_serves_calls(
    certificate: tuple[Path, Path], mutual: bool, transport: Transport
) -> None:
    key, chain = certificate
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), chain.read_bytes())], chain.read_bytes() if mutual else None, mutual
    )
    async with FakeTriton(credentials=credentials) as triton:
        tls = TlsFiles(chain, chain, key) if mutual else TlsFiles(chain)
        client = TritonClient(secure(triton.address), tls=tls, transport=transport)
        assert await client.link.ready(20)
        assert (await client.contract("lstm_cnn", timeout_s=20)).version == 1
        await client.close()


async def test_a_server_with_an_unknown_certificate_is_not_connected_to(
    certificate: tuple[Path, Path], transport: Transport
) -> None:
    key, chain = certificate
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), chain.read_bytes())])
    async with FakeTriton(credentials=credentials) as triton:
        client = TritonClient(secure(triton.address), tls=TlsFiles(), transport=transport)
        assert not await client.link.ready(0.5)
        await client.close()
