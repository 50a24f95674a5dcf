"""Command line: train, export, index, all, vlm, detector, examine-detector, configs, check, pin."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from model_export.contract import DETECTOR, MODELS, SERVED, Layout
from model_export.errors import ExportError

_ROOT = Path(__file__).resolve().parents[2]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model_export",
        description="Train the models, export them for Triton, build the index of past market states.",
    )
    parser.add_argument("--root", type=Path, default=_ROOT, help="repository root (default: this one)")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("train", "train the networks; weights go to build/models"),
        ("export", "write graphs, Triton configs and cards from the trained weights"),
        ("index", "build the similarity index with the exported embedding model"),
        ("all", "train, export, index, pin, check"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--data", type=Path, required=True, help="folder with the licensed data sets")
        if name in ("train", "export", "all"):
            command.add_argument("--model", choices=sorted(MODELS), action="append", help="only this one")
        if name in ("train", "all"):
            command.add_argument("--steps", type=int, help="fewer steps: a placeholder, and the card says so")
    vlm = commands.add_parser(
        "vlm", help="train the small chart reader from nothing but a seed (no data needed)"
    )
    vlm.add_argument("--seed", type=int, default=1, help="of all that varies (default: the committed one's)")
    vlm.add_argument("--out", type=Path, help="where the checkpoint goes (default: the vision server's)")
    vlm.add_argument("--work", type=Path, help="for examples and weights on the way (default: build/vlm)")
    vlm.add_argument(
        "--device", default="cpu", help="cpu, or cuda where there is one (other weights than on a CPU)"
    )
    vlm.add_argument("--processes", type=int, default=2, help="that make examples")
    detector = commands.add_parser(
        "detector",
        help="train the chart pattern detector on generated charts, or go on from build/detector; export it",
    )
    detector.add_argument(
        "--seed", type=int, default=1, help="of all that varies (default: the committed one's)"
    )
    detector.add_argument(
        "--data",
        type=Path,
        help="folder with the licensed data sets: learn from screenshots too, as the committed one did "
        "(default: from generated charts alone)",
    )
    detector.add_argument("--steps", type=int, help="fewer steps: a placeholder, and the card says so")
    examine = commands.add_parser(
        "examine-detector", help="examine the exported detector on hand-drawn outlines"
    )
    examine.add_argument("--hand-drawn", type=Path, required=True, help="folder of */images and */labels")
    commands.add_parser("configs", help="write the Triton configs again from the cards")
    commands.add_parser("check", help="check every artifact against its card, configs and contract")
    commands.add_parser("pin", help="write the artifacts' sha256 into clients/strategy/strategy.toml")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return 0, or 2 with one line on stderr when its input is unusable."""
    args = _parser().parse_args(arguments)
    try:
        _run(args)
    except ExportError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as e:
        print(f"error: {e.name} is not installed; pip install 'tradeserve[export]'", file=sys.stderr)
        return 2
    return 0


def _run(args: argparse.Namespace) -> None:
    layout = Layout(args.root)
    if args.command == "check":
        _check(layout)
        return
    if args.command == "pin":
        _pin(layout)
        return
    if args.command == "configs":
        from model_export.repository import write_configs

        for name in SERVED:
            print(write_configs(name, layout), flush=True)
        return
    if args.command in _OTHERS:
        _OTHERS[args.command](args)
        return
    from model_export.data import load_series

    series = load_series(args.data)
    names = getattr(args, "model", None) or list(MODELS)
    if args.command in ("train", "all"):
        from model_export import train

        for name in names:
            print(f"{name}: training", flush=True)
            train.save(train.train(name, series, steps=args.steps), name, layout.work / f"{name}.pt")
    if args.command in ("export", "all"):
        from model_export import export, train

        for name in names:
            weights = layout.work / f"{name}.pt"
            if not weights.is_file():
                raise ExportError(f"{weights}: missing; run `python -m model_export train` first")
            began = time.monotonic()
            card = export.export(name, train.load(weights), series, layout)
            print(f"{name}: exported in {time.monotonic() - began:.0f} s. {card.statement}", flush=True)
    if args.command in ("index", "all"):
        from model_export import index

        print(f"index: {index.build_index(series, layout).statement}", flush=True)
    if args.command == "all":
        _pin(layout)
        _check(layout)


def _vlm(args: argparse.Namespace) -> None:
    from model_export.vlm.recipe import make_reader

    out = args.out or args.root / "servers/vision_server/checkpoint"
    work = args.work or args.root / "build/vlm"
    card = make_reader(work, out, args.root, seed=args.seed, processes=args.processes, device=args.device)
    print(f"{out}: {card['statement']}", flush=True)


def _detector(args: argparse.Namespace) -> None:
    from model_export.detector.recipe import make_detector
    from model_export.detector.training import Recipe

    recipe = Recipe() if args.steps is None else Recipe(steps=args.steps)
    card = make_detector(Layout(args.root), args.data, seed=args.seed, recipe=recipe)
    print(f"{card.name}: {card.statement}", flush=True)


def _examine_detector(args: argparse.Namespace) -> None:
    from model_export.detector.hand_drawn import examine_hand_drawn
    from model_export.detector.served import ServedDetector

    detector = ServedDetector(Layout(args.root).onnx(DETECTOR.name))
    print(json.dumps(examine_hand_drawn(detector, args.hand_drawn), indent=2))


_OTHERS = {"vlm": _vlm, "detector": _detector, "examine-detector": _examine_detector}


def _check(layout: Layout) -> None:
    from model_export.check import check_all

    for line in check_all(layout):
        print(line)


def _pin(layout: Layout) -> None:
    from model_export.pin import pin

    for line in pin(layout):
        print(line)


if __name__ == "__main__":
    sys.exit(main())
