"""vLLM in this process: its AsyncLLM, whose engine core is a child process. Runs in vLLM's own environment."""

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from vision_server.parent_watch import SERVER_FOLDER, SERVER_PID
from vision_server.png import Picture
from vision_server.reading_engine import (
    EngineAwayError,
    EngineError,
    EngineFailedError,
    Generated,
    ReadingJob,
    Sampling,
)

_log = structlog.get_logger()

_POLL_S = 0.1
_STOP_S = 5.0
_WARM_UP_SIDE_PX = 64
# What a processor and a small model need; arguments of the card and the command line go before them. Many
# processors compute float32 faster than bfloat16, and in it two tokens are never as likely as each other.
DEFAULT_ARGUMENTS: Mapping[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 2048,
    "kv_cache_memory_bytes": 64 << 20,
    "limit_mm_per_prompt": {"image": 1, "video": 0},
    # A request refused after its image was processed would poison the cache for the next one with that image,
    # and every chart is a new one anyway.
    "mm_processor_cache_gb": 0,
    "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
}
ENVIRONMENT: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine core computes itself, without workers of its own
    "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",  # grpc has threads, which a fork does not copy
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}
"""Set before vLLM is imported, unless the user set them."""
_FOLDER_VARIABLES = ("TMPDIR", "VLLM_RPC_BASE_PATH", "TORCHINDUCTOR_CACHE_DIR")


class VllmEngine:
    """A checkpoint in vLLM."""

    def __init__(self, checkpoint: Path, max_running: int, arguments: Mapping[str, Any]) -> None:
        """Prepare it; nothing is loaded before `start`.

        Args:
            checkpoint: Folder of the model.
            max_running: Charts that are computed at once.
            arguments: Of vLLM's AsyncEngineArgs, beside the defaults.
        """
        self._checkpoint = checkpoint
        self._arguments = {
            **DEFAULT_ARGUMENTS,
            "max_num_seqs": max_running,
            **arguments,
        }
        self._engine: Any = None
        self._temporary = tempfile.gettempdir()
        self._folder: Path | None = None
        self._dead = asyncio.Event()

    async def start(self) -> None:
        """Load the model and compute once.

        Raises:
            EngineAwayError: vLLM does not start.
        """
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._folder = Path(tempfile.mkdtemp(prefix="vllm-", dir=self._temporary))
        os.environ[SERVER_PID], os.environ[SERVER_FOLDER] = str(os.getpid()), str(self._folder)
        for name in _FOLDER_VARIABLES:
            os.environ[name] = str(self._folder)
        self._dead.clear()
        try:
            self._engine = await asyncio.to_thread(self._load)
        except Exception as e:
            raise EngineAwayError(f"vLLM does not start: {_in_one_line(e)}") from e
        side = _WARM_UP_SIDE_PX
        pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        picture = Picture(pixels, b"")
        job = ReadingJob("warm-up", "A chart.", "End.", picture, {"type": "boolean"}, Sampling(max_tokens=8))
        try:
            await self.generate(job)
        except EngineError:
            await self.stop()
            raise

    def _load(self) -> Any:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        return AsyncLLM.from_engine_args(AsyncEngineArgs(model=str(self._checkpoint), **self._arguments))

    async def generate(self, job: ReadingJob) -> Generated:
        """Read one chart; cancelled, vLLM aborts it.

        Raises:
            EngineAwayError: The engine core died.
            EngineFailedError: vLLM refused the request.
        """
        from PIL import Image
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
        from vllm.v1.engine.exceptions import EngineDeadError

        engine = self._engine
        if engine is None or self._dead.is_set():
            raise EngineAwayError("vLLM's engine is not running")
        parameters = SamplingParams(
            temperature=job.sampling.temperature,
            max_tokens=job.sampling.max_tokens,
            seed=job.sampling.seed,
            structured_outputs=StructuredOutputsParams(json=dict(job.schema)),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = {
            "prompt": self._in_chat(job),
            "multi_modal_data": {"image": Image.fromarray(job.picture.pixels)},
        }
        start_ns = time.monotonic_ns()
        result: Any = None
        outputs = engine.generate(prompt, parameters, f"{job.request_id}-{start_ns:x}")
        try:
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    result = output
        except EngineDeadError as e:
            self._dead.set()
            raise EngineAwayError("vLLM's engine died") from e
        except Exception as e:
            raise EngineFailedError(_in_one_line(e)) from e
        if result is None or not result.outputs:
            raise EngineFailedError("vLLM gave no output")
        answer = result.outputs[0]
        latency_s = getattr(result.metrics, "first_token_latency", 0.0) or 0.0
        return Generated(
            text=answer.text,
            prompt_tokens=len(result.prompt_token_ids or ()),
            output_tokens=len(answer.token_ids),
            complete=answer.finish_reason == "stop",
            first_token_ns=int(latency_s * 1e9) if latency_s > 0 else None,
        )

    async def wait_away(self) -> str:
        """Return when the engine core has died."""
        while not self._dead.is_set() and not self._engine.errored:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._dead.wait(), _POLL_S)
        self._dead.set()
        return "vLLM's engine died"

    async def stop(self) -> None:
        """End the engine core."""
        engine, self._engine = self._engine, None
        if engine is not None:
            try:
                await asyncio.to_thread(engine.shutdown, _STOP_S)
            except Exception as e:  # noqa: BLE001 - it is over in any case; what it did not clean up is logged
                _log.warning("vLLM did not shut down cleanly", error=_in_one_line(e))
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _in_chat(self, job: ReadingJob) -> str:
        content = [
            {"type": "text", "text": job.before_chart},
            {"type": "image"},
            {"type": "text", "text": job.after_chart},
        ]
        text = self._engine.get_tokenizer().apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        return str(text)


def _in_one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
