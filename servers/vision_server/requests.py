"""Parse requests: foreign bytes to values, or an error that names the field. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from server_runtime.errors import InvalidFieldError, NotFoundError
from tradeserve.vision.v1 import chart_reading_service_pb2 as pb
from vision_prompt import (
    TEMPLATE_NAMES,
    ChartExtent,
    ChartFacts,
    PastOutcome,
    Prompt,
    PromptError,
    build_prompt,
    load_template,
)

_MAX_REQUEST_ID = 64
_MAX_SYMBOL = 64
_MAX_NAME = 64
_MAX_INDICATORS = 16
_MAX_PAST_OUTCOMES = 64
_NS = 1_000_000_000
# What google.protobuf.Timestamp allows: the years 1 to 9999.
_MIN_SECONDS, _MAX_SECONDS = -62_135_596_800, 253_402_300_799
_FIELDS = {
    "low_price": "extent.low_price",
    "high_price": "extent.high_price",
    "last_price": "extent.last_price",
    "start_ns": "extent.start_time",
    "end_ns": "extent.end_time",
    "bar_s": "extent.bar_duration",
    "volume_ratio_forecast": "context.volume_ratio_forecast",
    "past_outcomes": "context.past_outcomes",
    "past_outcomes.similarity": "context.past_outcomes.similarity",
    "past_outcomes.forward_return_bps": "context.past_outcomes.forward_return_bps",
}

MakePrompt = Callable[[ChartFacts, str], Prompt]


@dataclass(frozen=True, slots=True)
class ChartTask:
    """A valid request.

    Attributes:
        request_id: The caller's.
        con_id: Of the instrument; 0 when unknown.
        symbol: Of the instrument.
        chart_png: As sent, not looked into yet.
        as_of_ns: Latest event drawn.
        extent: What lies on the chart; None leaves the answer unchecked.
        prompt: What the model will get.
    """

    request_id: str
    con_id: int
    symbol: str
    chart_png: bytes
    as_of_ns: int
    extent: ChartExtent | None
    prompt: Prompt

    @property
    def instrument(self) -> tuple[int, str]:
        """What only the newest chart counts of; symbols are for people, unless there is nothing else."""
        return (self.con_id, "") if self.con_id else (0, self.symbol)


def parse_read(request: pb.ReadChartRequest) -> ChartTask:
    """Parse a request, but for its image.

    Raises:
        InvalidFieldError: A field is malformed.
        NotFoundError: There is no prompt of that name.
    """
    if not request.request_id:
        raise InvalidFieldError("request_id", "is empty: send a UUIDv7")
    if len(request.request_id) > _MAX_REQUEST_ID:
        raise InvalidFieldError(
            "request_id", f"has {len(request.request_id)} characters, at most {_MAX_REQUEST_ID}"
        )
    con_id, symbol = request.instrument.con_id, request.instrument.symbol
    if con_id < 0:
        raise InvalidFieldError("instrument.con_id", f"is {con_id}: send the contract's id, or 0")
    if len(symbol) > _MAX_SYMBOL or not symbol.isprintable():
        raise InvalidFieldError("instrument.symbol", f"is not at most {_MAX_SYMBOL} printable characters")
    if not con_id and not symbol:
        raise InvalidFieldError("instrument", "is unnamed: send con_id or symbol, or both")
    if not request.chart_png:
        raise InvalidFieldError("chart_png", "is empty")
    as_of_ns = _instant(request.as_of_time, "as_of_time") if request.HasField("as_of_time") else None
    if as_of_ns is None:
        raise InvalidFieldError("as_of_time", "is missing: send the time of the latest event drawn")
    extent = _extent(request.extent) if request.HasField("extent") else None
    facts = _facts(symbol, extent, request.context)
    return ChartTask(
        request_id=request.request_id,
        con_id=con_id,
        symbol=symbol,
        chart_png=request.chart_png,
        as_of_ns=as_of_ns,
        extent=extent,
        prompt=_prompt(facts, request.prompt_name or TEMPLATE_NAMES[0]),
    )


def _prompt(facts: ChartFacts, name: str) -> Prompt:
    if name not in TEMPLATE_NAMES:
        raise NotFoundError(
            f"no prompt {name[:_MAX_NAME]!r} is here, only {', '.join(TEMPLATE_NAMES)}", field="prompt_name"
        )
    try:
        return build_prompt(facts, load_template(name))
    except PromptError as e:
        field = _FIELDS.get(e.field, f"context.indicators[{e.field[:_MAX_NAME]}]")
        raise InvalidFieldError(field, str(e)) from e


def _extent(message: pb.ChartExtent) -> ChartExtent:
    return ChartExtent(
        low_price=message.low_price,
        high_price=message.high_price,
        last_price=message.last_price,
        start_ns=_instant(message.start_time, "extent.start_time"),
        end_ns=_instant(message.end_time, "extent.end_time"),
        bar_s=_whole_seconds(message.bar_duration, "extent.bar_duration"),
    )


def _facts(symbol: str, extent: ChartExtent | None, context: pb.ChartContext) -> ChartFacts:
    if len(context.indicators) > _MAX_INDICATORS:
        raise InvalidFieldError(
            "context.indicators", f"holds {len(context.indicators)}: send at most {_MAX_INDICATORS}"
        )
    if len(context.past_outcomes) > _MAX_PAST_OUTCOMES:
        raise InvalidFieldError(
            "context.past_outcomes", f"holds {len(context.past_outcomes)}: send at most {_MAX_PAST_OUTCOMES}"
        )
    for name, value in context.indicators.items():
        if len(name) > _MAX_NAME or not isfinite(value):
            raise InvalidFieldError(
                "context.indicators", f"{name[:_MAX_NAME]!r} needs a shorter name, or a finite value"
            )
    return ChartFacts(
        symbol=symbol,
        extent=extent,
        indicators=dict(context.indicators),
        volume_ratio_forecast=(
            context.volume_ratio_forecast if context.HasField("volume_ratio_forecast") else None
        ),
        past_outcomes=tuple(
            PastOutcome(past.similarity, past.forward_return_bps) for past in context.past_outcomes
        ),
    )


def _instant(timestamp: Timestamp, field: str) -> int:
    if not (_MIN_SECONDS <= timestamp.seconds <= _MAX_SECONDS and 0 <= timestamp.nanos < _NS):
        raise InvalidFieldError(field, "is no time: google.protobuf.Timestamp goes from year 1 to 9999")
    return int(timestamp.seconds) * _NS + int(timestamp.nanos)


def _whole_seconds(duration: Duration, field: str) -> int:
    if duration.nanos or duration.seconds < 1:
        raise InvalidFieldError(field, "is not a whole number of seconds, at least one")
    return int(duration.seconds)
