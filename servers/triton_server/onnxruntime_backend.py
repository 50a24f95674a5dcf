"""Triton's Python-based backend "onnxruntime": serve a standard ONNX model repository.

The launcher copies this one file to <backend-dir>/onnxruntime/model.py, where it stands in for the
native ONNX Runtime backend of the NVIDIA image; so it imports nothing of this project.

Arrays cross the border to Triton as DLPack, never as `Tensor.as_numpy()` or `Tensor(name, array)`:
those are built against numpy 1 and silently give 0 bytes under numpy 2.
"""

import ctypes
import json
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_DEFAULT_MODEL_FILE = "model.onnx"
# What tritonserver itself assumes for a batching model whose config names no max_batch_size.
_DEFAULT_MAX_BATCH_SIZE = 4
_DLPACK_CPU = (1, 0)
# Asking Triton whether a request was cancelled is a round trip of 60 us: too dear for a model of 200 us.
_WORTH_ASKING_NS = 1_000_000
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


# Where a state is kept, and of which sequence it is.
_Place: TypeAlias = tuple[Hashable, int | str]


class _Job(NamedTuple):
    """One request that has to be computed: where its answer goes and what it brings."""

    position: int
    feeds: dict[str, Any]
    output_names: list[str]
    row_count: int
    place: _Place | None


class _Exported:
    """An input tensor as numpy asks for it; Triton's own `__dlpack__` takes no arguments, on which numpy retries."""

    __slots__ = ("_tensor",)

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    def __dlpack__(self, **_: Any) -> Any:
        return self._tensor.to_dlpack()

    def __dlpack_device__(self) -> tuple[int, int]:
        return _DLPACK_CPU


