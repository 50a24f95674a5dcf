"""What is asked of the vision server and what it answers, as values and as protobuf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tradeserve.common.v1 import provenance_pb2
from tradeserve.market.v1 import market_pb2
from tradeserve.vision.v1 import chart_reading_service_pb2 as pb
from tradeserve_client.errors import MalformedResponseError
from tradeserve_client.similarity import Served
from tradeserve_client.strategy_service import Side

SERVICE = "vision"
MAX_REASONING_CHARACTERS = 1000
MAX_PATTERNS = 8
MAX_KEY_LEVELS = 8
MAX_RISKS = 4
MAX_RISK_CHARACTERS = 200
MAX_CONTRADICTIONS = 16
_NS_PER_S = 1_000_000_000
_SIDES: Mapping[int, Side] = {
    market_pb2.SIDE_BUY: Side.BUY,
    market_pb2.SIDE_SELL: Side.SELL,
    market_pb2.SIDE_HOLD: Side.HOLD,
}


@dataclass(frozen=True, slots=True)
class ChartExtent:
    """What lies on a chart; the answer is checked against it.

    Attributes:
        low_price: Lowest price drawn.
        high_price: Highest price drawn.
        last_price: Close of the last bar.
        start_ns: Start of the first bar, exchange time in nanoseconds UTC.
        end_ns: End of the last bar, nanoseconds UTC.
        bar_size_s: Length of a bar.
    """

    low_price: float
    high_price: float
    last_price: float
    start_ns: int
    end_ns: int
    bar_size_s: int


@dataclass(frozen=True, slots=True)
class PastOutcome:
    """A past state that looks like the present one.

    Attributes:
        similarity: Cosine similarity to the present state, -1 to 1.
        forward_return_bps: Return over the horizon after it.
    """

    similarity: float
    forward_return_bps: float


@dataclass(frozen=True, slots=True)
class ChartContext:
    """What the reader of a chart is told beside the picture.

    Attributes:
        indicators: Of the last bar by name, at most 16. Example: {"rsi_14": 61.2}.
        volume_ratio_forecast: Volume of the next bars over that of the last ones; None for no forecast.
        past_outcomes: Past states that look alike, at most 64.
    """

    indicators: Mapping[str, float] = field(default_factory=dict)
    volume_ratio_forecast: float | None = None
    past_outcomes: Sequence[PastOutcome] = ()


@dataclass(frozen=True, slots=True)
class ChartQuery:
    """One chart to read.

    Attributes:
        con_id: Interactive Brokers contract id of what it shows.
        symbol: For people and the prompt.
        chart_png: The image, PNG.
        as_of_ns: Latest market event drawn, exchange time in nanoseconds UTC.
        prompt_name: Prompt template on the server; "" for the server's own.
        extent: What lies on the chart; None leaves the answer unchecked.
        context: What else the reader is told; None for nothing.
        request_id: UUIDv7 that the caller wrote down before the call; "" makes one.
    """

    con_id: int
    symbol: str
    chart_png: bytes
    as_of_ns: int
    prompt_name: str = ""
    extent: ChartExtent | None = None
    context: ChartContext | None = None
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A statement of the answer that the chart's own data contradicts.

    Attributes:
        field: Of the answer. Example: "key_levels".
        detail: What is wrong with it, in plain words.
    """

    field: str
    detail: str


@dataclass(frozen=True, slots=True)
class ReadingRecord:
    """What it takes to audit a reading and to make it again.

    Attributes:
        prompt_name: Of the prompt template.
        prompt_template_sha256: Hex digest of the template's file.
        prompt: What the model got, without the image.
        raw_output: What it answered, before it was parsed.
        chart_sha256: Hex digest of the image.
        sampling_json: How it was sampled.
        prompt_tokens: Of the prompt, the image's included.
        output_tokens: Of the answer.
        first_token_ns: From the start of the work to the first token; -1 when the engine does not tell.
    """

    prompt_name: str
    prompt_template_sha256: str
    prompt: str
    raw_output: str
    chart_sha256: str
    sampling_json: str
    prompt_tokens: int
    output_tokens: int
    first_token_ns: int = -1


@dataclass(frozen=True, slots=True)
class ChartReading:
    """What the model saw.

    Attributes:
        signal: Which way it leans.
        stated_confidence: 0 to 1 as the model states it; not calibrated.
        reasoning: Its words, at most 1,000 characters.
        expire_ns: Not to be used at or after this instant, nanoseconds UTC.
        model: What answered.
        patterns: Chart patterns it names, at most 8. Example: "double_top".
        key_levels: Prices it calls levels, at most 8.
        risks: What could go wrong, in its words, at most 4.
        contradictions: What the chart's own data contradicts, at most 16.
        trust: How far the answer agrees with that data, 0 to 1; 0 when the server does not say.
        record: What was asked and answered; None when the server does not say.
    """

    signal: Side
    stated_confidence: float
    reasoning: str
    expire_ns: int
    model: Served
    patterns: Sequence[str] = ()
    key_levels: Sequence[float] = ()
    risks: Sequence[str] = ()
    contradictions: Sequence[Contradiction] = ()
    trust: float = 0.0
    record: ReadingRecord | None = None


