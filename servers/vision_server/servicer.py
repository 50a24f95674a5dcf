"""Speak tradeserve.vision.v1: the only part of the server that sees protobuf answers."""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
import structlog

from server_runtime import errors
from server_runtime.calls import arrival_ns
from server_runtime.deadlines import refuse_late, remaining_s
from server_runtime.metrics import ServerMetrics
from tradeserve.common.v1 import provenance_pb2
from tradeserve.market.v1 import market_pb2
from tradeserve.vision.v1 import chart_reading_service_pb2 as pb
from tradeserve.vision.v1 import chart_reading_service_pb2_grpc as pb_grpc
from vision_prompt import TEMPLATE_NAMES, AnswerError, ChartAnswer, Signal, answer_schema, parse_answer
from vision_server.chart_queue import ChartQueue
from vision_server.checkpoint import Card
from vision_server.checks import Contradiction, contradictions_of, trust_of
from vision_server.keeper import EngineKeeper
from vision_server.metrics import VisionMetrics
from vision_server.png import Picture, PngError, PngLimits, read_png, shows_nothing
from vision_server.reading_engine import Generated, ReadingJob
from vision_server.requests import ChartTask, parse_read

_log = structlog.get_logger()

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["ChartReadingService"].full_name
READ_METHOD = f"/{SERVICE_NAME}/ReadChart"
READER_METHOD = f"/{SERVICE_NAME}/GetReader"
_NS = 1_000_000_000
_MOST_RAW_CHARACTERS = 8000
_SIDES = {
    Signal.BUY: market_pb2.SIDE_BUY,
    Signal.SELL: market_pb2.SIDE_SELL,
    Signal.HOLD: market_pb2.SIDE_HOLD,
}


@dataclass(frozen=True, slots=True)
class ReadingRules:
    """What is taken and what is promised.

    Attributes:
        png: Which images are taken.
        lifetime_s: How long a reading may be used.
        margin_s: Time kept to answer before a deadline.
    """

    png: PngLimits
    lifetime_s: float
    margin_s: float