class _Sequences:
    """What the sequences of a model with state carry from one request to the next.

    Triton hands a Python-based backend the initial state with every request and takes none back. It
    bounds how many sequences run, and ends idle ones without a word. With the direct strategy a
    request's position is its slot, where the next sequence replaces the state. With the oldest one
    states go by id, and whose was used longest ago makes room. Only the former tells apart an id that
    is started again from its predecessor whose end is not answered yet.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        batching = config.get("sequence_batching", {})
        batch = config.get("max_batch_size", 0)
        self.used = bool(batching)
        self.states: list[dict[str, Any]] = batching.get("state", [])
        self.controls = [_control(entry) for entry in batching.get("control_input", [])]
        self._by_id = "oldest" in batching
        self._limit = max(1, batching["oldest"]["max_candidate_sequences"] if self._by_id else batch)
        self._row = [1] if batch else []
        self._held: OrderedDict[Hashable, tuple[int | str, dict[str, Any]]] = OrderedDict()

    def feed(self, position: int, request: Any, feeds: dict[str, Any]) -> _Place | None:
        """Put the sequence's state into a request; give the place for what it leaves, None after its last.

        Raises:
            ValueError: It is not the first of its sequence, and the state is unknown.
        """
        if not self.states:
            return None
        sequence_id, flags = request.correlation_id(), request.flags()
        key = sequence_id if self._by_id else position
        if flags & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
            self._held.pop(key, None)
            for state in self.states:
                if not state.get("initial_state"):  # what Triton brings then is not initialised
                    shape = self._row + [max(1, int(size)) for size in state["dims"]]
                    feeds[state["input_name"]] = np.zeros(shape, _dtype(state["data_type"]))
        else:
            holder, held = self._held.get(key, (None, {}))
            if holder != sequence_id:
                raise ValueError(
                    f"the state of sequence {sequence_id!r} is unknown, as its first request failed: start it again"
                )
            feeds.update(held)
            self._held.move_to_end(key)
        if flags & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END:
            self._held.pop(key, None)
            return None
        return key, sequence_id

    def keep(self, place: _Place | None, outputs: Mapping[str, Any], rows: slice) -> None:
        """Keep what a run left for the next request of a sequence."""
        if place is None:
            return
        key, sequence_id = place
        # A copy: the rest of the batch is not to stay in memory with it.
        held = {
            state["input_name"]: _part(outputs[state["output_name"]], rows).copy() for state in self.states
        }
        self._held[key] = (sequence_id, held)
        self._held.move_to_end(key)
        while len(self._held) > self._limit:
            self._held.popitem(last=False)


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
            str(Path(pb_utils.get_model_dir()) / file_name), providers=[_CPU]
        )
        sequences = _Sequences(config)
        own = {state[key] for state in sequences.states for key in ("input_name", "output_name")}
        own |= {entry["name"] for entry in sequences.controls}
        inputs, outputs = (
            [_described(node) for node in nodes if node.name not in own] for nodes in _nodes(session)
        )
        batched = config["max_batch_size"] > 0
        if not batched and all(dims and dims[0] == -1 for _, _, dims in inputs + outputs):
            auto_complete_model_config.set_max_batch_size(_DEFAULT_MAX_BATCH_SIZE)
            if not sequences.used:
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
        if options.inter_op_num_threads != 1:
            options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
        providers = _providers(
            config,
            args.get("model_instance_kind", "CPU"),
            int(args.get("model_instance_device_id", "0")),
            onnxruntime.get_available_providers(),
        )
        self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        self._batched = config.get("max_batch_size", 0) > 0
        self._sequences = sequences = _Sequences(config)
        graph_inputs, graph_outputs = _nodes(self._session)
        inputs, outputs = (
            config[kind] + [{**state, "name": state[f"{kind}_name"]} for state in sequences.states]
            for kind in ("input", "output")
        )
        _compare("input", inputs + sequences.controls, graph_inputs, self._batched, path)
        _compare("output", outputs, graph_outputs, self._batched, path)
        self._needed = {entry["name"] for entry in config["input"] if not entry.get("optional")}
        self._output_names = [entry["name"] for entry in config["output"]]
        self._request_ns = 0

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer every request, in order; one that fails never fails its neighbours."""
        responses: list[Any] = [None] * len(requests)
        groups: dict[tuple[Any, ...], list[_Job]] = {}
        # Triton drops what is cancelled, or past its deadline, from its queue; but it keeps one batch
        # ahead of the one that runs, which grows old behind a slow model.
        # A sequence that misses one of its requests would go on from the wrong state, so they all run.
        ask = self._request_ns > _WORTH_ASKING_NS and not self._sequences.used
        for position, request in enumerate(requests):
            if self._sequences.used and not request.correlation_id():
                responses[position] = pb_utils.InferenceResponse([])  # it only fills a slot that has none
                continue
            if ask and request.is_cancelled():
                responses[position] = _failure("cancelled before its run", pb_utils.TritonError.CANCELLED)
                continue
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
        feeds = {tensor.name(): np.from_dlpack(_Exported(tensor)) for tensor in request.inputs()}
        place = self._sequences.feed(position, request, feeds)
        if not self._needed <= feeds.keys():
            raise ValueError(f"input '{min(self._needed - feeds.keys())}' is missing")
        wanted = request.requested_output_names()
        output_names = [name for name in self._output_names if name in wanted] or self._output_names
        row_count = 0
        if self._batched:
            counts = {array.shape[0] for array in feeds.values()}
            if len(counts) != 1:
                raise ValueError(f"the inputs have {sorted(counts)} rows, expected the same number in each")
            (row_count,) = counts
        return _Job(position, feeds, output_names, row_count, place)

    def _group_key(self, job: _Job) -> tuple[Any, ...]:
        """Tell requests apart that can't share a run: other inputs or other inner shapes."""
        if not self._batched:
            return (job.position,)
        return tuple(sorted((name, array.shape[1:]) for name, array in job.feeds.items()))

    def _run(self, jobs: list[_Job], responses: list[Any]) -> None:
        names = {name: None for job in jobs for name in job.output_names}
        names |= {state["output_name"]: None for state in self._sequences.states}
        feeds = jobs[0].feeds
        if len(jobs) > 1:
            feeds = {name: np.concatenate([job.feeds[name] for job in jobs]) for name in feeds}
        began_ns = perf_counter_ns()
        try:
            outputs = dict(zip(names, self._session.run(list(names), feeds), strict=True))
            if len(jobs) > 1:
                _check_rows(outputs, sum(job.row_count for job in jobs))
        except Exception as e:  # noqa: BLE001 - onnxruntime's exceptions share no base class
            if len(jobs) == 1:
                responses[jobs[0].position] = _failure(f"onnxruntime: {e}", pb_utils.TritonError.INTERNAL)
                return
            for job in jobs:
                self._run([job], responses)
            return
        self._request_ns = (perf_counter_ns() - began_ns) // len(jobs)
        start = 0
        for job in jobs:
            rows = slice(start, start + job.row_count) if len(jobs) > 1 else slice(None)
            start += job.row_count
            try:
                tensors = [_tensor(name, outputs[name], rows) for name in job.output_names]
            except pb_utils.TritonModelException as e:  # Triton takes no empty tensor, for one
                responses[job.position] = _failure(f"the output: {e}", pb_utils.TritonError.INTERNAL)
                continue
            self._sequences.keep(job.place, outputs, rows)
            responses[job.position] = pb_utils.InferenceResponse(tensors)


