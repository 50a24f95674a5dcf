"""TLS and mutual TLS of every client, with a certificate authority made on the spot."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from fakes.fake_triton import FakeTriton
from fakes.fake_vision import FakeVision
from tradeserve_client.answers import Answer, NoAnswer, Outcome, Reason
from tradeserve_client.channel import TlsFiles, Transport
from tradeserve_client.chart_reading import ChartQuery, ChartReading, ChartReadingClient
from tradeserve_client.client_set import Clients
from tradeserve_client.inference import Inference
from tradeserve_client.triton import TritonClient

INPUTS = {"window": np.ones((1, 60, 5), np.float32)}
CHART = ChartQuery(1, "ACME", b"\x89PNG\r\n\x1a\n", 1)
BUDGET_S = 20.0


@dataclass(frozen=True)
class Authority:
    """Signs certificates with openssl."""

    folder: Path
    openssl: str

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def found(self) -> Authority:
        self.folder.mkdir()
        self._run(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(self.folder / "ca.key"), "-out", str(self.ca), "-days", "1"),
            *("-subj", f"/CN={self.folder.name}"),
        )
        return self

    def issue(self, name: str) -> tuple[Path, Path]:
        """Return certificate and key for a host or a client."""
        key, request, chain = (self.folder / f"{name}.{end}" for end in ("key", "csr", "pem"))
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName=DNS:{name}\n")
        self._run(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(key), "-out", str(request), "-subj", f"/CN={name}"),
        )
        self._run(
            *(
                "x509",
                "-req",
                "-in",
                str(request),
                "-CA",
                str(self.ca),
                "-CAkey",
                str(self.folder / "ca.key"),
            ),
            *("-CAcreateserial", "-out", str(chain), "-days", "1", "-extfile", str(extensions)),
        )
        return chain, key

    def _run(self, *arguments: str) -> None:
        subprocess.run([self.openssl, *arguments], check=True, capture_output=True)


@pytest.fixture
def openssl() -> str:
    found = shutil.which("openssl")
    if found is None:
        pytest.skip("openssl is not installed here; it makes the test's certificates")
    return found


@pytest.fixture
def authority(tmp_path: Path, openssl: str) -> Authority:
    return Authority(tmp_path / "desk", openssl).found()


@pytest.fixture
def other_authority(tmp_path: Path, openssl: str) -> Authority:
    return Authority(tmp_path / "other", openssl).found()


def credentials(authority: Authority, host: str = "localhost") -> grpc.ServerCredentials:
    chain, key = authority.issue(host)
    return grpc.ssl_server_credentials(
        [(key.read_bytes(), chain.read_bytes())], authority.ca.read_bytes(), require_client_auth=True
    )


def by_name(address: str) -> str:
    return address.replace("127.0.0.1", "localhost")


@pytest.fixture
async def triton(authority: Authority) -> AsyncIterator[FakeTriton]:
    async with FakeTriton(credentials=credentials(authority)) as server:
        yield server


async def infer(
    target: str, tls: TlsFiles | None, transport: Transport, budget_s: float = BUDGET_S
) -> Outcome[Inference]:
    client = TritonClient(target, tls=tls, transport=transport)
    try:
        return await client.infer("lstm_cnn", INPUTS, budget=budget_s)
    finally:
        await client.close()


async def test_a_client_with_a_certificate_of_the_authority_is_served(
    authority: Authority, triton: FakeTriton, transport: Transport
) -> None:
    outcome = await infer(
        by_name(triton.address), TlsFiles(authority.ca, *authority.issue("strategy")), transport
    )
    assert isinstance(outcome, Answer), outcome


async def test_a_client_without_or_with_a_foreign_certificate_is_not(
    authority: Authority, other_authority: Authority, triton: FakeTriton, transport: Transport
) -> None:
    target = by_name(triton.address)
    for tls in (
        TlsFiles(authority.ca),
        TlsFiles(authority.ca, *other_authority.issue("strategy")),
        TlsFiles(other_authority.ca, *authority.issue("strategy")),
        None,
    ):
        outcome = await infer(target, tls, transport, budget_s=0.5)
        assert isinstance(outcome, NoAnswer)
        assert outcome.reason in (Reason.DOWN, Reason.LATE)
    assert triton.models["lstm_cnn"].calls == 0


async def test_a_server_with_another_hosts_certificate_is_not_spoken_to(
    authority: Authority, transport: Transport
) -> None:
    async with FakeTriton(credentials=credentials(authority, "elsewhere.example")) as triton:
        tls = TlsFiles(authority.ca, *authority.issue("strategy"))
        outcome = await infer(by_name(triton.address), tls, transport, budget_s=0.5)
        assert isinstance(outcome, NoAnswer)
        assert triton.models["lstm_cnn"].calls == 0


async def test_the_files_can_be_named_in_toml_beside_it(
    authority: Authority, triton: FakeTriton, tmp_path: Path
) -> None:
    authority.issue("strategy")
    async with FakeVision(credentials=credentials(authority)) as vision:
        path = authority.folder / "clients.toml"
        tls = 'ca_file = "ca.pem"\ncertificate_file = "strategy.pem"\nkey_file = "strategy.key"\n'
        path.write_text(
            f'[triton]\ntarget = "{by_name(triton.address)}"\n[triton.tls]\n{tls}'
            f'[vision]\ntarget = "{by_name(vision.address)}"\n[vision.tls]\n{tls}'
        )
        async with Clients.from_toml(path) as clients:
            assert isinstance(await clients.triton.infer("lstm_cnn", INPUTS, budget=BUDGET_S), Answer)
            assert isinstance(await clients.charts.read_chart(CHART, budget=BUDGET_S), Answer)


async def test_headers_travel_encrypted_with_the_call(
    authority: Authority, triton: FakeTriton, transport: Transport
) -> None:
    tls = TlsFiles(authority.ca, *authority.issue("strategy"))
    client = TritonClient(
        by_name(triton.address), tls=tls, metadata={"authorization": "Bearer x"}, transport=transport
    )
    assert isinstance(await client.infer("lstm_cnn", INPUTS, budget=BUDGET_S), Answer)
    assert triton.models["lstm_cnn"].headers[0]["authorization"] == "Bearer x"
    await client.close()


async def test_charts_are_read_over_mutual_tls(authority: Authority, transport: Transport) -> None:
    async with FakeVision(credentials=credentials(authority)) as vision:
        tls = TlsFiles(authority.ca, *authority.issue("strategy"))
        client = ChartReadingClient(by_name(vision.address), tls=tls, transport=transport)
        outcome: Outcome[ChartReading] = await client.read_chart(CHART, budget=BUDGET_S)
        assert isinstance(outcome, Answer), outcome
        await client.close()
