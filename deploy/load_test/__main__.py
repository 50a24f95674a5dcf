"""Command line of the load tests; `make loadtest` and `make capacity` call it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn

from load_test import capacity, config, generator, payloads, report, servers, slo, targets
from load_test.errors import ConfigError, LoadTestError
from load_test.runner import Load, Tool, resolved
from load_test.targets import ServerName

_CONFIGS = Path("deploy/ghz")
_LIMITS = Path("deploy/slo.toml")
_MODELS = Path("model_repository")
_BUILD = Path("build")
_FOLDER = _BUILD / "loadtest"
_WARM_UP = Load(20, "2s", "const")
_INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where to look; exit 2."""
        self.exit(2, f"error: {message}; see python -m {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="load_test",
        description="Load servers at a rate, judge the answers by deploy/slo.toml, find their capacity. "
        "Run it in the repository's root. Exit status: 0 limits kept, 1 violated or not run, 2 bad arguments.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="load one target and judge the report")
    run.add_argument("target", help="a file of deploy/ghz")
    run.add_argument(
        "--rps", type=_count, default=None, help="calls per second; of step and line the highest"
    )
    run.add_argument("--duration", default="", help='such as "30s"')
    run.add_argument("--schedule", default="", help="const, step or line")
    find = commands.add_parser("capacity", help="find the highest rate within the limits")
    find.add_argument("targets", nargs="*", help="files of deploy/ghz; default: all")
    find.add_argument("--need", type=_count, default=1000, help="calls per second to plan replicas for")
    find.add_argument(
        "--first-rate", type=_count, default=50, help="where the search begins, calls per second (default 50)"
    )
    find.add_argument("--measure-s", type=_count, default=5, help="measured seconds per run (default 5)")
    find.add_argument("--repeats", type=_count, default=3, help="runs per rate at most (default 3)")
    find.add_argument(
        "--out", type=Path, default=_BUILD / "capacity.json", help="figures; the plot beside it"
    )
    for command in (run, find):
        for name in ("triton", "similarity", "strategy"):
            command.add_argument(f"--{name}", default="", help=f"host:port of a {name} that runs elsewhere")
        command.add_argument("--own", action="store_true", help="our generator even where ghz is installed")
        command.add_argument("--configs", type=Path, default=_CONFIGS, help="folder of ghz configs")
        command.add_argument("--limits", type=Path, default=_LIMITS, help="TOML of limits")
    gate = commands.add_parser("gate", help="judge a report of ghz or of our generator")
    gate.add_argument("report", type=Path, help="JSON with details")
    gate.add_argument("--target", required=True, help="a table of the limits")
    gate.add_argument("--limits", type=Path, default=_LIMITS, help="TOML of limits")
    generate = commands.add_parser("generate", help="run our generator on one ghz config, write the report")
    generate.add_argument("--config", type=Path, required=True, help="TOML or JSON")
    write = commands.add_parser("payloads", help="write protosets and requests that the configs name")
    write.add_argument("--folder", type=Path, default=_FOLDER, help="where to (default build/loadtest)")
    write.add_argument("--model-repository", type=Path, default=_MODELS, help="whose models are called")
    return parser


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= capacity.MAX_RATE * 20):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _say(line: str) -> None:
    print(f"loadtest: {line}", flush=True)


