"""Writes and reads Triton model configurations.

The same folder serves on a GPU (`config.pbtxt`) and on a plain machine (`configs/cpu.pbtxt`, chosen
with `--model-config-name=cpu`). No queue policy: it stalls innocent requests after a burst. No graph
level: it lowers ONNX Runtime's own. TensorRT stays at FP32: log returns of 1e-4 vanish in FP16.

No queue delay: a lone request pays for it (100 us: the median of one client's calls is 4.4 times that of
the model in process instead of 4.1; 200 us: 4.9), and under load batches form while the one before runs,
so that no gain at 16 or 64 clients could be told from the noise.

Source: github.com/triton-inference-server/onnxruntime_backend README, "TensorRT optimization".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from model_export.contract import ModelContract, Tensor

# Each config's place in the model's folder, and whether it is for a GPU.
CONFIG_FILES = {"config.pbtxt": True, "configs/cpu.pbtxt": False}
QUEUE_DELAY_US = 0
_OPTIMAL_BATCH = 8
_MAX_STATEMENT = 200


def parameters(
    artifact_sha256: str,
    export_commit: str,
    demonstrated_skill: bool,
    statement: str,
    about: Mapping[str, str],
) -> dict[str, str]:
    """Return the config parameters of a model, that clients check before they call it.

    Args:
        artifact_sha256: Of the graph.
        export_commit: Of the sources.
        demonstrated_skill: Whether it has shown any.
        statement: One sentence on that.
        about: What this kind of model states besides.

    Raises:
        ValueError: The statement is too long for a screen's line.
    """
    if len(statement) > _MAX_STATEMENT:
        raise ValueError(f"the statement has {len(statement)} characters; at most {_MAX_STATEMENT} fit")
    return {
        "artifact_sha256": artifact_sha256,
        "export_commit": export_commit,
        **about,
        "demonstrated_skill": "true" if demonstrated_skill else "false",
        "statement": statement,
    }


def config_text(contract: ModelContract, values: Mapping[str, str], *, gpu: bool) -> str:
    """Return a config.pbtxt.

    Args:
        contract: Names and shapes.
        values: What `parameters` returned.
        gpu: On a GPU, with TensorRT where the contract says so, or for ONNX Runtime on CPUs.
    """
    kind = "KIND_GPU" if gpu else "KIND_CPU"
    blocks = [
        f'name: "{contract.name}"',
        'platform: "onnxruntime_onnx"',
        f"max_batch_size: {contract.max_batch_size}",
        f"input [ {_tensor(contract.input)} ]",
        "output [ " + ", ".join(_tensor(t) for t in contract.outputs) + " ]",
        f"instance_group [ {{ kind: {kind} count: 1 }} ]",
        f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY_US} }}",
        "version_policy { latest { num_versions: 2 } }",
        _warmup(contract),
    ]
    if gpu and contract.tensorrt:
        blocks.append(_tensorrt(contract))
    # Which of several loaded versions clients use that name none; `tradeserve models promote` changes it.
    stated = {**values, "promoted_version": str(contract.version)}
    if not gpu:
        # One thread per call: calls of several models run side by side on few cores.
        stated["intra_op_thread_count"] = "1"
    blocks += [
        f'parameters {{ key: "{key}" value {{ string_value: "{_escape(value)}" }} }}'
        for key, value in stated.items()
    ]
    return "\n".join(blocks) + "\n"


def write_configs(contract: ModelContract, values: Mapping[str, str], folder: Path) -> None:
    """Write both configs of a model into its folder of the repository."""
    (folder / "configs").mkdir(exist_ok=True)
    for name, gpu in CONFIG_FILES.items():
        (folder / name).write_text(config_text(contract, values, gpu=gpu))


def read_parameters(text: str) -> dict[str, str]:
    """Return the parameters of a config that `config_text` wrote."""
    found = re.findall(r'parameters \{ key: "([^"]+)" value \{ string_value: "((?:[^"\\]|\\.)*)" \} \}', text)
    return {key: re.sub(r"\\(.)", r"\1", value) for key, value in found}


def read_tensors(text: str) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return {"input": {name: dims}, "output": {name: dims}} of a config that `config_text` wrote."""
    result: dict[str, dict[str, tuple[int, ...]]] = {}
    for side in ("input", "output"):
        line = next(row for row in text.splitlines() if row.startswith(f"{side} ["))
        pairs = re.findall(r'name: "([^"]+)" data_type: TYPE_\w+ dims: \[ ([-\d, ]+) \]', line)
        result[side] = {name: tuple(int(d) for d in dims.split(",")) for name, dims in pairs}
    return result


def _tensor(tensor: Tensor) -> str:
    return f'{{ name: "{tensor.name}" data_type: TYPE_{tensor.datatype} dims: [ {_dims(tensor.dims)} ] }}'


def _dims(dims: Sequence[int]) -> str:
    return ", ".join(str(d) for d in dims)


def _warmup(contract: ModelContract) -> str:
    """Warm the smallest and the largest batch: memory grows and engines are built before the first request."""
    kind, dims = contract.input.datatype, _dims(contract.warm_dims or contract.input.dims)
    value = f"{{ data_type: TYPE_{kind} dims: [ {dims} ] zero_data: true }}"
    samples = (
        f'{{ name: "{name}" batch_size: {rows} inputs {{ key: "{contract.input.name}" value {value} }} }}'
        for name, rows in (("one", 1), ("full", contract.max_batch_size))
    )
    return f"model_warmup [ {', '.join(samples)} ]"


def _tensorrt(contract: ModelContract) -> str:
    name, shape = contract.input.name, "x".join(str(d) for d in contract.input.dims)
    options = {
        "precision_mode": "FP32",
        "max_workspace_size_bytes": str(1 << 30),
        "trt_engine_cache_enable": "true",
        "trt_profile_min_shapes": f"{name}:1x{shape}",
        "trt_profile_opt_shapes": f"{name}:{_OPTIMAL_BATCH}x{shape}",
        "trt_profile_max_shapes": f"{name}:{contract.max_batch_size}x{shape}",
    }
    rows = "".join(f'\n      parameters {{ key: "{k}" value: "{v}" }}' for k, v in options.items())
    return (
        "optimization {\n  execution_accelerators {\n    gpu_execution_accelerator [ {\n"
        f'      name: "tensorrt"{rows}\n    }} ]\n  }}\n}}'
    )


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')
