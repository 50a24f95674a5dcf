"""A vLLM of its own, asked over its OpenAI-compatible HTTP API; it scales and restarts by itself."""

import asyncio
import base64
import json
from typing import Any

from vision_server.http_client import HttpAnswer, HttpClient
from vision_server.reading_engine import (
    EngineAwayError,
    EngineFailedError,
    EngineFullError,
    Generated,
    ReadingJob,
)

_PROBE_EVERY_S = 0.5
_PROBE_TIMEOUT_S = 5.0


class OpenAiEngine:
    """One model of one HTTP API."""

    def __init__(self, url: str, model: str, api_key: str = "", *, wait_s: float = 10.0) -> None:
        """Prepare; nothing is connected before `start`.

        Args:
            url: Of the API without /v1. Example: "http://127.0.0.1:8000".
            model: Name that it must serve.
            api_key: Sent as a bearer token; "" sends none.
            wait_s: How long `start` waits for an API that is not there yet.

        Raises:
            ValueError: The URL is unusable.
        """
        self._url, self._model, self._wait_s = url, model, wait_s
        self._http = HttpClient(url, {"Authorization": f"Bearer {api_key}"} if api_key else None)
        self._away = asyncio.Event()

    async def start(self) -> None:
        """Wait until the API serves the model.

        Raises:
            EngineAwayError: It is unreachable, or serves another model.
        """
        until_s = asyncio.get_running_loop().time() + self._wait_s
        while True:
            try:
                self._check_models(await self._probe("/v1/models"))
            except OSError as e:
                if asyncio.get_running_loop().time() >= until_s:
                    raise EngineAwayError(
                        f"the HTTP API at {self._url} is unreachable ({_words(e)}): start vLLM there, or "
                        "correct --api-url"
                    ) from e
                await asyncio.sleep(_PROBE_EVERY_S)
                continue
            self._away.clear()
            return

    async def generate(self, job: ReadingJob) -> Generated:
        """Read one chart; cancelled, the connection is reset and vLLM aborts it.

        Raises:
            EngineAwayError: The API is unreachable or says that its engine is dead.
            EngineFullError: It takes no more.
            EngineFailedError: It refused the request, or answered with something else.
        """
        body = json.dumps(self._body(job)).encode()
        try:
            answer = await self._http.request("POST", "/v1/chat/completions", body, request_id=job.request_id)
        except OSError as e:
            self._away.set()
            raise EngineAwayError(f"the HTTP API at {self._url} broke off ({_words(e)})") from e
        if answer.status in (429, 503):
            raise EngineFullError(_message(answer))
        if answer.status in (404, 500, 502, 504):
            # 500 also is what vLLM answers while its engine dies: the probe tells which.
            self._away.set()
            raise EngineAwayError(f"the HTTP API answered {answer.status}: {_message(answer)}")
        if answer.status != 200:
            raise EngineFailedError(f"the HTTP API answered {answer.status}: {_message(answer)}")
        return _generated(answer)

    async def wait_away(self) -> str:
        """Return when the API is unreachable, or is not healthy."""
        while not self._away.is_set():
            try:
                answer = await self._probe("/health")
            except OSError as e:
                return f"the HTTP API at {self._url} is unreachable ({_words(e)})"
            if answer.status != 200:
                return f"the HTTP API at {self._url} says that it is not healthy ({answer.status})"
            try:
                await asyncio.wait_for(self._away.wait(), _PROBE_EVERY_S)
            except TimeoutError:
                continue
        return f"a call of the HTTP API at {self._url} failed"

    async def stop(self) -> None:
        """Close the connections."""
        self._http.close()

    async def _probe(self, path: str) -> HttpAnswer:
        return await asyncio.wait_for(self._http.request("GET", path), _PROBE_TIMEOUT_S)

    def _check_models(self, answer: HttpAnswer) -> None:
        if answer.status == 401:
            raise EngineAwayError(f"the HTTP API at {self._url} wants a key: set VISION_API_KEY")
        try:
            served = [str(model["id"]) for model in json.loads(answer.body)["data"]]
        except (ValueError, KeyError, TypeError) as e:
            raise EngineAwayError(f"{self._url} is no OpenAI-compatible API ({answer.status})") from e
        if self._model not in served:
            raise EngineAwayError(
                f"the HTTP API at {self._url} serves {', '.join(served[:4]) or 'nothing'}, not {self._model}: start it "
                f"with --served-model-name {self._model}, or correct --api-model"
            )

    def _body(self, job: ReadingJob) -> dict[str, Any]:
        picture = base64.b64encode(job.picture.png).decode()
        return {
            "model": self._model,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": job.before_chart},
                        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
                        {"type": "text", "text": job.after_chart},
                    ],
                }
            ],
            "temperature": job.sampling.temperature,
            "max_tokens": job.sampling.max_tokens,
            "seed": job.sampling.seed,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "reading", "schema": dict(job.schema), "strict": True},
            },
        }


def _generated(answer: HttpAnswer) -> Generated:
    try:
        content = json.loads(answer.body)
        choice, usage = content["choices"][0], content["usage"]
        return Generated(
            text=str(choice["message"]["content"] or ""),
            prompt_tokens=int(usage["prompt_tokens"]),
            output_tokens=int(usage["completion_tokens"]),
            complete=choice["finish_reason"] == "stop",
        )
    except (ValueError, KeyError, TypeError, IndexError) as e:
        raise EngineFailedError(f"the HTTP API answered something else than a completion: {e!r}") from e


def _message(answer: HttpAnswer) -> str:
    try:
        return " ".join(str(json.loads(answer.body)["error"]["message"]).split())[:300]
    except (ValueError, KeyError, TypeError):
        return "no reason given"


def _words(error: OSError) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else str(error.strerror or error)
