"""Run the real Triton on this machine, on the same model repository that production serves.

`installation` finds the tritonserver of the nvidia-pytriton wheel, `model_folder` checks the model
repository, `onnxruntime_backend` serves ONNX inside Triton, `server_process` owns one running
tritonserver, `probe` speaks to it, `watchdog` heals it and `launcher` puts them together.

Errors: `TritonServerError` is the base of all; `UnusableInput` (exit code 2) is something the
caller can correct, `ServerFailed` (exit code 1) is Triton's own failure.
"""


class TritonServerError(Exception):
    """Base of every error of this package; its text says what is wrong and what to do."""

    exit_code = 1


class UnusableInput(TritonServerError):  # noqa: N818 - reads as what it is in `except`
    """A setting, folder or port that the caller can correct."""

    exit_code = 2


class ServerFailed(TritonServerError):  # noqa: N818
    """Tritonserver could not start, load a model or stay up."""
