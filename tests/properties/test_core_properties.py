from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import replace
from decimal import Decimal

from hypothesis import assume, given
from hypothesis import strategies as st

from strategy.config import load
from strategy.core.decision import DecisionInput, input_to_json, make_decision, remake, rules_to_json
from strategy.core.ensemble import combine, is_distribution, neighbors_vote
from strategy.core.plain import from_json, to_json
from strategy.core.policy import PolicyLimits, PolicyState, decide
from strategy.core.position import PositionBook
from strategy.core.pricing import plan_exit
from strategy.core.risk import check_entry, halts
from strategy.core.risk_limits import RiskLimits, RiskState
from strategy.core.values import Consensus, Fill, Neighbor, Probabilities, Purpose, Side, Signal
from tradeserve_client.answers import Answer, CallRecord, NoAnswer, Outcome, Reason

CALL = CallRecord("x", "", 0, 0, 0)
RULES = load().rules
NAMES = ("a", "b", "c", "d")
any_float = st.floats(allow_nan=True, allow_infinity=True)


@st.composite
def distributions(draw: st.DrawFn) -> Probabilities:
    parts = [draw(st.floats(0, 1)) for _ in range(3)]
    total = sum(parts)
    assume(total > 1e-6)
    return Probabilities(*(part / total for part in parts))


outcomes: st.SearchStrategy[Outcome[Probabilities]] = st.one_of(
    st.builds(Answer, distributions(), st.just(CALL)),
    st.builds(Answer, st.builds(Probabilities, any_float, any_float, any_float), st.just(CALL)),
    st.builds(NoAnswer, st.sampled_from(Reason), st.text(max_size=5), st.just(CALL)),
)
ballots = st.dictionaries(st.sampled_from(NAMES), outcomes)
weightings = st.dictionaries(
    st.sampled_from(NAMES), st.one_of(st.just(0.0), st.floats(1e-300, 1e300)), min_size=1
).filter(lambda weights: any(weights.values()))


@given(ballots, weightings, st.integers(0, 5), st.floats(0, 1))
def test_a_consensus_is_a_distribution_and_does_not_depend_on_order(
    votes: dict[str, Outcome[Probabilities]], weights: dict[str, float], quorum: int, least: float
) -> None:
    consensus = combine(votes, weights, quorum, least)
    shuffled = combine(dict(reversed(votes.items())), dict(reversed(weights.items())), quorum, least)
    assert repr(consensus) == repr(shuffled)
    if consensus.probabilities is None:
        assert consensus.weights == {}
        return
    assert math.isclose(math.fsum(consensus.weights.values()), 1, abs_tol=1e-9)
    assert is_distribution(consensus.probabilities)
    assert len(consensus.weights) >= quorum
    assert set(consensus.weights).isdisjoint(consensus.missing)
    assert set(consensus.weights) | set(consensus.missing) == set(votes) | set(weights)
    values = [
        vote.value for name, vote in votes.items() if name in consensus.weights and isinstance(vote, Answer)
    ]
    assert min(vote.up for vote in values) - 2e-3 <= consensus.probabilities.up
    assert consensus.probabilities.up <= max(vote.up for vote in values) + 2e-3


@given(distributions(), distributions(), st.floats(0.01, 100), st.floats(0.01, 100))
def test_more_weight_moves_the_consensus_towards_a_voter(
    one: Probabilities, other: Probabilities, weight: float, more: float
) -> None:
    votes: dict[str, Outcome[Probabilities]] = {"a": Answer(one, CALL), "b": Answer(other, CALL)}
    before = combine(votes, {"a": weight, "b": 1.0}, 1, 0).probabilities
    after = combine(votes, {"a": weight + more, "b": 1.0}, 1, 0).probabilities
    assert before is not None
    assert after is not None
    assert abs(after.up - one.up) <= abs(before.up - one.up) + 1e-9


@given(distributions(), distributions(), st.floats(0, 0.3))
def test_a_more_bullish_vote_never_makes_the_consensus_less_bullish(
    one: Probabilities, other: Probabilities, shift: float
) -> None:
    moved = min(shift, one.down)
    bullish = Probabilities(one.down - moved, one.flat, one.up + moved)
    weights = {"a": 1.0, "b": 2.0}
    before = combine({"a": Answer(one, CALL), "b": Answer(other, CALL)}, weights, 2, 1).probabilities
    after = combine({"a": Answer(bullish, CALL), "b": Answer(other, CALL)}, weights, 2, 1).probabilities
    assert before is not None
    assert after is not None
    assert after.up >= before.up - 1e-12
    assert after.down <= before.down + 1e-12