class ChartReadingServicer(pb_grpc.ChartReadingServiceServicer):
    """Serves one model."""

    def __init__(
        self,
        keeper: EngineKeeper,
        queue: ChartQueue,
        card: Card,
        rules: ReadingRules,
        metrics: ServerMetrics,
        vision_metrics: VisionMetrics,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._keeper = keeper
        self._queue = queue
        self._card = card
        self._rules = rules
        self._metrics = metrics
        self._vision = vision_metrics
        self._wall_ns = wall_ns
        self._schema = answer_schema()
        self._sampling_json = json.dumps(card.sampling.as_json())
        self._decoders = ThreadPoolExecutor(2, thread_name_prefix="png")
        self._provenance = provenance_pb2.ModelProvenance(
            model_name=card.name,
            model_version=card.version,
            artifact_sha256=card.artifact_sha256,
            export_commit=card.export_commit,
        )

    async def GetReader(
        self, request: pb.GetReaderRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetReaderResponse:
        """Describe the reader."""
        del request, context
        response = pb.GetReaderResponse(
            provenance=self._provenance,
            prompt_names=TEMPLATE_NAMES,
            max_pixels_per_side=self._rules.png.max_side_px,
            max_chart_bytes=self._rules.png.max_bytes,
            statement=self._card.statement,
        )
        response.reading_lifetime.FromNanoseconds(int(self._rules.lifetime_s * _NS))
        return response

    async def ReadChart(
        self, request: pb.ReadChartRequest, context: grpc.aio.ServicerContext
    ) -> pb.ReadChartResponse:
        """Read one chart."""
        since_ns = arrival_ns()
        left_s = remaining_s(context)
        limit_s = None if left_s is None else left_s - self._rules.margin_s
        try:
            async with asyncio.timeout(limit_s):
                return await self._read(request, since_ns, context)
        except TimeoutError as e:
            raise errors.TooLateError("the chart was not read before the deadline: give it more time") from e

    def close(self) -> None:
        """End the threads."""
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def _read(
        self, request: pb.ReadChartRequest, since_ns: int, context: grpc.aio.ServicerContext
    ) -> pb.ReadChartResponse:
        task = parse_read(request)
        picture = await asyncio.get_running_loop().run_in_executor(
            self._decoders, self._look_at, task.chart_png
        )
        async with self._queue.turn(task.instrument, task.as_of_ns, remaining_s(context)):
            start_ns = time.monotonic_ns()
            job = ReadingJob(
                request_id=task.request_id,
                before_chart=task.prompt.before_chart,
                after_chart=task.prompt.after_chart,
                picture=picture,
                schema=self._schema,
                sampling=self._card.sampling,
            )
            generated = await self._keeper.generate(job)
        answer = self._parse(generated, task)
        refuse_late(remaining_s(context), self._rules.margin_s)
        response = self._response(task, answer, generated)
        end_ns = time.monotonic_ns()
        response.timing.queue_duration.FromNanoseconds(start_ns - since_ns)
        response.timing.compute_duration.FromNanoseconds(end_ns - start_ns)
        self._metrics.observe_stage(READ_METHOD, "queue", start_ns - since_ns)
        self._metrics.observe_stage(READ_METHOD, "compute", end_ns - start_ns)
        self._count(answer, generated)
        return response

    def _look_at(self, chart_png: bytes) -> Picture:
        try:
            picture = read_png(chart_png, self._rules.png)
            if shows_nothing(picture.pixels):
                raise PngError("shows nothing: nearly all of it has one colour")
        except PngError as e:
            self._vision.refused_charts.inc()
            raise errors.InvalidFieldError("chart_png", str(e)) from e
        return picture

    def _parse(self, generated: Generated, task: ChartTask) -> ChartAnswer:
        try:
            if not generated.complete:
                raise AnswerError("", f"was cut off after {generated.output_tokens} tokens")
            return parse_answer(generated.text)
        except AnswerError as e:
            self._vision.unreadable.inc()
            _log.warning(
                "the model's answer is unusable",
                request_id=task.request_id,
                symbol=task.symbol,
                error=str(e),
                output_tokens=generated.output_tokens,
            )
            raise errors.InternalError(f"the model's answer is unusable: {e}") from e

    def _response(self, task: ChartTask, answer: ChartAnswer, generated: Generated) -> pb.ReadChartResponse:
        contradictions = contradictions_of(answer, task.extent)
        response = pb.ReadChartResponse(
            request_id=task.request_id,
            signal=_SIDES[answer.signal],
            stated_confidence=answer.confidence,
            reasoning=answer.reasoning,
            provenance=self._provenance,
            patterns=[str(pattern) for pattern in answer.patterns],
            key_levels=answer.key_levels,
            risks=answer.risks,
            trust=trust_of(contradictions),
        )
        self._write_contradictions(response, contradictions)
        response.expire_time.FromNanoseconds(self._wall_ns() + int(self._rules.lifetime_s * _NS))
        record = response.record
        record.prompt_name = task.prompt.template.name
        record.prompt_template_sha256 = task.prompt.template.sha256
        record.prompt = task.prompt.text
        record.raw_output = generated.text[:_MOST_RAW_CHARACTERS]
        record.chart_sha256 = hashlib.sha256(task.chart_png).digest()
        record.sampling_json = self._sampling_json
        record.prompt_token_count = generated.prompt_tokens
        record.output_token_count = generated.output_tokens
        if generated.first_token_ns is not None:
            record.first_token_duration.FromNanoseconds(generated.first_token_ns)
        return response

    def _write_contradictions(
        self, response: pb.ReadChartResponse, contradictions: Sequence[Contradiction]
    ) -> None:
        for each in contradictions:
            response.contradictions.add(field=each.field, detail=each.detail)
            self._vision.contradictions.labels(each.field).inc()

    def _count(self, answer: ChartAnswer, generated: Generated) -> None:
        self._vision.readings.labels(str(answer.signal)).inc()
        self._vision.tokens.labels("prompt").inc(generated.prompt_tokens)
        self._vision.tokens.labels("output").inc(generated.output_tokens)
        if generated.first_token_ns is not None:
            self._vision.first_token.observe(generated.first_token_ns / _NS)
