"""A fake server as a process of its own, which can be killed: `python -m fakes.fake_process triton --ready-file F`.

Answers depend on the question, so that an answer to another one is seen: `expected_probabilities`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np

from fakes.fake_similarity import FakeSimilarity
from fakes.fake_triton import FakeTriton


def expected_probabilities(first_price: float) -> tuple[float, float, float]:
    """Return what the fake Triton says of a window that begins with a price from 100 to 200."""
    down = np.float32(first_price) / np.float32(400)
    return float(down), float(np.float32(0.5) - down), 0.5


class TellingTriton(FakeTriton):
    """A Triton whose forecasts depend on the first price of the window."""

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        response = await super().ModelInfer(request, context)
        first_price = float(np.frombuffer(request.raw_input_contents[0], "<f4", 1)[0])
        for place, output in enumerate(response.outputs):
            if output.name == "probabilities":
                told = np.array([expected_probabilities(first_price)], "<f4")
                response.raw_output_contents[place] = told.tobytes()
        return response


async def _serve(kind: str, ready_file: Path) -> None:
    server = TellingTriton() if kind == "triton" else FakeSimilarity()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await server.start()
    content = json.dumps({"address": server.address, "pid": os.getpid()})
    part = ready_file.with_suffix(".part")
    part.write_text(content)
    part.rename(ready_file)
    await stop.wait()
    await server.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("triton", "similarity"))
    parser.add_argument("--ready-file", type=Path, required=True)
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.kind, arguments.ready_file))


if __name__ == "__main__":
    main()
