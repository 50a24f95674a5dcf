"""Wrap every call of our services: admission, deadline, statuses, metrics, drain.

Health and reflection are left alone: they must answer while the server is full.
"""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError

from server_runtime import errors
from server_runtime.admission import Admission
from server_runtime.deadlines import refuse_late, remaining_s
from server_runtime.http2.requests import Metadatum
from server_runtime.http2.server import Admitted
from server_runtime.metrics import ServerMetrics
from server_runtime.tracing import Span, SpanSender, parse_traceparent
from server_runtime.turns import Turns

_log = structlog.get_logger()
_arrival_ns: ContextVar[int] = ContextVar("arrival_ns")
_NO_TIME = errors.status_of(
    errors.OverloadedError(
        "as much is in flight as can be answered in time: drop it, or retry later", retry_after_s=0.05
    )
)


def arrival_ns() -> int:
    """Return when the present call arrived, on time.monotonic_ns(); now, outside of a call."""
    return _arrival_ns.get(0) or time.monotonic_ns()


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Guards every call of our services."""

    def __init__(
        self,
        *,
        margin_s: float,
        calls: Admission,
        streams: Admission,
        metrics: ServerMetrics,
        turns: Turns,
        urgent: frozenset[str] = frozenset(),
        spans: SpanSender | None = None,
    ) -> None:
        """Guard the calls of one server.

        Args:
            margin_s: Time a call must have left when its work starts.
            calls: Bounds the unary calls in flight.
            streams: Bounds the streams that are open.
            metrics: Counts calls by method and code.
            turns: The work of the unary calls.
            urgent: Methods that are let in however full the server is, "/package.Service/Method".
            spans: Traces calls whose caller sends `traceparent`; None traces nothing.
        """
        self._spans = spans
        self._turns = turns
        self._urgent = urgent
        self._margin_s = margin_s
        self._calls = calls
        self._streams = streams
        self._metrics = metrics
        self._wrapped: dict[str, grpc.RpcMethodHandler] = {}
        self._full = {full is streams: errors.status_of(full.refusal()) for full in (calls, streams)}
        self._refusing_handlers: dict[tuple[str, int], grpc.RpcMethodHandler] = {}
        self._draining = False
        self._waiting: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """Count the call in when it arrives, and hand out its wrapped handler."""
        method: str = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None or method.startswith("/grpc."):
            return handler
        _arrival_ns.set(time.monotonic_ns())
        admission, refusal = self._decide(method, handler)
        if refusal is not None:
            return self._refusing(method, refusal)
        task = asyncio.current_task()
        assert task is not None, "grpc.aio runs every call in a task"
        # The task of the call ends in every case: also when the caller cancels before its
        # request is read, where no handler runs.
        task.add_done_callback(lambda _: self._leave(admission))
        return self._entered(method, handler)

    def admit(
        self,
        path: str,
        handler: grpc.RpcMethodHandler,
        metadata: Sequence[Metadatum],
        timeout_s: float | None,
    ) -> Admitted | grpc.Status:
        """Let a call over our own transport in, or return what refuses it; `http2.server.Gate`."""
        if path.startswith("/grpc."):
            return Admitted(handler, _nothing, _nothing)
        now_ns = time.monotonic_ns()
        admission, refusal = self._decide(path, handler, timeout_s)
        if refusal is not None:
            self._count(path, refusal.code, metadata, now_ns)
            return refusal
        return Admitted(
            self._entered(path, handler), partial(_arrival_ns.set, now_ns), partial(self._leave, admission)
        )

    def drain(self) -> None:
        """End streams that wait for a request; those at work finish it first."""
        self._draining = True
        for task in tuple(self._waiting):
            task.cancel()

    async def wait_idle(self) -> None:
        """Wait until no call of our services is in flight."""
        await self._idle.wait()

    def _leave(self, admission: Admission) -> None:
        admission.leave()
        self._metrics.in_flight.dec()
        if self._calls.in_flight + self._streams.in_flight == 0:
            self._idle.set()

    def _decide(
        self, method: str, handler: grpc.RpcMethodHandler, timeout_s: float | None = None
    ) -> tuple[Admission, grpc.Status | None]:
        """Count a call in, or return with what status it is refused.

        Args:
            method: "/package.Service/Method".
            handler: What it runs.
            timeout_s: Until its deadline; None where that is not known, or there is none.
        """
        self._turns.arrived()
        streaming = handler.request_streaming or handler.response_streaming
        admission = self._streams if streaming else self._calls
        if method in self._urgent:
            admission.enter()
        elif not (streaming or self._turns.has_time_for(admission.in_flight, timeout_s)):
            return admission, _NO_TIME
        elif not admission.try_enter():
            return admission, self._full[streaming]
        return admission, None

    def _entered(self, method: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        """Note a call that is in, and return its wrapped handler."""
        self._idle.clear()
        self._metrics.in_flight.inc()
        if method not in self._wrapped:
            self._wrapped[method] = self._rewrapped(method, handler)
        return self._wrapped[method]

    def _refusing(self, method: str, status: grpc.Status) -> grpc.RpcMethodHandler:
        """Return what refuses a call over grpc.aio.

        Under overload this is most of what a server does, so everything is made once, and the handler takes a
        stream of requests, whatever the method does: then grpc neither waits for the request nor reads it.
        """
        known = self._refusing_handlers.get((method, id(status)))
        if known is not None:
            return known

        async def refuse(_requests: object, context: grpc.aio.ServicerContext) -> None:
            self._count(method, status.code, context.invocation_metadata())
            await context.abort(status.code, status.details, status.trailing_metadata)

        handler = grpc.stream_unary_rpc_method_handler(refuse)
        self._refusing_handlers[method, id(status)] = handler
        return handler

    def _rewrapped(self, method: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        kind = ("stream" if handler.request_streaming else "unary") + (
            "_stream" if handler.response_streaming else "_unary"
        )
        behavior = getattr(handler, kind)
        wrap = self._stream_response if inspect.isasyncgenfunction(behavior) else self._response
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(
            wrap(method, behavior, handler.request_streaming),
            request_deserializer=_forgiving(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )

    def _response(
        self,
        method: str,
        behavior: Callable[..., Awaitable[Any]],
        streams_requests: bool,
    ) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, context: grpc.aio.ServicerContext) -> Any:
            code = grpc.StatusCode.OK
            try:
                self._check(context, request)
                return await behavior(self._requests(request) if streams_requests else request, context)
            except BaseException as e:
                error = self._served(e, method)
                code = _code(e, error, context)
                if error is None:
                    raise
                await errors.abort(context, error)
            finally:
                self._count(method, code, context.invocation_metadata())

        return call

    def _stream_response(
        self,
        method: str,
        behavior: Callable[..., AsyncIterator[Any]],
        streams_requests: bool,
    ) -> Callable[..., AsyncIterator[Any]]:
        async def call(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            code = grpc.StatusCode.OK
            try:
                self._check(context, request)
                async for response in behavior(
                    self._requests(request) if streams_requests else request, context
                ):
                    yield response
            except BaseException as e:
                error = self._served(e, method)
                code = _code(e, error, context)
                if error is None:
                    raise
                await errors.abort(context, error)
            finally:
                self._count(method, code, context.invocation_metadata())

        return call

    def _check(self, context: grpc.aio.ServicerContext, request: Any) -> None:
        if isinstance(request, errors.InvalidFieldError):
            raise request
        refuse_late(remaining_s(context), self._margin_s)

    async def _requests(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Yield the requests of a stream until it ends or the server drains.

        Raises:
            DrainingError: The server shuts down.
            InvalidFieldError: A message can't be read.
        """
        task = asyncio.current_task()
        assert task is not None, "grpc.aio runs every call in a task"
        iterator = aiter(requests)
        while True:
            if self._draining:
                raise errors.DrainingError("the server is shutting down: reconnect", retry_after_s=1.0)
            self._waiting.add(task)
            try:
                request = await anext(iterator)
            except StopAsyncIteration:
                return
            except asyncio.CancelledError:
                if not self._draining:
                    raise
                task.uncancel()
                continue
            finally:
                self._waiting.discard(task)
            if isinstance(request, errors.InvalidFieldError):
                raise request
            yield request

    def _served(self, e: BaseException, method: str) -> errors.ServeError | None:
        """Return what to tell the caller; None when the exception ends the call by itself."""
        if isinstance(e, errors.ServeError):
            return e
        if isinstance(e, grpc.aio.AbortError) or not isinstance(e, Exception):
            return None
        _log.exception("call failed", method=method)
        return errors.InternalError("a fault of the server: its log has the cause")

    def _count(
        self,
        method: str,
        code: grpc.StatusCode,
        metadata: Sequence[tuple[str, str | bytes]] | None,
        start_ns: int = 0,
    ) -> None:
        start_ns, end_ns = start_ns or arrival_ns(), time.monotonic_ns()
        self._metrics.count_call(method, code.name)
        self._metrics.observe_stage(method, "total", end_ns - start_ns)
        if self._spans is None:
            return
        header = next((value for key, value in metadata or () if key == "traceparent"), "")
        parent = parse_traceparent(str(header))
        if parent is None or not parent.sampled:
            return
        service, _, name = method.strip("/").rpartition("/")
        attributes = {
            "rpc.system": "grpc", "rpc.service": service, "rpc.method": name,
            "rpc.grpc.status_code": code.value[0],
        }  # fmt: skip
        problem = "" if code is grpc.StatusCode.OK else code.name
        span = Span(
            method.strip("/"), start_ns, end_ns, parent.trace_id, parent_id=parent.span_id,
            attributes=attributes, problem=problem, kind="server",
        )  # fmt: skip
        self._spans.send(span)


def _nothing() -> None:
    return None


def _forgiving(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """Wrap a deserializer to return its error: raised in there, grpc calls it a fault of the server."""
    if deserialize is None:
        return None

    def read(body: bytes) -> Any:
        try:
            return deserialize(body)
        except DecodeError:
            return errors.InvalidFieldError(
                "request", f"these {len(body)} bytes are not the method's message"
            )

    return read


def _code(
    e: BaseException, error: errors.ServeError | None, context: grpc.aio.ServicerContext
) -> grpc.StatusCode:
    if error is not None:
        return errors.code_of(error)
    if isinstance(e, grpc.aio.AbortError):
        number = context.code()
        return next((c for c in grpc.StatusCode if number in (c, c.value[0])), grpc.StatusCode.UNKNOWN)
    return grpc.StatusCode.CANCELLED
