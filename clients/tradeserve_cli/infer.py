"""`tradeserve infer`: ask one model in Triton."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradeserve_cli import output
from tradeserve_cli.arguments import Subparsers, UsageError, add_command, whole
from tradeserve_cli.connections import clients, timeout_s
from tradeserve_cli.inputs import fitted, made_up, read_array, read_arrays
from tradeserve_client.answers import Answer, NoAnswer
from tradeserve_client.contract import ModelContract
from tradeserve_client.inference import Inference
from tradeserve_client.sequence import lone_step
from tradeserve_client.triton import TritonClient

_MAX_VERSION = 2**31 - 1


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "infer",
        summary="Ask a model in Triton and print its outputs.",
        example="tradeserve infer lstm_cnn --random\n"
        "tradeserve infer lstm_cnn window.csv --json\n"
        "tradeserve infer gaf_resnet window=window.npy --output embedding --save embedding.npy",
        servers=("triton",),
        json_fields="model, version, artifact_sha256, request_id, round_trip_ms, outputs {name: {dtype, shape, "
        "values}}; without an answer: answered false, reason, detail",
    )
    parser.add_argument("model", metavar="MODEL", help="its name in Triton")
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="[NAME=]FILE",
        help="an input: .npy, .npz, .csv (a row per line) or .json (nested lists, or an object of inputs)",
    )
    parser.add_argument(
        "--random", action="store_true", help="make the inputs up; a window gets made-up bars"
    )
    parser.add_argument(
        "--seed", type=whole(0, 2**32 - 1), default=0, metavar="N", help="of --random (default: 0)"
    )
    parser.add_argument(
        "--version",
        type=whole(1, _MAX_VERSION),
        default=0,
        metavar="N",
        help="of the model (default: newest)",
    )
    parser.add_argument(
        "--output", action="append", default=[], metavar="NAME", help="only this output; repeatable"
    )
    parser.add_argument(
        "--save", type=Path, metavar="FILE", help="the outputs as .npz, or the only one as .npy"
    )
    parser.set_defaults(run=_run)


async def _run(arguments: argparse.Namespace) -> int:
    if bool(arguments.inputs) == arguments.random:
        raise UsageError("give the model's inputs as files, or --random; one of the two")
    if arguments.save is not None and arguments.save.suffix not in (".npy", ".npz"):
        raise UsageError(f"--save {arguments.save}: give a name that ends in .npy or .npz")
    async with clients(arguments, "triton") as connected:
        client = connected.triton
        contract = await contract_of(client, arguments.model, arguments.version, timeout_s(arguments))
        _check_outputs(arguments.output, contract)
        inputs: Mapping[str, NDArray[Any]]
        if arguments.random:
            inputs = {spec.name: made_up(spec, arguments.seed) for spec in contract.inputs}
        else:
            inputs = _files(arguments.inputs, contract)
        outcome = await client.infer(
            arguments.model,
            inputs,
            budget=timeout_s(arguments),
            version=arguments.version,
            outputs=arguments.output,
            sequence=lone_step(contract),
        )
    if isinstance(outcome, NoAnswer):
        return output.no_answer(arguments.model, outcome.reason, outcome.detail, as_json=arguments.json)
    if arguments.save is not None:
        _save(arguments.save, outcome.value.outputs)
    if arguments.json:
        output.document(_as_json(outcome, contract))
    else:
        _print(outcome, contract)
    return 0


async def contract_of(client: TritonClient, model: str, version: int, limit_s: float) -> ModelContract:
    """Connect and read what the server serves.

    Raises:
        CallError: No answer, or that version is not served.
    """
    await client.ready(limit_s)
    return await client.contract(model, version, timeout_s=limit_s)


def described(answer: Answer[Inference]) -> Mapping[str, Any]:
    """Return what --json says of every answer of a model: which one it was, and how long it took."""
    return {
        "answered": True,
        "model": answer.value.model_name,
        "version": answer.value.model_version,
        "artifact_sha256": answer.call.artifact_sha256,
        "request_id": answer.call.request_id,
        "round_trip_ms": output.milliseconds(answer.call.round_trip_ns),
    }


def headline(answer: Answer[Inference]) -> str:
    """Return the same as a line for people."""
    return (
        f"{answer.value.model_name} version {answer.value.model_version} "
        f"({output.digest(answer.call.artifact_sha256)}) in {answer.call.round_trip_ns / 1e6:.1f} ms"
    )


def _files(arguments: Sequence[str], contract: ModelContract) -> Mapping[str, NDArray[Any]]:
    specs = {spec.name: spec for spec in contract.inputs}
    found: dict[str, NDArray[Any]] = {}
    for argument in arguments:
        name, equals, file = argument.partition("=")
        if equals and name in specs:
            arrays: Mapping[str, NDArray[Any]] = {name: read_array(Path(file))}
        elif equals and not Path(argument).exists():
            raise UsageError(
                f"{argument}: the model has no input {name!r}; its inputs: {', '.join(map(str, specs.values()))}"
            )
        else:
            arrays = read_arrays(Path(argument), tuple(specs))
        for key, array in arrays.items():
            found[key] = fitted(array, specs[key], argument)
    missing = [str(spec) for name, spec in specs.items() if name not in found]
    if missing:
        raise UsageError(f"the input {missing[0]} is missing: give {missing[0].split()[0]}=FILE")
    return found


def _check_outputs(names: Sequence[str], contract: ModelContract) -> None:
    known = [spec.name for spec in contract.outputs]
    for name in names:
        if name not in known:
            raise UsageError(f"--output {name}: the model has {', '.join(known)}")


def _save(path: Path, outputs: Mapping[str, NDArray[Any]]) -> None:
    if path.suffix == ".npy" and len(outputs) != 1:
        raise UsageError(
            f"--save {path}: a .npy file holds one output, the model gave {', '.join(outputs)}: "
            "choose one with --output, or give a name that ends in .npz"
        )
    try:
        if path.suffix == ".npy":
            np.save(path, next(iter(outputs.values())))
        else:
            np.savez(path, allow_pickle=False, **outputs)
    except OSError as error:
        raise UsageError(f"--save {path}: can't be written: {error.strerror or error}") from error


def _as_json(answer: Answer[Inference], contract: ModelContract) -> Mapping[str, Any]:
    dtypes = {spec.name: spec.dtype for spec in contract.outputs}
    return {
        **described(answer),
        "outputs": {
            name: {"dtype": dtypes[name], "shape": list(array.shape), "values": array}
            for name, array in answer.value.outputs.items()
        },
    }


def _print(answer: Answer[Inference], contract: ModelContract) -> None:
    output.line(headline(answer))
    for spec in contract.outputs:
        if spec.name in answer.value.outputs:
            array = answer.value.outputs[spec.name]
            output.line(f"{spec.name} {spec.dtype} {list(array.shape)}")
            output.line(output.tensor(array))
    if statement := contract.parameters.get("statement"):
        output.line(statement)
