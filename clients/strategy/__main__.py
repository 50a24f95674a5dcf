"""Command line of the strategy client."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from journal.errors import JournalError
from journal.session import database
from server_runtime import logs
from server_runtime.errors import StartError
from strategy import config
from strategy.adapters.errors import AdapterError
from strategy.calibrate_command import calibrate
from strategy.composition import DEFAULT_LOOK, RunOptions, run
from strategy.replay_command import LATEST, replay
from tradeserve_client.errors import TradeserveError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="strategy", description="Trade on forecasts that came in time.")
    commands = parser.add_subparsers(dest="command", required=True)
    run_command = commands.add_parser("run", help="trade until the end of the session, or until Ctrl-C")
    check = commands.add_parser("check-config", help="check a configuration and print what it amounts to")
    replay_command = commands.add_parser(
        "replay", help="make the recorded decisions of a run again and compare"
    )
    replay_command.add_argument(
        "run_id", nargs="?", default=LATEST, help="of the journal; default: the latest run"
    )
    replay_command.add_argument(
        "--models", action="store_true", help="ask the models again, on the recorded windows"
    )
    replay_command.add_argument("--data-dir", type=Path, default=None, help="of the embedded Postgres")
    calibrate_command = commands.add_parser(
        "calibrate-vision", help="fit what confidences of the vision server were worth, from the journal"
    )
    calibrate_command.add_argument(
        "--out", type=Path, default=Path("build/vision_calibration.json"), help="file to write"
    )
    calibrate_command.add_argument(
        "--horizon-bars",
        type=int,
        default=None,
        help="bars after the chart (default: [ensemble] horizon_bars)",
    )
    calibrate_command.add_argument(
        "--min-count",
        type=int,
        default=None,
        help="outcomes needed (default: [vision] min_calibration_count)",
    )
    calibrate_command.add_argument("--model", default="", help="first digits of the model's sha256")
    calibrate_command.add_argument("--data-dir", type=Path, default=None, help="of the embedded Postgres")
    commands.add_parser("defaults", help="print the default configuration, with comments")
    for command in (run_command, check, replay_command, calibrate_command):
        command.add_argument("--config", type=Path, default=None, help="TOML on top of the defaults")
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="SECTION.KEY=VALUE",
            help="override one key; repeatable",
        )
        command.add_argument(
            "--i-understand-this-trades-real-money",
            action="store_true",
            dest="live_confirmed",
            help='the second switch of live trading, beside trading.mode = "live"',
        )
    run_command.add_argument(
        "--state-dir", type=Path, default=Path("build/state"), help="where a kill is latched"
    )
    run_command.add_argument(
        "--log-file", type=Path, default=None, help="log there instead of standard error"
    )
    run_command.add_argument("--log-format", choices=("text", "json"), default="text")
    run_command.add_argument("--data-source", default="gateway", help="recorded with the run")
    run_command.add_argument(
        "--seed", type=int, default=None, help="of a generated market; recorded with the run"
    )
    run_command.add_argument("--until-ns", type=int, default=None, help="exchange time at which the run ends")
    run_command.add_argument(
        "--ready-file", type=Path, default=None, help="JSON with pid and address of the control service"
    )
    run_command.add_argument("--look", default=DEFAULT_LOOK, help="command line with {sql}, for the report")
    return parser


def _overrides(settings: Sequence[str]) -> dict[str, str]:
    overrides = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise config.ConfigError(f"--set {setting}: expected SECTION.KEY=VALUE")
        overrides[key.strip()] = value
    return overrides


def main() -> int:
    """Run a command; return the exit status: 2 for a wrong configuration, 1 for a wrong world."""
    arguments = _parser().parse_args()
    if arguments.command == "defaults":
        print(config.default_toml(), end="")
        return 0
    try:
        settings = config.load(
            arguments.config,
            _overrides(arguments.set),
            environment=os.environ,
            live_confirmed=arguments.live_confirmed,
        )
    except config.ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.command == "check-config":
        print(json.dumps(settings.to_json(), indent=2))
        return 0
    if arguments.command == "replay":
        return _replay(arguments, settings)
    if arguments.command == "calibrate-vision":
        return _calibrate(arguments, settings)
    options = RunOptions(
        state_dir=arguments.state_dir,
        data_source=arguments.data_source,
        seed=arguments.seed,
        until_ns=arguments.until_ns,
        live_confirmed=arguments.live_confirmed,
        look=arguments.look,
        ready_file=arguments.ready_file,
    )
    stream = arguments.log_file.open("a") if arguments.log_file else sys.stderr
    logs.configure("strategy", json=arguments.log_format == "json", stream=stream)
    try:
        asyncio.run(run(settings, options))
    except (AdapterError, TradeserveError, JournalError, StartError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        print("stopped before it traded")
        return 130
    return 0


def _replay(arguments: argparse.Namespace, settings: config.StrategyConfig) -> int:
    logs.configure("strategy", json=False, stream=sys.stderr, level="warning")
    try:
        with database(settings.journal.database_url, arguments.data_dir) as url:
            same = asyncio.run(replay(url, arguments.run_id, settings if arguments.models else None, print))
    except (TradeserveError, JournalError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0 if same else 1


def _calibrate(arguments: argparse.Namespace, settings: config.StrategyConfig) -> int:
    horizon_bars = arguments.horizon_bars or settings.ensemble.horizon_bars
    min_count = arguments.min_count or settings.vision.min_calibration_count
    try:
        with database(settings.journal.database_url, arguments.data_dir) as url:
            asyncio.run(
                calibrate(
                    url,
                    arguments.out,
                    horizon_bars=horizon_bars,
                    min_count=min_count,
                    model_sha256=arguments.model,
                    say=print,
                )
            )
    except JournalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {arguments.out} can't be written: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