def _nodes(session: Any) -> tuple[list[Any], list[Any]]:
    return session.get_inputs(), session.get_outputs()


def _described(node: Any) -> tuple[str, str, list[int]]:
    """Say a graph input or output in Triton's words; a symbolic dimension is -1."""
    if node.type not in _TRITON_TYPES:
        raise ValueError(f"tensor '{node.name}' has type {node.type}, which this backend can't serve")
    return node.name, _TRITON_TYPES[node.type], [d if isinstance(d, int) else -1 for d in node.shape]


def _control(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Say a control input of a sequence as any other input."""
    (control,) = entry["control"]
    given = [kind for kind in ("fp32", "int32", "bool") if control.get(f"{kind}_false_true")]
    data_type = f"TYPE_{given[0].upper()}" if given else control["data_type"]
    return {"name": entry["name"], "data_type": data_type, "dims": [1]}


def _dtype(data_type: str) -> np.dtype[Any]:
    return np.dtype(data_type.removeprefix("TYPE_").lower().replace("fp", "float"))


def _compare(
    kind: str, entries: Iterable[dict[str, Any]], nodes: list[Any], batched: bool, path: Path
) -> None:
    graph = {name: (data_type, dims) for name, data_type, dims in map(_described, nodes)}
    for entry in entries:
        name, data_type = entry["name"], entry["data_type"]
        if name not in graph:
            raise ValueError(f"config.pbtxt names {kind} '{name}', but {path} has {sorted(graph)}")
        graph_type, graph_dims = graph[name]
        if graph_type != data_type:
            raise ValueError(f"config.pbtxt says {kind} '{name}' is {data_type}, {path} says {graph_type}")
        shape = entry.get("reshape", {}).get("shape", entry["dims"])
        dims = [-1] * batched + [int(size) for size in shape]
        # An output of unknown rank has no dims in the graph; -1 on either side fits any length.
        if graph_dims and (
            len(dims) != len(graph_dims)
            or any(a != b and -1 not in (a, b) for a, b in zip(dims, graph_dims, strict=True))
        ):
            raise ValueError(
                f"config.pbtxt says {kind} '{name}' has dims {dims} with the batch, {path} says {graph_dims}"
            )


def _providers(
    config: Mapping[str, Any], kind: str, device_id: int, available: Sequence[str]
) -> list[str | tuple[str, dict[str, str]]]:
    """Give ONNX Runtime's providers, best first, for the instance group that Triton chose.

    Raises:
        ValueError: The group is on a GPU and this ONNX Runtime has no CUDA.
    """
    if kind != "GPU":
        return [_CPU]
    if _CUDA not in available:
        raise ValueError(
            f"config.pbtxt wants KIND_GPU, but this onnxruntime has only {', '.join(available)}: install "
            "onnxruntime-gpu in Triton's environment, or serve configs/cpu.pbtxt (--model-config-name=cpu)"
        )
    device = {"device_id": str(device_id)}
    chosen: list[str | tuple[str, dict[str, str]]] = [(_CUDA, device), _CPU]
    accelerators = config.get("optimization", {}).get("execution_accelerators", {})
    for accelerator in accelerators.get("gpu_execution_accelerator", []):
        if accelerator["name"] == "tensorrt" and _TENSORRT in available:
            chosen.insert(0, (_TENSORRT, device | _tensorrt_options(accelerator.get("parameters", {}))))
    return chosen


def _tensorrt_options(parameters: Mapping[str, str]) -> dict[str, str]:
    """Translate the native backend's parameters; those that start with trt_ are ONNX Runtime's own."""
    options = {key: value for key, value in parameters.items() if key.startswith("trt_")}
    precision = parameters.get("precision_mode", "FP32")
    if precision in {"FP16", "INT8"}:
        options[f"trt_{precision.lower()}_enable"] = "true"
    if "max_workspace_size_bytes" in parameters:
        options["trt_max_workspace_size"] = parameters["max_workspace_size_bytes"]
    return options


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


def _part(array: Any, rows: slice) -> Any:
    return array[rows] if array.ndim else array


def _tensor(name: str, array: Any, rows: slice) -> Any:
    capsule = _part(array, rows).__dlpack__()
    tensor = pb_utils.Tensor.from_dlpack(name, capsule)
    # Triton marks the capsule as taken under a name that DLPack doesn't know, on which numpy's
    # destructor prints an error per request, or recurses until the stub dies (numpy 1.26).
    ctypes.pythonapi.PyCapsule_SetName(ctypes.py_object(capsule), _TAKEN)
    return tensor


def _failure(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(message, code))