neighbor_lists = st.lists(
    st.builds(
        Neighbor,
        st.integers(0, 9),
        st.integers(0, 9),
        st.just("A"),
        st.integers(0, 9),
        st.sampled_from([60, 300, 86400]),
        any_float,
        any_float,
    ),
    max_size=20,
)


@given(neighbor_lists, any_float, st.integers(0, 20), st.floats(0, 10))
def test_neighbours_vote_a_distribution_or_not_at_all(
    neighbors: list[Neighbor], band_bps: float, min_count: int, prior: float
) -> None:
    bounded = [replace(each, similarity=max(-1.0, min(1.0, each.similarity))) for each in neighbors]
    vote = neighbors_vote(bounded, band_bps, 60, min_count, prior)
    assert vote == neighbors_vote(bounded[::-1], band_bps, 60, min_count, prior)
    if vote is not None:
        assert is_distribution(vote)
        assert len(neighbors) >= min_count


# --- policy --------------------------------------------------------------------------------------

consensuses = st.one_of(
    st.builds(Consensus, distributions(), st.just({"a": 1.0}), st.just({})),
    st.just(Consensus(None, {}, {"a": "late"})),
)
policy_states = st.builds(
    PolicyState,
    position_quantity=st.integers(-1000, 1000).map(Decimal),
    bars_held=st.integers(0, 50),
    bars_to_session_end=st.one_of(st.none(), st.integers(0, 400)),
    entry_working=st.booleans(),
    exit_working=st.booleans(),
)
policy_limits = st.builds(
    PolicyLimits,
    entry_edge=st.floats(0, 1),
    entry_probability=st.floats(0, 1),
    full_strength_edge=st.floats(0.001, 1),
    exit_edge=st.floats(0, 1),
    max_holding_bars=st.integers(1, 60),
    no_entry_last_bars=st.integers(0, 20),
    flatten_last_bars=st.integers(0, 20),
    allow_short=st.booleans(),
)


@given(consensuses, policy_states, policy_limits)
def test_the_policy_never_flips_and_never_adds(
    consensus: Consensus, state: PolicyState, limits: PolicyLimits
) -> None:
    signal = decide(consensus, state, limits)
    assert 0 <= signal.strength <= 1
    assert signal.reason
    assert (signal.side is Side.HOLD) == (signal.purpose is None)
    if signal.purpose is Purpose.ENTRY:
        assert state.position_quantity == 0
        assert consensus.probabilities is not None
        assert limits.allow_short or signal.side is Side.BUY
        edge = consensus.probabilities.up - consensus.probabilities.down
        assert (edge > 0) == (signal.side is Side.BUY)
        assert abs(edge) >= limits.entry_edge
    if signal.purpose is Purpose.EXIT:
        assert state.position_quantity != 0
        assert (signal.side is Side.SELL) == (state.position_quantity > 0)


# --- risk ----------------------------------------------------------------------------------------

money = st.one_of(st.floats(1e3, 1e7), any_float)
quoted = st.one_of(st.floats(0.01, 5000), any_float)
ticks = st.sampled_from(["0.01", "0.00005", "0.05", "0.03", "1", "1E-9", "1000000", "0", "-0.01", "NaN"]).map(
    Decimal
)


@st.composite
def healthy_states(draw: st.DrawFn) -> RiskState:
    """Markets and accounts in which most entries are allowed."""
    equity = draw(st.floats(1e4, 1e9))
    bid = draw(st.floats(0.5, 5000))
    return RiskState(
        trading_mode="paper",
        live_confirmed=False,
        trading_state="running",
        connection_ready=True,
        equity=equity,
        day_start_equity=equity * draw(st.floats(0.95, 1.01)),
        peak_equity=equity * draw(st.floats(1, 1.04)),
        gross_notional=equity * draw(st.floats(0, 0.21)),
        open_positions=draw(st.integers(0, 9)),
        position_quantity=Decimal(0),
        orders_last_minute=draw(st.integers(0, 27)),
        bid_price=bid,
        ask_price=bid * draw(st.floats(1, 1.0015)),
        quote_age_ms=draw(st.floats(0, 5000)),
        data_live=True,
        halted=False,
        within_trading_hours=True,
        atr=bid * draw(st.floats(1e-7, 1.0)),
        min_tick=Decimal(draw(st.sampled_from(["0.01", "0.00005", "0.05", "0.03", "1E-9"]))),
    )


