"""The small HTTP client against servers that do not behave, and the engine behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest

from vision_server.http_client import HttpClient, HttpError
from vision_server.openai_engine import OpenAiEngine
from vision_server.png import Picture
from vision_server.reading_engine import (
    EngineAwayError,
    EngineFailedError,
    EngineFullError,
    ReadingJob,
    Sampling,
)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
JOB = ReadingJob(
    "r-1", "before", "after", Picture(np.zeros((1, 1, 3), np.uint8), b"png"), {"a": 1}, Sampling(7)
)


@asynccontextmanager
async def server(handle: Handler) -> AsyncIterator[str]:
    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(guarded, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()
        await listening.wait_closed()


async def take(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(int(line[15:]) for line in head.split("\r\n") if line.lower().startswith("content-length:"))
    return head, await reader.readexactly(length)


def answering(*answers: bytes, seen: list[tuple[str, bytes]] | None = None) -> Handler:
    left = list(answers)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while left:
            request = await take(reader)
            if seen is not None:
                seen.append(request)
            writer.write(left.pop(0))
            await writer.drain()

    return handle


def ok(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def test_a_connection_is_kept_for_the_next_request() -> None:
    seen: list[tuple[str, bytes]] = []
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=1\r\nde\r\n0\r\n\r\n"
    async with server(answering(chunked, ok(b"second"), seen=seen)) as url:
        client = HttpClient(url, {"Authorization": "Bearer k"})
        first = await client.request("POST", "/a", b"{}", request_id="r-1")
        second = await client.request("GET", "/b")
        client.close()
    assert (first.status, first.body, second.body) == (200, b"abcde", b"second")
    assert "Authorization: Bearer k" in seen[0][0]
    assert "X-Request-Id: r-1" in seen[0][0]
    assert seen[0][1] == b"{}"


async def test_a_connection_that_was_closed_while_idle_is_replaced() -> None:
    async with server(answering(ok(b"1"))) as url:
        client = HttpClient(url)
        assert (await client.request("GET", "/")).body == b"1"
    async with server(answering(ok(b"2"))) as other:
        client._port = int(other.rpartition(":")[2])
        assert (await client.request("GET", "/")).body == b"2"
        client.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    ],
)
async def test_an_answer_that_is_none_is_an_error_and_never_waited_for(answer: bytes) -> None:
    async with server(answering(answer)) as url:
        client = HttpClient(url)
        with pytest.raises(HttpError):
            await asyncio.wait_for(client.request("GET", "/"), 20)
        client.close()


async def test_cancelling_a_request_resets_its_connection() -> None:
    came, gone = asyncio.Event(), asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take(reader)
        came.set()
        try:
            await reader.read(1)
        finally:
            gone.set()

    async with server(hang) as url:
        client = HttpClient(url)
        request = asyncio.create_task(client.request("GET", "/"))
        await came.wait()
        request.cancel()
        await asyncio.wait_for(gone.wait(), 20)


@pytest.mark.parametrize("url", ["ftp://x", "localhost:8000", "http://", "http://u:p@h", "http://h/?q=1"])
def test_what_is_no_address_of_an_api_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not http"):
        HttpClient(url)


def completion(content: str = '{"x": 1}', finish: str = "stop") -> bytes:
    choice = {"message": {"content": content}, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}).encode()


async def test_a_chart_is_sent_as_a_chat_with_its_schema() -> None:
    seen: list[tuple[str, bytes]] = []
    async with server(answering(ok(completion(finish="length")), seen=seen)) as url:
        engine = OpenAiEngine(url, "m")
        generated = await engine.generate(JOB)
        await engine.stop()
    assert (generated.text, generated.prompt_tokens, generated.output_tokens) == ('{"x": 1}', 5, 3)
    assert not generated.complete
    body = json.loads(seen[0][1])
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.0, 7)
    before, image, after = body["messages"][0]["content"]
    assert (before["text"], after["text"]) == ("before", "after")
    assert image["image_url"]["url"] == "data:image/png;base64,cG5n"
    assert body["response_format"]["json_schema"]["schema"] == {"a": 1}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (ok(b'{"error": {"message": "too long"}}', "400 Bad Request"), EngineFailedError),
        (ok(b"{}", "429 Too Many Requests"), EngineFullError),
        (ok(b"[]", "503 Service Unavailable"), EngineFullError),
        (ok(b"", "404 Not Found"), EngineAwayError),
        (ok(b"", "500 Internal Server Error"), EngineAwayError),
        (ok(b"", "302 Found"), EngineFailedError),
        (ok(b"not json"), EngineFailedError),
        (ok(b'{"choices": []}'), EngineFailedError),
        (b"", EngineAwayError),
    ],
)
async def test_every_other_answer_is_an_error_of_its_kind(answer: bytes, error: type[Exception]) -> None:
    async with server(answering(answer)) as url:
        engine = OpenAiEngine(url, "m")
        with pytest.raises(error):
            await engine.generate(JOB)
        await engine.stop()


async def test_an_api_that_is_away_or_serves_something_else_does_not_start() -> None:
    async with server(answering(ok(b'{"data": [{"id": "other"}]}'), ok(b"<html>"), ok(b"", "401 No"))) as url:
        engine = OpenAiEngine(url, "m", wait_s=0)
        for words in ("serves other, not m", "no OpenAI-compatible API", "VISION_API_KEY"):
            with pytest.raises(EngineAwayError, match=words):
                await engine.start()
        await engine.stop()
    with pytest.raises(EngineAwayError, match="unreachable"):
        await OpenAiEngine(url, "m", wait_s=0).start()


async def test_an_api_whose_health_fails_is_away() -> None:
    async with server(answering(ok(b""), ok(b"", "503 Service Unavailable"))) as url:
        engine = OpenAiEngine(url, "m")
        assert "not healthy (503)" in await asyncio.wait_for(engine.wait_away(), 20)
        await engine.stop()
    assert "unreachable" in await asyncio.wait_for(OpenAiEngine(url, "m").wait_away(), 20)
