"""`tradeserve models deploy|canary|promote|rollback|retire`: replace a model without a lost request."""

from __future__ import annotations

import argparse
from pathlib import Path

from tradeserve_cli import output
from tradeserve_cli.arguments import Parser, Subparsers, add_command, number, whole
from tradeserve_cli.connections import clients, timeout_s
from tradeserve_client.contract import ModelContract
from tradeserve_client.model_control import ModelControl
from tradeserve_client.triton import TritonClient

_MAX_VERSION = 2**31 - 1
_LOAD_TIMEOUT_MS = 120_000.0


def register(commands: Subparsers) -> None:
    """Add the commands below `tradeserve models`."""
    deploy = command(
        commands,
        "deploy",
        "Load a new version beside those that serve, warm it, check its contract; nobody uses it yet.",
        "tradeserve models deploy lstm_cnn new.onnx --card new.card.json",
    )
    deploy.add_argument("file", type=Path, metavar="FILE", help="the model file, .onnx; it is copied")
    deploy.add_argument(
        "--card", type=Path, metavar="FILE", help="its card.json, for what clients show of it"
    )
    add_version(deploy, required=False, text="its number (default: the next free one)")
    deploy.set_defaults(run=_deploy)

    promote = command(
        commands,
        "promote",
        "Make a deployed version the one for clients that name none.",
        "tradeserve models promote lstm_cnn --version 2",
    )
    add_version(promote)
    promote.set_defaults(run=_promote)

    rollback = command(
        commands,
        "rollback",
        "Promote again what was promoted before.",
        "tradeserve models rollback lstm_cnn",
    )
    rollback.set_defaults(run=_rollback)

    canary = command(
        commands,
        "canary",
        "Have a deployed version answer a share of the clients that pinned neither version nor sha256.",
        "tradeserve models canary lstm_cnn --version 2 --share 0.05\n"
        "tradeserve models canary lstm_cnn --version 2 --share 0",
    )
    add_version(canary)
    canary.add_argument(
        "--share", type=number(0.0, 0.5), required=True, metavar="SHARE", help="0 ends it; at most 0.5"
    )
    canary.set_defaults(run=_canary)

    retire = command(
        commands,
        "retire",
        "Unload a version that is not promoted; its folder stays.",
        "tradeserve models retire lstm_cnn --version 1",
    )
    add_version(retire)
    retire.set_defaults(run=_retire)


def command(commands: Subparsers, name: str, summary: str, example: str, json_fields: str = "") -> Parser:
    """Add a command with what all of the lifecycle have."""
    parser = add_command(
        commands,
        name,
        summary=summary,
        example=example,
        servers=("triton",),
        timeout_ms=_LOAD_TIMEOUT_MS,
        json_fields=json_fields or "model, version, versions, artifact_sha256",
    )
    parser.add_argument("model", metavar="MODEL", help="its name in Triton")
    parser.add_argument(
        "--model-repository",
        type=Path,
        default=Path("model_repository"),
        metavar="FOLDER",
        help="the repository that Triton serves, writable here (default: %(default)s)",
    )
    return parser


def add_version(parser: Parser, *, required: bool = True, text: str = "its number") -> None:
    """Add --version."""
    parser.add_argument(
        "--version",
        type=whole(1, _MAX_VERSION),
        default=0,
        required=required,
        metavar="N",
        help=text,
    )


def control_of(arguments: argparse.Namespace, client: TritonClient) -> ModelControl:
    """Return what changes the models of the repository that a command line names."""
    return ModelControl(client, arguments.model_repository, load_timeout_s=timeout_s(arguments))


async def _deploy(arguments: argparse.Namespace) -> int:
    async with clients(arguments, "triton") as connected:
        control = control_of(arguments, connected.triton)
        deployed = await control.deploy(
            arguments.model, arguments.file, version=arguments.version, card=arguments.card
        )
    return say(arguments, deployed.contract, "deployed, not promoted")


async def _promote(arguments: argparse.Namespace) -> int:
    async with clients(arguments, "triton") as connected:
        control = control_of(arguments, connected.triton)
        contract = await control.promote(arguments.model, arguments.version)
    return say(arguments, contract, "promoted")


async def _rollback(arguments: argparse.Namespace) -> int:
    async with clients(arguments, "triton") as connected:
        control = control_of(arguments, connected.triton)
        contract = await control.rollback(arguments.model)
    return say(arguments, contract, "promoted again")


async def _canary(arguments: argparse.Namespace) -> int:
    async with clients(arguments, "triton") as connected:
        control = control_of(arguments, connected.triton)
        contract = await control.canary(arguments.model, arguments.version, arguments.share)
    share = f"{100 * arguments.share:g}% of unpinned calls go to version {arguments.version}"
    return say(arguments, contract, f"promoted; {share}" if arguments.share else "promoted; no canary")


async def _retire(arguments: argparse.Namespace) -> int:
    async with clients(arguments, "triton") as connected:
        control = control_of(arguments, connected.triton)
        await control.retire(arguments.model, arguments.version)
        contract = await control.client.contract(arguments.model, timeout_s=timeout_s(arguments))
    return say(arguments, contract, f"promoted; version {arguments.version} retired")


def say(arguments: argparse.Namespace, contract: ModelContract, state: str) -> int:
    """Print what is promoted now, and what happened; return the exit status."""
    if arguments.json:
        output.document(
            {
                "model": contract.name,
                "version": contract.version,
                "versions": contract.versions,
                "artifact_sha256": contract.artifact_sha256,
            }
        )
        return 0
    served = ", ".join(map(str, contract.versions))
    output.line(
        f"{contract.name} version {contract.version} ({output.digest(contract.artifact_sha256)}) {state}; "
        f"loaded: {served}"
    )
    return 0