any_states = st.builds(
    RiskState,
    trading_mode=st.sampled_from(["paper", "live", "other"]),
    live_confirmed=st.booleans(),
    trading_state=st.sampled_from(["running", "halted"]),
    connection_ready=st.booleans(),
    equity=money,
    day_start_equity=money,
    peak_equity=money,
    gross_notional=any_float,
    open_positions=st.integers(0, 12),
    position_quantity=st.sampled_from([Decimal(0), Decimal(5)]),
    orders_last_minute=st.integers(0, 32),
    bid_price=quoted,
    ask_price=quoted,
    quote_age_ms=any_float,
    data_live=st.booleans(),
    halted=st.booleans(),
    within_trading_hours=st.booleans(),
    atr=any_float,
    min_tick=ticks,
)
FIELDS = [field.name for field in dataclasses.fields(RiskState)]


@st.composite
def slightly_broken_states(draw: st.DrawFn) -> RiskState:
    """A healthy state with one or two fields from anywhere: what a check must catch alone."""
    broken = draw(any_states)
    names = draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=2))
    return replace(draw(healthy_states()), **{name: getattr(broken, name) for name in names})


def risk_states() -> st.SearchStrategy[RiskState]:
    return st.one_of(healthy_states(), slightly_broken_states(), any_states)


risk_limits = st.builds(
    replace,
    st.just(RULES.risk),
    max_position_pct=st.floats(0.001, 100),
    risk_per_trade_pct=st.floats(0.0001, 100),
    max_order_notional=st.floats(0.01, 1e9),
    max_gross_notional_pct=st.floats(0.001, 1000),
    stop_atr_multiple=st.floats(0.01, 100),
    min_stop_bps=st.floats(0.1, 100),
    max_stop_bps=st.floats(100, 5000),
    take_profit_multiple=st.one_of(st.just(0.0), st.floats(0, 100)),
    limit_offset_bps=st.floats(0, 500),
)
entries = st.builds(
    Signal,
    st.sampled_from([Side.BUY, Side.SELL]),
    st.one_of(st.floats(0.1, 1), st.floats(0.1, 1), any_float),
    st.just(Purpose.ENTRY),
    st.just(""),
)


def on_tick(value: Decimal, tick: Decimal) -> bool:
    return value % tick == 0


@given(entries, risk_states(), st.one_of(st.just(RULES.risk), risk_limits))
def test_an_entry_is_within_every_limit_whatever_comes_in(
    signal: Signal, state: RiskState, limits: RiskLimits
) -> None:
    verdict = check_entry(signal, state, limits)
    assert len(verdict.checks) == 22
    plan = verdict.plan
    assert (plan is None) == bool(verdict.refusal)
    assert (plan is None) == any(not check.passed for check in verdict.checks)
    if plan is None:
        return
    assert halts(state, limits) == ()
    assert state.trading_mode == "paper" or state.live_confirmed
    equity, tick = Decimal(repr(state.equity)), state.min_tick
    touch = Decimal(repr(state.ask_price if signal.side is Side.BUY else state.bid_price))
    assert plan.quantity >= 1
    assert plan.quantity == plan.quantity.to_integral_value()
    highest = max(plan.limit_price, touch) if signal.side is Side.SELL else plan.limit_price
    notional = plan.quantity * highest
    allowed = Decimal("1.000000000001")
    assert notional <= equity * Decimal(repr(limits.max_position_pct)) / 100 * allowed
    assert notional <= Decimal(repr(limits.max_order_notional)) * allowed
    gross = Decimal(repr(state.gross_notional)) + notional
    assert gross <= equity * Decimal(repr(limits.max_gross_notional_pct)) / 100 * allowed
    loss = plan.quantity * abs(plan.limit_price - plan.stop_price)
    assert loss <= equity * Decimal(repr(limits.risk_per_trade_pct)) / 100 * allowed
    assert min(plan.limit_price, plan.stop_price) > 0
    assert on_tick(plan.limit_price, tick)
    assert on_tick(plan.stop_price, tick)
    worst = touch * (
        1 + Decimal(repr(limits.limit_offset_bps)) / 10_000 * (1 if signal.side is Side.BUY else -1)
    )
    if signal.side is Side.BUY:
        assert plan.stop_price < plan.limit_price <= worst
        assert plan.stop_price < Decimal(repr(state.bid_price))
    else:
        assert plan.stop_price > plan.limit_price >= worst
        assert plan.stop_price > Decimal(repr(state.ask_price))
    if plan.take_profit_price is not None:
        assert on_tick(plan.take_profit_price, tick)
        assert plan.take_profit_price > 0
        assert (plan.take_profit_price > plan.limit_price) == (signal.side is Side.BUY)
        assert plan.take_profit_price != plan.limit_price
    assert (plan.take_profit_price is None) == (limits.take_profit_multiple == 0)


