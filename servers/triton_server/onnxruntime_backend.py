"""Triton's Python-based backend "onnxruntime": serve a standard ONNX model repository on the CPU.

The launcher copies this one file to <backend-dir>/onnxruntime/model.py, where it stands in for the
native ONNX Runtime backend of the NVIDIA image; so it imports nothing of this project.

Arrays cross the border to Triton as DLPack, never as `Tensor.as_numpy()` or `Tensor(name, array)`:
those are built against numpy 1 and silently give 0 bytes under numpy 2.
"""

import ctypes
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

_PROVIDERS = ["CPUExecutionProvider"]
_DEFAULT_MODEL_FILE = "model.onnx"
# What tritonserver itself assumes for a batching model whose config names no max_batch_size.
_DEFAULT_MAX_BATCH_SIZE = 4
_DLPACK_CPU = (1, 0)
# The name that DLPack gives a capsule whose content was taken; a capsule keeps a pointer to it.
_TAKEN = ctypes.c_char_p(b"used_dltensor")
_TRITON_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
}


class _Job(NamedTuple):
    """One request that has to be computed: where its answer goes and what it brings."""

    position: int
    feeds: dict[str, Any]
    output_names: list[str]
    batch: int


class _Exported:
    """An input tensor as numpy asks for it; Triton's own `__dlpack__` takes no arguments, on which numpy retries."""

    __slots__ = ("_tensor",)

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    def __dlpack__(self, **_: Any) -> Any:
        return self._tensor.to_dlpack()

    def __dlpack_device__(self) -> tuple[int, int]:
        return _DLPACK_CPU


class TritonPythonModel:
    """One instance of one model version; Triton's stub process creates it."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Fill inputs, outputs and batching from the ONNX graph, as the native backend does."""
        config = auto_complete_model_config.as_dict()
        if config["input"] and config["output"]:
            return auto_complete_model_config
        file_name = config.get("default_model_filename") or _DEFAULT_MODEL_FILE
        session = onnxruntime.InferenceSession(
            str(Path(pb_utils.get_model_dir()) / file_name), providers=_PROVIDERS
        )
        inputs, outputs = ([_described(node) for node in nodes] for nodes in _nodes(session))
        batched = config["max_batch_size"] > 0
        if not batched and all(dims and dims[0] == -1 for _, _, dims in inputs + outputs):
            auto_complete_model_config.set_max_batch_size(_DEFAULT_MAX_BATCH_SIZE)
            auto_complete_model_config.set_dynamic_batching()
            batched = True
        for add, described in (
            (auto_complete_model_config.add_input, inputs),
            (auto_complete_model_config.add_output, outputs),
        ):
            for name, data_type, dims in described:
                add({"name": name, "data_type": data_type, "dims": (dims[1:] or [1]) if batched else dims})
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model and compare it with its config, so that a mismatch stops the start."""
        config = json.loads(args["model_config"])
        file_name = config.get("default_model_filename") or _DEFAULT_MODEL_FILE
        path = Path(args["model_repository"]) / args["model_version"] / file_name
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _int_parameter(config, "intra_op_thread_count", 1)
        options.inter_op_num_threads = _int_parameter(config, "inter_op_thread_count", 1)
        self._session = onnxruntime.InferenceSession(str(path), options, providers=_PROVIDERS)
        self._batched = config.get("max_batch_size", 0) > 0
        graph_inputs, graph_outputs = _nodes(self._session)
        _compare("input", config["input"], graph_inputs, path)
        _compare("output", config["output"], graph_outputs, path)
        self._optional = {entry["name"] for entry in config["input"] if entry.get("optional")}
        self._input_names = [entry["name"] for entry in config["input"]]
        self._output_names = [entry["name"] for entry in config["output"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer every request, in order; one that fails never fails its neighbours.

        Requests cancelled in the queue don't come here, Triton drops them; asking for each one that
        does, `request.is_cancelled()`, is a round trip of 45 us for nothing.
        """
        responses: list[Any] = [None] * len(requests)
        groups: dict[tuple[Any, ...], list[_Job]] = {}
        for position, request in enumerate(requests):
            try:
                job = self._job(position, request)
            except ValueError as e:
                responses[position] = _failure(str(e), pb_utils.TritonError.INVALID_ARG)
                continue
            groups.setdefault(self._group_key(job), []).append(job)
        for jobs in groups.values():
            self._run(jobs, responses)
        return responses

    def finalize(self) -> None:
        """Release the session's memory before Triton unloads the model."""
        self._session = None

    def _job(self, position: int, request: Any) -> _Job:
        feeds = {}
        for name in self._input_names:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is not None:
                feeds[name] = np.from_dlpack(_Exported(tensor))
            elif name not in self._optional:
                raise ValueError(f"input '{name}' is missing")
        wanted = set(request.requested_output_names())
        output_names = [name for name in self._output_names if name in wanted] or self._output_names
        first = next(iter(feeds.values()), None)
        return _Job(
            position, feeds, output_names, first.shape[0] if self._batched and first is not None else 0
        )

    def _group_key(self, job: _Job) -> tuple[Any, ...]:
        """Tell requests apart that can't share a run: other inputs or other inner shapes."""
        if not self._batched:
            return (job.position,)
        return tuple((name, array.shape[1:]) for name, array in job.feeds.items())

    def _run(self, jobs: list[_Job], responses: list[Any]) -> None:
        names = [name for name in self._output_names if any(name in job.output_names for job in jobs)]
        feeds = jobs[0].feeds
        if len(jobs) > 1:
            feeds = {name: np.concatenate([job.feeds[name] for job in jobs]) for name in feeds}
        try:
            outputs = dict(zip(names, self._session.run(names, feeds), strict=True))
            if len(jobs) > 1:
                _check_rows(outputs, sum(job.batch for job in jobs))
        except Exception as e:  # noqa: BLE001 - onnxruntime's exceptions share no base class
            if len(jobs) == 1:
                responses[jobs[0].position] = _failure(f"onnxruntime: {e}", pb_utils.TritonError.INTERNAL)
                return
            for job in jobs:
                self._run([job], responses)
            return
        start = 0
        for job in jobs:
            rows = slice(start, start + job.batch) if len(jobs) > 1 else slice(None)
            start += job.batch
            responses[job.position] = pb_utils.InferenceResponse(
                [_tensor(name, outputs[name], rows) for name in job.output_names]
            )


