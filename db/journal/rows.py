"""One dataclass per table; field names are column names.

Every row carries the id of its run through the writer, not as a field of its own.
Times are int nanoseconds UTC; the writer stores them as timestamptz (microseconds) plus, where the
order of events matters, the exact bigint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a strategy: what ran, on what, with which configuration."""

    run_id: str
    started_ns: int
    strategy_name: str
    trading_mode: str  # "paper" or "live"
    data_source: str  # "generated", "sample", "recorded: <file name>", "gateway"
    seed: int | None
    code_version: str
    config: Mapping[str, Any]
    models: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class QuoteRow:
    """Best bid and ask."""

    con_id: int
    event_ns: int
    bid_price: float
    bid_size: float
    ask_price: float
    ask_size: float


@dataclass(frozen=True, slots=True)
class TradeRow:
    """A print."""

    con_id: int
    event_ns: int
    price: float
    size: float


@dataclass(frozen=True, slots=True)
class BarRow:
    """A closed bar."""

    con_id: int
    start_ns: int
    end_ns: int
    open: float
    high: float
    low: float
    close: float
    volume: float


@dataclass(frozen=True, slots=True)
class BookRow:
    """An order book; prices and sizes best first."""

    con_id: int
    event_ns: int
    bid_prices: Sequence[float]
    bid_sizes: Sequence[float]
    ask_prices: Sequence[float]
    ask_sizes: Sequence[float]


