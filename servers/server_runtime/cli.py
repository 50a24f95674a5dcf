"""Options that the command line of every server shares."""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from server_runtime.deadlines import DEFAULT_MARGIN_S
from server_runtime.errors import StartError
from server_runtime.listen import TlsFiles
from server_runtime.server import ServerOptions, Transport


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that starts with `error:`."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line, and exit with 2."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ServerOptions` and of the logs to a parser."""
    defaults = ServerOptions()
    listen = parser.add_argument_group("listening")
    listen.add_argument("--host", default=defaults.host, help="address to listen on (default: %(default)s)")
    listen.add_argument(
        "--port", type=_port, default=0, help="port to listen on; 0 picks a free one (default)"
    )
    listen.add_argument("--unix-path", type=Path, metavar="PATH", help="listen on a Unix socket instead")
    listen.add_argument("--tls-certificate", type=Path, metavar="FILE", help="server certificate chain, PEM")
    listen.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    listen.add_argument(
        "--tls-client-ca", type=Path, metavar="FILE", help="only clients signed by this authority, PEM (mTLS)"
    )
    listen.add_argument("--transport", choices=[str(name) for name in Transport], default=str(defaults.transport),
                        help="grpc.aio, or gRPC over HTTP/2 of our own (default: %(default)s)")  # fmt: skip
    run = parser.add_argument_group("running")
    run.add_argument(
        "--ready-file", type=Path, metavar="FILE", help="JSON with pid and address, written once healthy"
    )
    run.add_argument("--grace-s", type=_positive_float, default=defaults.grace_s, metavar="S",
                     help="time calls in flight have to finish on SIGTERM (default: %(default)s)")  # fmt: skip
    run.add_argument("--max-in-flight", type=count, default=defaults.max_in_flight, metavar="N",
                     help="most calls in flight; more are refused (default: %(default)s)")  # fmt: skip
    run.add_argument("--max-unaccepted", type=count, metavar="N",
                     help="most calls that grpc.aio holds until they are let in or refused; more it ends with "
                     "CANCELLED; http2 holds none (default: half of --max-in-flight, at least 32)")  # fmt: skip
    run.add_argument("--max-streams", type=count, default=defaults.max_streams, metavar="N",
                     help="most streams open (default: %(default)s)")  # fmt: skip
    run.add_argument("--answer-margin-ms", type=_margin, default=DEFAULT_MARGIN_S * 1e3, metavar="MS",
                     help="time a call must have left to be started (default: %(default)s)")  # fmt: skip
    run.add_argument(
        "--metrics-port", type=_port, metavar="PORT", help="serve Prometheus metrics (default: off)"
    )
    run.add_argument(
        "--otlp-endpoint", default="", metavar="HOST:PORT",
        help="send spans of calls that carry traceparent to this OpenTelemetry collector (default: off)",
    )  # fmt: skip
    logs = parser.add_argument_group("logs")
    logs.add_argument("--log-format", choices=["text", "json"], default="text", help="(default: %(default)s)")
    logs.add_argument(
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        default="info",
        help="(default: %(default)s)",
    )


def server_options(args: argparse.Namespace) -> ServerOptions:
    """Return the options that a parsed command line asks for.

    Raises:
        StartError: Options contradict each other.
    """
    if (args.tls_certificate is None) != (args.tls_key is None):
        raise StartError("--tls-certificate and --tls-key come together: give both, or neither", 2)
    if args.tls_client_ca is not None and args.tls_certificate is None:
        raise StartError("--tls-client-ca needs --tls-certificate and --tls-key: give all three", 2)
    return ServerOptions(
        host=args.host,
        port=args.port,
        unix_path=args.unix_path,
        tls=TlsFiles(args.tls_certificate, args.tls_key, args.tls_client_ca) if args.tls_key else None,
        ready_file=args.ready_file,
        grace_s=args.grace_s,
        max_in_flight=args.max_in_flight,
        max_unaccepted=args.max_unaccepted or 0,
        max_streams=args.max_streams,
        answer_margin_s=args.answer_margin_ms / 1e3,
        metrics_port=args.metrics_port,
        otlp_endpoint=args.otlp_endpoint,
        transport=Transport(args.transport),
    )


def report(error: StartError) -> int:
    """Print why a server cannot start, as one line on standard error.

    Returns:
        The exit status of the process.
    """
    sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
    return error.exit_code


def _port(text: str) -> int:
    value = int(text) if text.isdecimal() else -1
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 0 to 65535")
    return value


def count(text: str) -> int:
    """Parse an option that counts something, 1 to 1000000."""
    value = int(text) if text.isdecimal() else 0
    if not 1 <= value <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no count: give a whole number from 1 to 1000000")
    return value


def _positive_float(text: str) -> float:
    return _bounded_float(text, 0.01, 3600.0)


def _margin(text: str) -> float:
    return _bounded_float(text, 0.0, 1000.0)


def _bounded_float(text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is out of range: give a number from {low:g} to {high:g}")
    return value
