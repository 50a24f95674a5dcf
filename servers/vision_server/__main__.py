"""Start the vision server: `python -m vision_server --help`."""

import argparse
import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from server_runtime import cli, logs
from server_runtime.errors import StartError
from server_runtime.listen import claim_port
from server_runtime.server import GrpcServer
from tradeserve.vision.v1 import chart_reading_service_pb2_grpc as pb_grpc
from vision_server import installation
from vision_server.chart_queue import ChartQueue
from vision_server.checkpoint import CARD, PACKAGED, Card, load_card, verify
from vision_server.keeper import EngineKeeper
from vision_server.metrics import VisionMetrics
from vision_server.openai_engine import OpenAiEngine
from vision_server.png import PngLimits
from vision_server.reading_engine import EngineError, ReadingEngine
from vision_server.servicer import READER_METHOD, SERVICE_NAME, ChartReadingServicer, ReadingRules

_log = structlog.get_logger()


def build_parser() -> cli.Parser:
    """Return the parser of the command line."""
    png = PngLimits()
    parser = cli.Parser(
        prog="vision_server",
        description="Read charts with a vision-language model (tradeserve.vision.v1). With --api-url, over the "
        "OpenAI-compatible HTTP API of a vLLM that runs by itself ($VISION_API_KEY is its key); without, vLLM is "
        "loaded here, in the environment that `make venv-vllm` builds, with a small checkpoint of our own.",
    )
    model = parser.add_argument_group("model")
    model.add_argument("--api-url", default="", metavar="URL", help="of a vLLM elsewhere: http://host:port")
    model.add_argument("--api-model", default="", metavar="NAME",
                       help="name it must serve (default: the one on the card)")  # fmt: skip
    model.add_argument("--api-wait-s", type=_seconds, default=10.0, metavar="S",
                       help="how long to wait for it at the start (default: %(default)s)")  # fmt: skip
    model.add_argument("--card", type=Path, metavar="FILE",
                       help="with --api-url: card of what it serves (default: of the packaged checkpoint)")  # fmt: skip
    model.add_argument("--checkpoint", type=Path, default=PACKAGED, metavar="DIR",
                       help="without --api-url: what vLLM loads (default: the packaged one)")  # fmt: skip
    model.add_argument("--venv", type=Path, default=installation.DEFAULT_VENV, metavar="DIR",
                       help="environment of vLLM (default: %(default)s)")  # fmt: skip
    model.add_argument("--engine-args", type=_json_object, default={}, metavar="JSON",
                       help='arguments of vLLM\'s engine, as {"max_num_seqs": 16}')  # fmt: skip
    reading = parser.add_argument_group("reading")
    reading.add_argument("--max-running", type=cli.count, default=8, metavar="N",
                         help="most charts that are read at once (default: %(default)s)")  # fmt: skip
    reading.add_argument("--max-waiting", type=cli.count, default=64, metavar="N",
                         help="most charts that wait (default: %(default)s)")  # fmt: skip
    reading.add_argument("--reading-lifetime-s", type=_seconds, default=120.0, metavar="S",
                         help="how long a reading may be used (default: %(default)s)")  # fmt: skip
    reading.add_argument("--max-side-px", type=_side, default=png.max_side_px, metavar="N",
                         help="largest width and height of a chart (default: %(default)s)")  # fmt: skip
    reading.add_argument("--max-tokens", type=cli.count, metavar="N",
                         help="most tokens of an answer (default: the card's)")  # fmt: skip
    parser.add_argument("--nice", type=_niceness, default=0, metavar="N",
                        help="how much to give way to other processes, 0 to 19 (default: %(default)s)")  # fmt: skip
    cli.add_server_options(parser)
    # What waits and what is read is bounded here; the bound on calls must not refuse before that.
    parser.set_defaults(max_in_flight=256)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT.

    Returns:
        The exit status: 0 after a drain, 2 for bad input, 1 for what the machine lacks, 130 when
        interrupted before it served.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = build_parser().parse_args(given)
    logs.configure("vision", json=args.log_format == "json", level=args.log_level)
    try:
        options = replace(cli.server_options(args), urgent=frozenset({READER_METHOD}))
        card = load_card(args.card or PACKAGED / CARD) if args.api_url else verify(args.checkpoint)
        if args.max_tokens:
            card = replace(card, sampling=replace(card.sampling, max_tokens=args.max_tokens))
        if not args.api_url:
            installation.enter(args.venv, given)
        if options.port and not options.unix_path:
            claim_port(options.host, options.port)  # before a model is loaded for nothing
        os.nice(args.nice)
        server = GrpcServer(options, name="vision")
        asyncio.run(_serve(args, server, card, _engine(args, card)))
    except StartError as e:
        return cli.report(e)
    except KeyboardInterrupt:
        return 130  # while the model was loading: nothing was served yet
    return 0


