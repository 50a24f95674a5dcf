"""`tradeserve models`: what Triton serves; versions are changed in `model_lifecycle`, tried in `model_shadow`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from tradeserve_cli import model_lifecycle, model_shadow, output
from tradeserve_cli.arguments import Parser, Subparsers, add_command
from tradeserve_cli.connections import clients, timeout_s
from tradeserve_client.answers import Reason
from tradeserve_client.contract import TensorSpec
from tradeserve_client.errors import ServerDownError
from tradeserve_client.model_index import READY, ListedModel, ModelVersion, list_models


def register(commands: Subparsers) -> None:
    """Add the command and the commands below it."""
    summary = "List the models that Triton serves; deploy, promote and roll back versions."
    models = commands.add_parser(
        "models",
        help=summary,
        description=summary,
        epilog="example:\n  tradeserve models          (the same as: tradeserve models list)\n"
        "  tradeserve models COMMAND --help shows an example of each command",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    below = models.add_subparsers(
        dest="models_command", required=True, metavar="COMMAND", parser_class=Parser
    )
    parser = add_command(
        below,
        "list",
        summary="List the models of Triton's repository: versions, sha256, inputs and outputs.",
        example="tradeserve models list\ntradeserve models list --json",
        servers=("triton",),
        json_fields="models [{name, default_version, versions [{version, state, reason, artifact_sha256, "
        "export_commit, inputs [{name, dtype, shape}], outputs [{name, dtype, shape}], statement}]}]",
    )
    parser.set_defaults(run=_run)
    model_lifecycle.register(below)
    model_shadow.register(below)


async def _run(arguments: argparse.Namespace) -> int:
    limit_s = timeout_s(arguments)
    async with clients(arguments, "triton") as connected:
        client = connected.triton
        if not await client.ready(limit_s):
            raise ServerDownError(
                "triton", f"no connection to {client.target} within {limit_s * 1e3:g} ms", Reason.DOWN
            )
        models = await list_models(client, timeout_s=limit_s)
    if arguments.json:
        output.document({"models": [_model(model) for model in models]})
    else:
        _print(models)
    return 0


def _model(model: ListedModel) -> Mapping[str, Any]:
    return {
        "name": model.name,
        "default_version": model.default_version,
        "versions": [_version(version) for version in model.versions],
    }


def _version(version: ModelVersion) -> Mapping[str, Any]:
    contract = version.contract
    return {
        "version": version.version,
        "state": version.state,
        "reason": version.reason,
        "artifact_sha256": contract.artifact_sha256 if contract else "",
        "export_commit": contract.parameters.get("export_commit", "") if contract else "",
        "inputs": [_tensor(spec) for spec in contract.inputs] if contract else [],
        "outputs": [_tensor(spec) for spec in contract.outputs] if contract else [],
        "statement": contract.parameters.get("statement", "") if contract else "",
    }


def _tensor(spec: TensorSpec) -> Mapping[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}


def _print(models: Sequence[ListedModel]) -> None:
    if not models:
        output.line("Triton's repository holds no model")
    for model in models:
        for version in model.versions:
            _print_version(model, version)


def _print_version(model: ListedModel, version: ModelVersion) -> None:
    default = ", asked by default" if version.version == model.default_version else ""
    reason = f" ({version.reason})" if version.reason else ""
    contract = version.contract
    if version.state != READY or contract is None:
        output.line(f"{model.name} version {version.version}: {version.state.lower()}{reason}")
        return
    output.line(
        f"{model.name} version {version.version}: ready{default}, sha256 {output.digest(contract.artifact_sha256)}"
    )
    for kind, specs in (("in ", contract.inputs), ("out", contract.outputs)):
        for spec in specs:
            output.line(f"  {kind} {spec}")
    if statement := contract.parameters.get("statement"):
        output.line(f"  {statement}")