def _nodes(session: Any) -> tuple[list[Any], list[Any]]:
    return session.get_inputs(), session.get_outputs()


def _described(node: Any) -> tuple[str, str, list[int]]:
    """Say a graph input or output in Triton's words; a symbolic dimension is -1."""
    if node.type not in _TRITON_TYPES:
        raise ValueError(f"tensor '{node.name}' has type {node.type}, which this backend can't serve")
    return node.name, _TRITON_TYPES[node.type], [d if isinstance(d, int) else -1 for d in node.shape]


def _compare(kind: str, entries: Iterable[dict[str, Any]], nodes: list[Any], path: Path) -> None:
    graph = {name: data_type for name, data_type, _ in map(_described, nodes)}
    for entry in entries:
        name, data_type = entry["name"], entry["data_type"]
        if name not in graph:
            raise ValueError(f"config.pbtxt names {kind} '{name}', but {path} has {sorted(graph)}")
        if graph[name] != data_type:
            raise ValueError(f"config.pbtxt says {kind} '{name}' is {data_type}, {path} says {graph[name]}")


def _int_parameter(config: dict[str, Any], key: str, default: int) -> int:
    value = config.get("parameters", {}).get(key, {}).get("string_value", default)
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"config.pbtxt parameter {key} is '{value}', expected a whole number") from None


def _check_rows(outputs: dict[str, Any], batch: int) -> None:
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != batch:
            raise ValueError(f"output '{name}' has shape {array.shape}, expected {batch} rows")


def _tensor(name: str, array: Any, rows: slice) -> Any:
    capsule = (array[rows] if array.ndim else array).__dlpack__()
    tensor = pb_utils.Tensor.from_dlpack(name, capsule)
    # Triton marks the capsule as taken under a name that DLPack doesn't know, on which numpy's
    # destructor prints an error per request, or recurses until the stub dies (numpy 1.26).
    ctypes.pythonapi.PyCapsule_SetName(ctypes.py_object(capsule), _TAKEN)
    return tensor


def _failure(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(message, code))