def _engine(args: argparse.Namespace, card: Card) -> ReadingEngine:
    if args.api_url:
        key = os.environ.get("VISION_API_KEY", "")
        try:
            return OpenAiEngine(args.api_url, args.api_model or card.name, key, wait_s=args.api_wait_s)
        except ValueError as e:
            raise StartError(f"--api-url or VISION_API_KEY can't be used: {e}", 2) from e
    from vision_server.vllm_engine import VllmEngine

    return VllmEngine(args.checkpoint.absolute(), args.max_running, {**card.engine, **args.engine_args})


async def _serve(args: argparse.Namespace, server: GrpcServer, card: Card, engine: ReadingEngine) -> None:
    figures = VisionMetrics(server.metrics.registry)

    async def on_change(there: bool) -> None:
        figures.engine_up.set(there)
        await server.set_serving(SERVICE_NAME, there)

    keeper = EngineKeeper(engine, on_change)
    queue = ChartQueue(args.max_waiting, args.max_running)
    rules = ReadingRules(
        PngLimits(max_side_px=args.max_side_px), args.reading_lifetime_s, server.options.answer_margin_s
    )
    servicer = ChartReadingServicer(keeper, queue, card, rules, server.metrics, figures)
    figures.watch("tradeserve_vision_waiting", "Charts that wait.", lambda: queue.waiting)
    figures.watch("tradeserve_vision_running", "Charts that are being read.", lambda: queue.running)
    figures.watch(
        "tradeserve_vision_superseded", "Charts that a newer one displaced.", lambda: queue.superseded
    )
    figures.watch(
        "tradeserve_vision_engine_restarts", "Times the engine was brought back.", lambda: keeper.restarts
    )
    try:
        try:
            await _start_or_stop(keeper)
        except EngineError as e:
            raise StartError(str(e)) from e
        figures.engine_up.set(1)
        if not args.api_url:
            _include_vllm(figures)
        server.add_service(
            SERVICE_NAME, lambda target: pb_grpc.add_ChartReadingServiceServicer_to_server(servicer, target)
        )
        facts: dict[str, object] = {"name": card.name, "version": card.version,
                                    "artifact_sha256": card.artifact_sha256.hex()}  # fmt: skip
        _log.info("model loaded", **facts, engine=args.api_url or "vLLM in this process")
        await server.serve({"model": facts, "engine": args.api_url or "vllm"})
    finally:
        servicer.close()
        await keeper.close()


async def _start_or_stop(keeper: EngineKeeper) -> None:
    """Start the engine; a signal meanwhile ends this process in order, and the engine's with it."""
    task = asyncio.current_task()
    assert task is not None, "runs in a task"
    loop = asyncio.get_running_loop()
    import signal

    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await keeper.start()
    except asyncio.CancelledError as e:
        raise KeyboardInterrupt from e
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def _include_vllm(figures: VisionMetrics) -> None:
    from prometheus_client import REGISTRY

    with contextlib.suppress(ValueError):  # a figure of the same name
        figures.include(REGISTRY)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is out of range: give seconds from 0 to 86400")
    return value


def _niceness(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 19:
        raise argparse.ArgumentTypeError(f"{text!r} is no niceness: give a whole number from 0 to 19")
    return int(text)


def _side(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if not 32 <= value <= 4096:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: give pixels from 32 to 4096")
    return value


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object")
    return value


if __name__ == "__main__":
    sys.exit(main())
