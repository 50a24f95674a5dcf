"""Where a server listens: check an address before gRPC does, for an error that people understand.

gRPC would share a port between two servers, take a Unix socket from a server that is alive, and
explain a failure on several lines.
"""

import errno
import os
import socket
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

import grpc

from server_runtime.errors import StartError

# sun_path holds 108 bytes on Linux, with its terminating zero.
_UNIX_PATH_BYTES = 107


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Certificates of a server, PEM.

    Attributes:
        certificate: The server's chain.
        key: Its private key.
        client_ca: Authority that clients must be signed by (mTLS); None lets any client in.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Read the files.

        Raises:
            StartError: A file cannot be read.
        """
        key, certificate = _read("TLS key", self.key), _read("TLS certificate", self.certificate)
        client_ca = _read("TLS client CA", self.client_ca) if self.client_ca else None
        return grpc.ssl_server_credentials(
            [(key, certificate)], root_certificates=client_ca, require_client_auth=client_ca is not None
        )

    def context(self) -> ssl.SSLContext:
        """Read the files for our own transport.

        Raises:
            StartError: A file cannot be read, or is no PEM of its kind.
        """
        for what, path in (
            ("key", self.key),
            ("certificate", self.certificate),
            ("client CA", self.client_ca),
        ):
            if path is not None:
                _read(f"TLS {what}", path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        try:
            # Without a password function, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(self.certificate, self.key, password=lambda: b"")
            if self.client_ca is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(self.client_ca)
        except (ssl.SSLError, ValueError) as e:
            raise StartError(
                f"the TLS files cannot be used ({e}): check that they are PEM and belong together", 2
            ) from e
        return context


def claim_port(host: str, port: int) -> str:
    """Check that a TCP port is free.

    Returns:
        The target for gRPC, "host:port", with brackets around an IPv6 address.

    Raises:
        StartError: The port is in use, not allowed, or the host is not this machine's.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as e:
        raise StartError(f"host {host!r} is unknown: set --host to an address of this machine", 2) from e
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as e:
            raise StartError(_why_not(e, host, port), 2) from e
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def claim_unix_path(path: Path) -> str:
    """Check that a Unix socket path is free, and remove a socket nobody listens on.

    Returns:
        The target for gRPC, "unix:/path".

    Raises:
        StartError: A server listens there, the path is no socket, too long, or its folder is missing.
    """
    absolute = path.absolute()
    if len(os.fsencode(absolute)) > _UNIX_PATH_BYTES:
        raise StartError(
            f"--unix-path {absolute} is longer than {_UNIX_PATH_BYTES} bytes: choose a shorter one", 2
        )
    if not absolute.parent.is_dir():
        raise StartError(f"--unix-path {absolute}: the folder {absolute.parent} does not exist: create it", 2)
    try:
        mode = absolute.lstat().st_mode
    except FileNotFoundError:
        return f"unix:{absolute}"
    if not stat.S_ISSOCK(mode):
        raise StartError(f"--unix-path {absolute} exists and is no socket: choose another path", 2)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(absolute))
        except ConnectionRefusedError:
            absolute.unlink(missing_ok=True)
            return f"unix:{absolute}"
        except OSError as e:
            raise StartError(
                f"--unix-path {absolute} cannot be used ({e.strerror or e}): choose another path", 2
            ) from e
    raise StartError(
        f"--unix-path {absolute} is in use: stop the server that listens there, or choose another", 2
    )


def _why_not(e: OSError, host: str, port: int) -> str:
    if e.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {host} is in use: stop the process that listens there, "
            "or choose another --port (0 picks a free one)"
        )
    if e.errno == errno.EADDRNOTAVAIL:
        return f"host {host!r} is not an address of this machine: set --host to one (127.0.0.1, 0.0.0.0)"
    if e.errno == errno.EACCES:
        return f"port {port} on {host} needs privileges: choose a --port above 1023"
    return f"cannot listen on {host}:{port} ({e.strerror or e}): choose another --host or --port"


def _read(what: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise StartError(
            f"{what} {path} cannot be read ({e.strerror or e}): correct the path or its permissions", 2
        ) from e
