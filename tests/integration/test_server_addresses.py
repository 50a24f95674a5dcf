"""Where a server of ours listens, and with which certificates."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import grpc
import pytest

from fakes.gate import NAME, Start, failure_of
from server_runtime import errors
from server_runtime.listen import TlsFiles, claim_port, claim_unix_path
from server_runtime.server import Transport


async def test_a_port_in_use_is_named_with_what_to_do(start_gate: Start) -> None:
    one = await start_gate()
    port = int(one.server.address.rpartition(":")[2])
    with pytest.raises(
        errors.StartError, match=rf"port {port} on 127.0.0.1 is in use: stop .* --port"
    ) as caught:
        await start_gate(port=port)
    assert caught.value.exit_code == 2


def test_an_unknown_host_and_a_foreign_address_are_told_apart() -> None:
    with pytest.raises(errors.StartError, match="is unknown"):
        claim_port("no-such-host.invalid", 0)
    with pytest.raises(errors.StartError, match="not an address of this machine"):
        claim_port("192.0.2.1", 0)


def test_an_ipv6_address_gets_brackets() -> None:
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    try:
        assert claim_port("::1", 0) == "[::1]:0"
    except errors.StartError:
        pytest.skip("this machine has no IPv6 loopback address")


async def test_a_unix_socket_serves_and_is_removed(start_gate: Start, tmp_path: Path) -> None:
    path = tmp_path / "s"
    one = await start_gate(unix_path=path)
    one.gate.opened.set()
    assert one.server.address == f"unix:{path}"
    assert await one.call("Wait") == b"open:x"
    with pytest.raises(errors.StartError, match="is in use: stop the server"):
        await start_gate(unix_path=path)
    assert await one.call("Wait") == b"open:x"
    await one.server.stop()
    assert not path.exists()


def test_a_unix_path_nobody_listens_on_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    assert claim_unix_path(path) == f"unix:{path}"
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "message"), [("file", "is no socket"), ("x" * 120, "longer than"), ("no/s", "does not exist")]
)
def test_an_unusable_unix_path_says_why(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(errors.StartError, match=message):
        claim_unix_path(tmp_path / name)
    assert (tmp_path / "file").read_text() == "precious"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificates of this test and is not installed")
    folder = tmp_path_factory.mktemp("tls")
    for name in ("server", "client"):
        command = f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
        files = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
        subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
        subprocess.run([*command.split(), *files, *subject], check=True, capture_output=True)
    return folder


async def test_mutual_tls_lets_only_known_clients_in(start_gate: Start, certificates: Path) -> None:
    tls = TlsFiles(certificates / "server.pem", certificates / "server.key", certificates / "client.pem")
    root = (certificates / "server.pem").read_bytes()
    known = grpc.ssl_channel_credentials(
        root, (certificates / "client.key").read_bytes(), (certificates / "client.pem").read_bytes()
    )
    one = await start_gate(credentials=known, tls=tls)
    one.gate.opened.set()
    assert await one.call("Wait") == b"open:x"
    async with grpc.aio.secure_channel(one.server.address, grpc.ssl_channel_credentials(root)) as unknown:
        error = await failure_of(unknown.unary_unary(f"/{NAME}/Wait")(b"x", timeout=5.0))
    assert error.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_missing_certificate_is_named(start_gate: Start, tmp_path: Path) -> None:
    with pytest.raises(errors.StartError, match=r"TLS key .*gone.key cannot be read"):
        await start_gate(tls=TlsFiles(tmp_path / "gone.pem", tmp_path / "gone.key"))


async def test_certificates_that_are_none_stop_the_start(
    start_gate: Start, certificates: Path, tmp_path: Path
) -> None:
    (tmp_path / "no.pem").write_text("nothing")
    for tls in (
        TlsFiles(tmp_path / "no.pem", certificates / "server.key"),
        TlsFiles(certificates / "server.pem", certificates / "client.key"),
    ):
        with pytest.raises(errors.StartError, match="TLS files"):
            await start_gate(tls=tls, transport=Transport.HTTP2)