@dataclass(frozen=True, slots=True)
class InstrumentRow:
    """What a con_id means in this run."""

    con_id: int
    symbol: str
    currency: str
    min_tick: float
    security_type: str


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A decision with everything needed to make it again bit for bit from the recorded answers.

    `ledger` maps stage -> nanoseconds; `risk_checks` holds name, value, limit, passed; `state` is
    the policy's and risk's input at that moment (position, equity, volatility, quote, counters).
    """

    decision_id: str
    con_id: int
    event_ns: int
    decided_ns: int
    side: str
    purpose: str | None
    strength: float
    reason: str
    down_probability: float | None
    flat_probability: float | None
    up_probability: float | None
    weights: Mapping[str, float]
    missing: Mapping[str, str]
    risk_checks: Sequence[Mapping[str, Any]]
    state: Mapping[str, Any]
    ledger: Mapping[str, int]
    budget_ns: int
    window: bytes  # (window_bars, 5) float32, little-endian, C order


@dataclass(frozen=True, slots=True)
class ModelCallRow:
    """One call to one service for one decision; also the ones that were not sent or came late.

    `outcome` is "in time" or a Reason's value; `used` is False for everything not in time.
    `output` is the raw answer: {"probabilities": [3]}, {"embedding_f32": base64, …}, or {}.
    `attempts` is where it was sent, in order; None where it was not, or only one server was there to ask.
    The times are those of the attempt whose outcome counts.
    """

    decision_id: str
    service: str
    request_id: str
    outcome: str
    detail: str
    used: bool
    sent_after_ns: int  # since the bar came off the socket; -1 when not sent
    deadline_after_ns: int
    received_after_ns: int  # -1 when nothing came
    queue_ns: int
    compute_ns: int
    network_ns: int
    model_name: str
    model_version: int
    artifact_sha256: str
    output: Mapping[str, Any]
    attempts: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class NeighborRow:
    """A neighbour with its outcome, as evidence of a decision."""

    decision_id: str
    rank: int
    state_id: int
    con_id: int
    symbol: str
    event_ns: int
    bar_size_s: int
    similarity: float
    forward_return_bps: float


@dataclass(frozen=True, slots=True)
class ShadowAnswerRow:
    """What a version that is tried answered after a decision, and what would have been decided with it.

    `live_side` is the side of the real decision. Without an answer everything of the would-be decision
    is None, and `outcome` says why: a Reason's value. `output` is as in ModelCallRow.
    """

    decision_id: str
    service: str
    model_version: int
    artifact_sha256: str
    request_id: str
    outcome: str
    detail: str
    sent_after_ns: int  # since the bar came off the socket; -1 when not sent
    deadline_after_ns: int
    received_after_ns: int  # -1 when nothing came
    output: Mapping[str, Any]
    live_side: str
    side: str | None = None
    purpose: str | None = None
    strength: float | None = None
    quantity: Decimal | None = None
    reason: str | None = None
    down_probability: float | None = None
    flat_probability: float | None = None
    up_probability: float | None = None
    risk_checks: Sequence[Mapping[str, Any]] = ()
    agrees: bool | None = None
    probability_difference: float | None = None  # largest, from the voter's own answer


@dataclass(frozen=True, slots=True)
class VisionChartRow:
    """A chart that the vision server was shown; the same picture is stored once, for whichever run was first."""

    chart_sha256: str
    png: bytes


@dataclass(frozen=True, slots=True)
class VisionReadingRow:
    """What the vision server read on the chart of a decision, asked after it; also the ones that were not.

    `outcome` is "in time" or a Reason's value; without an answer everything of the model is empty.
    `question` is what was told beside the chart: symbol, extent, indicators, past outcomes.
    """

    decision_id: str
    con_id: int
    as_of_ns: int
    request_id: str
    outcome: str
    detail: str
    sent_after_ns: int  # since the bar came off the socket; -1 when not sent
    deadline_after_ns: int
    received_after_ns: int  # -1 when nothing came
    queue_ns: int
    compute_ns: int
    network_ns: int
    chart_sha256: str  # "" when nothing was drawn
    question: Mapping[str, Any]
    held_quantity: Decimal  # signed, when the answer came
    model_name: str = ""
    model_version: int = 0
    artifact_sha256: str = ""
    export_commit: str = ""
    prompt_name: str = ""
    prompt_template_sha256: str = ""
    prompt: str = ""
    raw_output: str = ""
    sampling_json: str = ""
    prompt_tokens: int = -1
    output_tokens: int = -1
    first_token_ns: int = -1
    signal: str | None = None
    stated_confidence: float | None = None
    trust: float | None = None
    reasoning: str | None = None
    patterns: Sequence[str] = ()
    key_levels: Sequence[float] = ()
    risks: Sequence[str] = ()
    contradictions: Sequence[Mapping[str, Any]] = ()
    expire_ns: int | None = None


@dataclass(frozen=True, slots=True)
class VisionEffectRow:
    """What a reading did to an entry that the policy wanted later: "veto", "shrink", or "agrees"."""

    decision_id: str
    reading_decision_id: str
    effect: str
    wanted_side: str
    wanted_strength: float
    strength: float
    confidence: float
    calibrated: bool
    trust: float


@dataclass(frozen=True, slots=True)
class OrderIntentRow:
    """An order that is about to be sent; durable before it is."""

    intent_id: str
    decision_id: str
    con_id: int
    symbol: str
    side: str
    purpose: str
    quantity: Decimal
    limit_price: Decimal | None
    stop_price: Decimal | None
    take_profit_price: Decimal | None
    created_ns: int


@dataclass(frozen=True, slots=True)
class OrderEventRow:
    """A change of an order at the broker. `sent` events are ours: the order was handed to the socket."""

    order_ref: str
    intent_id: str
    perm_id: int
    con_id: int
    status: str
    filled: Decimal
    remaining: Decimal
    average_price: float
    event_ns: int
    error_code: int
    message: str


@dataclass(frozen=True, slots=True)
class FillRow:
    """An execution; unique by exec_id."""

    exec_id: str
    order_ref: str
    intent_id: str
    perm_id: int
    con_id: int
    symbol: str
    side: str
    quantity: Decimal
    price: Decimal
    event_ns: int


@dataclass(frozen=True, slots=True)
class CommissionRow:
    """The cost of an execution; unique by exec_id."""

    exec_id: str
    commission: Decimal
    currency: str
    realized_pnl: Decimal | None


@dataclass(frozen=True, slots=True)
class PositionRow:
    """What the account held after a change."""

    con_id: int
    symbol: str
    quantity: Decimal
    average_price: float
    event_ns: int


@dataclass(frozen=True, slots=True)
class RiskEventRow:
    """A halt, a refusal by the broker, a disconnect, a kill: something a person should see."""

    kind: str
    con_id: int
    event_ns: int
    detail: str
    values: Mapping[str, Any] = field(default_factory=dict)


Row = (
    QuoteRow
    | TradeRow
    | BarRow
    | BookRow
    | InstrumentRow
    | DecisionRow
    | ModelCallRow
    | NeighborRow
    | ShadowAnswerRow
    | VisionChartRow
    | VisionReadingRow
    | VisionEffectRow
    | OrderIntentRow
    | OrderEventRow
    | FillRow
    | CommissionRow
    | PositionRow
    | RiskEventRow
)
