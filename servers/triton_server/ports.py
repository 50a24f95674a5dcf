"""Choose the ports of the server, and find out early when one is taken."""

import errno
import socket
from dataclasses import dataclass

from triton_server import UnusableInput


@dataclass(frozen=True, slots=True)
class Ports:
    """The three ports of a tritonserver; 0 means any free one."""

    grpc: int = 0
    http: int = 0
    metrics: int = 0


def choose_ports(host: str, wanted: Ports) -> Ports:
    """Replace each 0 with a free port and check the others.

    Raises:
        UnusableInput: A wanted port is taken, or the host is not this machine's.
    """
    options = {"--grpc-port": wanted.grpc, "--http-port": wanted.http, "--metrics-port": wanted.metrics}
    fixed = [port for port in options.values() if port]
    if len(set(fixed)) < len(fixed):
        raise UnusableInput(f"the ports {', '.join(f'{o} {p}' for o, p in options.items() if p)} must differ")
    sockets: list[socket.socket] = []
    try:
        # All stay bound until the last is chosen, so that no two are the same.
        for option, port in options.items():
            sockets.append(_bound(host, port, option))
        return Ports(*(bound.getsockname()[1] for bound in sockets))
    finally:
        for bound in sockets:
            bound.close()


def _bound(host: str, port: int, option: str) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as e:
        raise UnusableInput(f"--host {host} is not an address of this machine: {e.strerror}") from e
    bound = socket.socket(family, kind, protocol)
    if port:  # one that an earlier server left a moment ago is free
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as e:
        bound.close()
        if e.errno == errno.EADDRINUSE:
            raise UnusableInput(
                f"{option} {port} is in use on {host}: stop what listens there, or choose another (0 picks one)"
            ) from e
        raise UnusableInput(f"can't listen on {host}:{port} ({option}): {e.strerror}") from e
    return bound
