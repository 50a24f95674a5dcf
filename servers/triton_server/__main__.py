"""Serve a model repository with the local Triton: `python -m triton_server --help`."""

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

from server_runtime import logs
from triton_server import TritonServerError
from triton_server.launcher import Launcher, LauncherOptions
from triton_server.ports import Ports
from triton_server.watchdog import WatchdogSettings


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError
    return port


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 3600:
        raise ValueError
    return seconds


_port.__name__ = "port (0 to 65535)"
_seconds.__name__ = "number of seconds (above 0, at most 3600)"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m triton_server", description=__doc__)
    parser.add_argument("--model-repository", type=Path, required=True, help="folder of the models")
    parser.add_argument(
        "--venv", type=Path, required=True, help="environment that `make setup` built for Triton"
    )
    parser.add_argument(
        "--backends",
        type=Path,
        default=os.environ.get("TRITON_BACKENDS") or None,
        help="folder of backends to use before ours, such as one with NVIDIA's own onnxruntime (TRITON_BACKENDS)",
    )
    parser.add_argument("--models", default="", help="serve these only, separated by commas (all when empty)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--grpc-port", type=_port, default=0, help="0 picks a free one (%(default)s)")
    parser.add_argument("--http-port", type=_port, default=0, help="0 picks a free one (%(default)s)")
    parser.add_argument("--metrics-port", type=_port, default=0, help="0 picks a free one (%(default)s)")
    parser.add_argument("--ready-file", type=Path, help="JSON written once every model has answered")
    parser.add_argument("--log-file", type=Path, help="Triton's own log is appended here")
    parser.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="the launcher's own log"
    )
    parser.add_argument("--start-timeout-s", type=_seconds, default=60.0, help="for loading (%(default)s)")
    parser.add_argument(
        "--probe-interval-s", type=_seconds, default=2.0, help="of the watchdog (%(default)s)"
    )
    parser.add_argument("--probe-timeout-s", type=_seconds, default=5.0, help="of the watchdog (%(default)s)")
    return parser


async def _run(options: LauncherOptions) -> None:
    launcher = Launcher(options)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, launcher.stop)
    await launcher.run()


def main() -> int:
    """Run the command line and give the exit code."""
    arguments = _parser().parse_args()
    logs.configure("triton_server", json=arguments.log_format == "json")
    options = LauncherOptions(
        repository=arguments.model_repository,
        venv=arguments.venv,
        backends=arguments.backends,
        host=arguments.host,
        ports=Ports(arguments.grpc_port, arguments.http_port, arguments.metrics_port),
        models=tuple(name.strip() for name in arguments.models.split(",") if name.strip()),
        ready_file=arguments.ready_file,
        log_file=arguments.log_file,
        start_timeout_s=arguments.start_timeout_s,
        watchdog=WatchdogSettings(
            interval_s=arguments.probe_interval_s, probe_timeout_s=arguments.probe_timeout_s
        ),
    )
    try:
        asyncio.run(_run(options))
    except TritonServerError as e:
        print("error:", " ".join(str(e).split()), file=sys.stderr)
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