@given(risk_states(), st.integers(-1000, 1000).filter(bool))
def test_an_exit_closes_exactly_the_position_in_any_state(state: RiskState, quantity: int) -> None:
    plan = plan_exit(replace(state, position_quantity=Decimal(quantity)), RULES.risk)
    assert plan.quantity == abs(quantity)
    assert (plan.side is Side.SELL) == (quantity > 0)
    assert plan.limit_price is None or (plan.limit_price > 0 and on_tick(plan.limit_price, state.min_tick))


@given(entries.filter(lambda signal: 0 < signal.strength <= 1), risk_states(), st.floats(0.01, 1))
def test_a_weaker_signal_never_gets_a_larger_entry(signal: Signal, state: RiskState, factor: float) -> None:
    strong = check_entry(signal, state, RULES.risk).plan
    weak = check_entry(replace(signal, strength=signal.strength * factor), state, RULES.risk).plan
    if weak is not None:
        assert strong is not None
        assert weak.quantity <= strong.quantity


# --- records and money ---------------------------------------------------------------------------


@given(ballots, policy_states, risk_states(), risk_limits, policy_limits)
def test_a_decision_made_again_from_its_record_is_identical(
    votes: dict[str, Outcome[Probabilities]],
    policy: PolicyState,
    risk: RiskState,
    risk_limit: RiskLimits,
    policy_limit: PolicyLimits,
) -> None:
    same = replace(risk, position_quantity=policy.position_quantity)
    given_input = DecisionInput(votes, policy, same)
    rules = replace(
        RULES, weights={"a": 1.0, "b": 0.3}, risk=risk_limit, policy=policy_limit,
        ensemble=replace(RULES.ensemble, quorum_voters=1),
    )  # fmt: skip
    text = json.dumps([input_to_json(given_input), rules_to_json(rules)], allow_nan=False, sort_keys=True)
    assert repr(remake(*json.loads(text))) == repr(make_decision(given_input, rules))


@given(risk_states())
def test_a_state_survives_json_text(state: RiskState) -> None:
    text = json.dumps(to_json(state), allow_nan=False)
    assert repr(from_json(RiskState, json.loads(text))) == repr(state)


fills = st.lists(
    st.tuples(
        st.sampled_from([Side.BUY, Side.SELL]),
        st.integers(1, 500),
        st.integers(1, 10_000_000),
        st.integers(1, 3),
        st.booleans(),
    ),
    max_size=40,
)


@given(fills, st.floats(0.01, 1000))
def test_cash_and_positions_add_up_to_the_profit(
    stream: list[tuple[Side, int, int, int, bool]], mark: float
) -> None:
    book, cash = PositionBook(), Decimal(0)
    for row, (side, quantity, cents, con_id, repeated) in enumerate(stream):
        fill = Fill(str(row), "", 0, con_id, "A", side, Decimal(quantity), Decimal(cents) / 100, row + 1)
        state = book.apply_fill(fill)
        assert state is not None
        if repeated:
            assert book.apply_fill(fill) is None
        cash += fill.quantity * fill.price * (-1 if side is Side.BUY else 1)
        assert (state.quantity == 0) == (state.opened_ns == 0)
        if state.quantity == 0:
            assert state.cost == 0
        else:
            assert state.average_price > 0
    for con_id in (1, 2, 3):
        book.mark(con_id, mark)
    value = sum((state.quantity * Decimal(repr(mark)) for state in book.states), Decimal(0))
    assert abs(cash + value - book.total_pnl) <= Decimal("1e-12")
    assert float(book.gross_notional) >= abs(float(value)) * (1 - 1e-12)
