"""ONNX files as they are committed: traced from torch, with nothing of this machine in them. Needs torch and onnx."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from model_export.contract import MAX_IR_VERSION, OPSET

EXPORTER = "torch.onnx dynamo"


def traced(model: nn.Module, example: torch.Tensor, input_name: str, output_names: Sequence[str]) -> Any:
    """Return the graph of a network, its batch dimension free."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it reports that torchvision is absent
        raw = Path(folder) / "raw.onnx"
        torch.onnx.export(
            model.eval(),
            (example,),
            str(raw),
            input_names=[input_name],
            output_names=list(output_names),
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            external_data=False,
            verbose=False,
        )
        graph = onnx.load(str(raw))
    graph.ir_version = MAX_IR_VERSION
    return graph


def write(model: Any, name: str, path: Path) -> None:
    """Check a graph and write it under a name; the same graph gives the same bytes."""
    _clean(model, name)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _clean(model: Any, name: str) -> None:
    """Drop what differs between machines and runs: stack traces, paths, versions."""
    model.producer_name, model.producer_version, model.doc_string = "model_export", "", ""
    model.graph.name, model.graph.doc_string = name, ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for item in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