@dataclass(frozen=True, slots=True)
class ReaderInfo:
    """Which model and prompts a vision server has, and what it takes.

    Attributes:
        model: What is loaded.
        prompt_names: Templates; the first is the server's own choice.
        max_pixels_per_side: Largest width and height of a chart.
        max_chart_bytes: Largest PNG.
        reading_lifetime_s: How long a reading may be used.
        statement: What the model's card says on skill.
    """

    model: Served
    prompt_names: Sequence[str]
    max_pixels_per_side: int
    max_chart_bytes: int
    reading_lifetime_s: float
    statement: str


def read_message(query: ChartQuery, request_id: str) -> pb.ReadChartRequest:
    """Return a query as its protobuf message."""
    message = pb.ReadChartRequest(
        request_id=request_id, chart_png=query.chart_png, prompt_name=query.prompt_name
    )
    message.instrument.con_id = query.con_id
    message.instrument.symbol = query.symbol
    _set_time(message.as_of_time, query.as_of_ns)
    if (of := query.extent) is not None:
        extent = message.extent
        extent.low_price, extent.high_price, extent.last_price = of.low_price, of.high_price, of.last_price
        _set_time(extent.start_time, of.start_ns)
        _set_time(extent.end_time, of.end_ns)
        extent.bar_duration.seconds = of.bar_size_s
    if (told := query.context) is not None:
        context = message.context
        context.SetInParent()
        context.indicators.update(told.indicators)
        if told.volume_ratio_forecast is not None:
            context.volume_ratio_forecast = told.volume_ratio_forecast
        for past in told.past_outcomes:
            context.past_outcomes.add(similarity=past.similarity, forward_return_bps=past.forward_return_bps)
    return message


def read_answer(response: pb.ReadChartResponse, request_id: str) -> ChartReading:
    """Return an answer as a value.

    Raises:
        MalformedResponseError: It is not what the API promises.
    """
    if response.request_id != request_id:
        raise _malformed(f"answers request {response.request_id!r}, asked was {request_id!r}")
    signal = _SIDES.get(response.signal)
    if signal is None:
        raise _malformed(f"has the unknown signal {response.signal}")
    if not _is_share(response.stated_confidence):
        raise _malformed(f"states a confidence of {response.stated_confidence:g}, not 0 to 1")
    if not _is_share(response.trust):
        raise _malformed(f"has a trust of {response.trust:g}, not 0 to 1")
    if len(response.reasoning) > MAX_REASONING_CHARACTERS:
        raise _malformed(f"has {len(response.reasoning)} characters of reasoning")
    if not response.HasField("expire_time"):
        raise _malformed("does not say when it expires")
    for name, values, most in (
        ("patterns", response.patterns, MAX_PATTERNS),
        ("key_levels", response.key_levels, MAX_KEY_LEVELS),
        ("risks", response.risks, MAX_RISKS),
        ("contradictions", response.contradictions, MAX_CONTRADICTIONS),
    ):
        if len(values) > most:
            raise _malformed(f"has {len(values)} {name}, at most {most} are allowed")
    if not all(map(isfinite, response.key_levels)):
        raise _malformed("has a key level that is not a number")
    if any(len(risk) > MAX_RISK_CHARACTERS for risk in response.risks):
        raise _malformed(f"has a risk of more than {MAX_RISK_CHARACTERS} characters")
    return ChartReading(
        signal=signal,
        stated_confidence=response.stated_confidence,
        reasoning=response.reasoning,
        expire_ns=_ns(response.expire_time),
        model=_served(response.provenance),
        patterns=tuple(response.patterns),
        key_levels=tuple(response.key_levels),
        risks=tuple(response.risks),
        contradictions=tuple(Contradiction(each.field, each.detail) for each in response.contradictions),
        trust=response.trust,
        record=_record(response.record) if response.HasField("record") else None,
    )


def reader_info(response: pb.GetReaderResponse) -> ReaderInfo:
    """Return what a server says of itself as a value."""
    return ReaderInfo(
        model=_served(response.provenance),
        prompt_names=tuple(response.prompt_names),
        max_pixels_per_side=response.max_pixels_per_side,
        max_chart_bytes=response.max_chart_bytes,
        reading_lifetime_s=_ns(response.reading_lifetime) / _NS_PER_S,
        statement=response.statement,
    )


def _record(of: pb.ReadingRecord) -> ReadingRecord:
    return ReadingRecord(
        prompt_name=of.prompt_name,
        prompt_template_sha256=of.prompt_template_sha256.hex(),
        prompt=of.prompt,
        raw_output=of.raw_output,
        chart_sha256=of.chart_sha256.hex(),
        sampling_json=of.sampling_json,
        prompt_tokens=of.prompt_token_count,
        output_tokens=of.output_token_count,
        first_token_ns=_ns(of.first_token_duration) if of.HasField("first_token_duration") else -1,
    )


def _served(of: provenance_pb2.ModelProvenance) -> Served:
    return Served(of.model_name, of.model_version, of.artifact_sha256.hex(), of.export_commit)


def _is_share(value: float) -> bool:
    return isfinite(value) and 0 <= value <= 1


def _set_time(timestamp: Timestamp, ns: int) -> None:
    timestamp.seconds, timestamp.nanos = divmod(ns, _NS_PER_S)


def _ns(of: Timestamp | Duration) -> int:
    return of.seconds * _NS_PER_S + of.nanos


def _malformed(what: str) -> MalformedResponseError:
    return MalformedResponseError(SERVICE, f"malformed answer: it {what}")
