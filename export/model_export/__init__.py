"""Training, ONNX export, Triton configs, model cards and the similarity index.

`python -m model_export --help` lists what it does. Only `train` and `export` import torch.
Errors: `errors.ExportError` is the base; see `errors`.
"""
