"""A vLLM's OpenAI-compatible HTTP API that answers at once: its reasoning names the picture it was sent."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

MODEL = "chart_reader"


def words_for(chart_png: bytes) -> str:
    """Return the reasoning that a picture is answered with."""
    return f"picture {hashlib.sha256(chart_png).hexdigest()[:16]}"


@contextlib.asynccontextmanager
async def fake_vllm() -> AsyncIterator[str]:
    """Serve /health, /v1/models and /v1/chat/completions; give the URL."""
    open_connections: set[asyncio.StreamWriter] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_connections.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                body = await reader.readexactly(_length(head))
                answer = json.dumps(_answer(head.split(" ", 2)[1], body)).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            open_connections.discard(writer)
            writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0, limit=1 << 20)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()
        for writer in list(open_connections):
            writer.close()
        await listening.wait_closed()


def _length(head: str) -> int:
    lines = (line.partition(":") for line in head.split("\r\n"))
    return next((int(value) for name, _, value in lines if name.lower() == "content-length"), 0)


def _answer(path: str, body: bytes) -> dict[str, Any]:
    if path == "/v1/models":
        return {"data": [{"id": MODEL}]}
    if path != "/v1/chat/completions":
        return {}
    parts = json.loads(body)["messages"][0]["content"]
    url = next(part["image_url"]["url"] for part in parts if part["type"] == "image_url")
    reading = {
        "patterns": [],
        "key_levels": [],
        "signal": "HOLD",
        "confidence": 0.5,
        "risks": [],
        "reasoning": words_for(base64.b64decode(url.partition(",")[2])),
    }
    message = {"content": json.dumps(reading)}
    return {
        "choices": [{"message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 300, "completion_tokens": 40},
    }
