import pytest

from vision_prompt import ChartAnswer, ChartExtent, Pattern, Signal
from vision_server.checks import contradictions_of, trust_of

START_NS = 1_741_786_200_000_000_000  # 2025-03-12 13:30 UTC
EXTENT = ChartExtent(99.1, 101.3, 100.0, START_NS, START_NS + 3_600 * 10**9, 60)


def answer(
    signal: Signal = Signal.HOLD,
    patterns: tuple[Pattern, ...] = (),
    key_levels: tuple[float, ...] = (),
    risks: tuple[str, ...] = (),
    reasoning: str = "nothing",
) -> ChartAnswer:
    return ChartAnswer(patterns, key_levels, signal, 0.5, risks, reasoning)


def found(of: ChartAnswer, extent: ChartExtent | None = EXTENT) -> list[str]:
    return [f"{each.field}: {each.detail}" for each in contradictions_of(of, extent)]


def test_levels_on_the_chart_are_fine_and_others_are_named() -> None:
    assert found(answer(key_levels=(99.1, 100.0, 101.3, 101.305))) == []
    assert found(answer(key_levels=(104.2, 98.0))) == [
        "key_levels: 104.2 lies outside the chart's 99.1 to 101.3",
        "key_levels: 98 lies outside the chart's 99.1 to 101.3",
    ]


@pytest.mark.parametrize(
    "reasoning",
    [
        "it broke below 99.5 at 14:05, resistance at 101.2",
        "since 2025-03-12 it held support at 99.3",
        "rsi of 61.5, up 250 bps in 12 bars, target in 3 days",
        "a top at 2025-03-12 14:00 near 101",
        "volume at 140%, above 150 bps, from 12 bars",
        "back to 1.2.3 or level 12-34",
    ],
)
def test_prose_that_fits_the_chart_is_left_alone(reasoning: str) -> None:
    assert found(answer(reasoning=reasoning)) == []


@pytest.mark.parametrize(
    ("reasoning", "words"),
    [
        ("it held support at 87.5 twice", "87.5 lies outside"),
        ("Resistance near $140", "140 lies outside"),
        ("since 2024-11-05 it rises", "2024-11-05 is not on the chart"),
        ("a top at 2025-03-12 09:00", "2025-03-12 09:00 is not on the chart"),
        ("a top on 2025-13-45", "2025-13-45 is no date"),
    ],
)
def test_prices_and_dates_that_are_not_on_the_chart_are_named(reasoning: str, words: str) -> None:
    for field, of in (("reasoning", answer(reasoning=reasoning)), ("risks", answer(risks=(reasoning,)))):
        (detail,) = found(of)
        assert detail.startswith(f"{field}: ")
        assert words in detail


def test_a_signal_against_every_pattern_is_a_contradiction_even_without_an_extent() -> None:
    assert found(answer(Signal.BUY, (Pattern.DOUBLE_TOP,)), None) == [
        "signal: BUY with nothing but falling patterns: double_top"
    ]
    assert found(answer(Signal.SELL, (Pattern.BULL_FLAG, Pattern.DOUBLE_BOTTOM)), None)
    assert found(answer(Signal.BUY, (Pattern.DOUBLE_TOP, Pattern.GAP_UP)), None) == []
    assert found(answer(Signal.HOLD, (Pattern.DOUBLE_TOP,)), None) == []


def test_without_an_extent_levels_and_dates_are_not_checked() -> None:
    assert found(answer(key_levels=(5.0,), reasoning="at 5 on 1999-01-01"), None) == []


def test_each_contradiction_halves_the_trust_and_their_number_is_bounded() -> None:
    assert trust_of(()) == 1.0
    many = contradictions_of(answer(reasoning=" ".join(f"at {n}" for n in range(500, 560))), EXTENT)
    assert len(many) == 16
    assert trust_of(many[:2]) == 0.25
    assert 0 < trust_of(many) < 1e-4


def test_hostile_prose_is_checked_in_no_time() -> None:
    assert found(answer(reasoning=("at " * 80)[:240])) == []
    assert found(answer(reasoning="9" * 240)) == []
