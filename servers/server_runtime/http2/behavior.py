"""Run one handler of a servicer."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import structlog

from server_runtime.http2 import responses
from server_runtime.http2.context import Context
from server_runtime.http2.stream import Stream

_log = structlog.get_logger()


class Method:
    """A method as a servicer registered it.

    Attributes:
        handler: What was registered.
        one_request: Whether it takes exactly one request.
    """

    __slots__ = (
        "_behavior",
        "_deserialize",
        "_generates",
        "_serialize",
        "_streams_responses",
        "handler",
        "one_request",
    )

    def __init__(self, handler: grpc.RpcMethodHandler) -> None:
        self.handler = handler
        self.one_request: bool = not handler.request_streaming
        self._streams_responses: bool = handler.response_streaming
        self._deserialize: Callable[[bytes], Any] | None = handler.request_deserializer
        self._serialize: Callable[[Any], bytes] | None = handler.response_serializer
        kind = ("unary" if self.one_request else "stream") + (
            "_stream" if self._streams_responses else "_unary"
        )
        self._behavior: Callable[[Any, Any], Any] = getattr(handler, kind)
        self._generates = inspect.isasyncgenfunction(self._behavior)

    async def run(self, stream: Stream, prepare: Callable[[], object]) -> None:
        """Run it for one call, and end the call by what it does.

        Args:
            stream: The call.
            prepare: Called first, in the task of the call.
        """
        prepare()
        context = Context(stream, self._deserialize, self._serialize)
        try:
            request: Any = stream.body if self.one_request else _Requests(context)
            if self.one_request and self._deserialize is not None:
                request = self._deserialize(request)
            stream.body = None
            if self._generates:
                async with contextlib.aclosing(self._behavior(request, context)) as answers:
                    async for response in answers:
                        await context.write(response)
            elif self._streams_responses:
                await self._behavior(request, context)  # writes by itself
            else:
                response = await self._behavior(request, context)
                if context.code() in (None, grpc.StatusCode.OK):
                    stream.answer(context.serialized(response), context.ending())
            stream.finish(context.ending())
        except grpc.aio.AbortError:
            if not context.aborted:  # of another call
                raise
        except Exception as e:  # noqa: BLE001 - whatever a servicer raises ends its call only
            _log.exception("a handler failed")
            code = context.code() or grpc.StatusCode.UNKNOWN
            if code is grpc.StatusCode.OK:
                code = grpc.StatusCode.UNKNOWN
            stream.finish(responses.ending_block(code, context.details() or f"Unexpected {type(e)!r}"))


class _Requests:
    """The requests of one call."""

    __slots__ = ("_context",)

    def __init__(self, context: Context) -> None:
        self._context = context

    def __aiter__(self) -> _Requests:
        return self

    async def __anext__(self) -> Any:
        request = await self._context.read()
        if request is grpc.aio.EOF:
            raise StopAsyncIteration
        return request