async def _run(arguments: argparse.Namespace) -> int:
    target = arguments.target
    document = config.read(targets.config_file(arguments.configs, target))
    limits = slo.load(arguments.limits, target)
    load = Load(arguments.rps, arguments.duration, arguments.schedule)
    _prepare()
    wanted = config.parse(resolved(document, load, "checked:1"), f"deploy/ghz/{target}.toml")  # fail early
    server = targets.server_of(arguments.configs, target)
    tool = Tool(own=arguments.own)
    _say(f"tool: {tool.name}")
    async with servers.running({server}, _given(arguments), _FOLDER, _BUILD, _say) as addresses:
        host = addresses[server]
        await tool.run(resolved(document, _WARM_UP, host), _FOLDER, f"{target}.warm-up")
        schedule = wanted.schedule
        _say(
            f"{target}: {schedule.kind}, {schedule.call_count:,} calls in {schedule.length_s:g} s "
            f"({schedule.mean_rate:.0f}/s, at most {schedule.peak_rate:g}/s)"
        )
        found = await tool.run(resolved(document, load, host), _FOLDER, target)
    return _judge(found, limits, _FOLDER / f"{target}.report.json")


def _judge(found: report.Report, limits: slo.Limits, path: Path) -> int:
    checks = slo.judge(found, limits)
    print(slo.table(checks))
    if found.schedule.kind != "const":
        print(report.by_stage(found))
    for note in slo.notes(found, limits):
        print(f"  note: {note}")
    for check in checks:
        if check.violation:
            print(f"VIOLATED {check.violation}")
    print(f"{'passed' if slo.passed(checks) else 'failed'}: report of {found.tool} in {path}")
    return 0 if slo.passed(checks) else 1


async def _capacity(arguments: argparse.Namespace) -> int:
    chosen = arguments.targets or targets.names(arguments.configs)
    needed: dict[str, ServerName] = {
        target: targets.server_of(arguments.configs, target) for target in chosen
    }
    limits = {target: slo.load(arguments.limits, target) for target in chosen}
    effort = capacity.Effort(
        first_rate=arguments.first_rate, measure_s=arguments.measure_s, repeats=arguments.repeats
    )
    _prepare()
    tool = Tool(own=arguments.own)
    _say(f"tool: {tool.name}")
    found: list[capacity.Capacity] = []
    # One server at a time: what stands idle beside it takes no part of the machine.
    for server in dict.fromkeys(needed.values()):
        async with servers.running({server}, _given(arguments), _FOLDER, _BUILD, _say) as addresses:
            for target in (target for target in chosen if needed[target] == server):
                document = config.read(targets.config_file(arguments.configs, target))
                search = capacity.Search(tool, document, addresses[server], _FOLDER, _say)
                found.append(await search.find(target, limits[target], effort))
    plot = arguments.out.with_suffix(".svg")
    capacity.write(found, arguments.need, tool.name.partition(" (")[0], arguments.out, plot)
    print(f"\n{capacity.table(found, arguments.need)}\n\nfigures in {arguments.out}, plot in {plot}")
    return 0 if all(one.rate for one in found) else 1


def _prepare() -> None:
    """Write what the configs name; always anew, so that it fits the models that are there."""
    payloads.write(_FOLDER, _MODELS)


def _given(arguments: argparse.Namespace) -> dict[ServerName, str]:
    return {
        "triton": arguments.triton,
        "similarity": arguments.similarity,
        "strategy": arguments.strategy,
    }


def _interruptible(work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    async def main() -> int:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # Ctrl-C is asyncio.run's
        return await work()

    try:
        return asyncio.run(main())
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted; what was started is stopped", flush=True)
        return _INTERRUPTED


def _dispatch(arguments: argparse.Namespace) -> int:
    if arguments.command == "run":
        return _interruptible(lambda: _run(arguments))
    if arguments.command == "capacity":
        return _interruptible(lambda: _capacity(arguments))
    if arguments.command == "gate":
        return _judge(
            report.read(arguments.report), slo.load(arguments.limits, arguments.target), arguments.report
        )
    if arguments.command == "generate":
        loaded = config.load(arguments.config)
        generator.write(loaded, generator.run(loaded))
        return 0
    for path in payloads.write(arguments.folder, arguments.model_repository):
        print(path)
    return 0


def main() -> int:
    """Run a command; return the exit status."""
    arguments = _parser().parse_args()
    try:
        return _dispatch(arguments)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except LoadTestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
