"""Whatever a model writes, the parser returns an answer within the schema's bounds or refuses it."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from vision_prompt import AnswerError, ChartFacts, Pattern, Signal, build_prompt, parse_answer

ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=90)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
GOOD = st.fixed_dictionaries(
    {
        "patterns": st.lists(st.sampled_from([str(one) for one in Pattern]), max_size=3, unique=True),
        "key_levels": st.lists(st.floats(0, 1e9), max_size=4),
        "signal": st.sampled_from([str(one) for one in Signal]),
        "confidence": st.floats(0, 1),
        "risks": st.lists(ASCII, max_size=2),
        "reasoning": ASCII,
    }
)


@given(GOOD)
def test_what_the_schema_allows_is_read(answer):
    read = parse_answer(json.dumps(answer))
    assert list(read.patterns) == answer["patterns"]
    assert list(read.key_levels) == answer["key_levels"]
    assert (str(read.signal), read.confidence) == (answer["signal"], answer["confidence"])
    assert (list(read.risks), read.reasoning) == (answer["risks"], answer["reasoning"])


@given(
    GOOD, st.sampled_from(["patterns", "key_levels", "signal", "confidence", "risks", "reasoning"]), VALUES
)
def test_any_other_value_is_refused_or_within_bounds(answer, field, value):
    try:
        read = parse_answer(json.dumps(answer | {field: value}))
    except AnswerError:
        return
    assert 0 <= read.confidence <= 1
    assert all(math.isfinite(level) and 0 <= level <= 1e9 for level in read.key_levels)
    assert len(read.reasoning) <= 240
    assert read.reasoning.isprintable()


@given(st.text(max_size=300))
def test_any_text_is_refused_or_read(text):
    try:
        parse_answer(text)
    except AnswerError:
        return
    raise AssertionError("no such text is an answer")


@given(st.text(max_size=60))
def test_no_symbol_reaches_the_prompt_but_one_that_looks_like_a_symbol(symbol):
    told = build_prompt(ChartFacts(symbol)).after_chart.removeprefix("\nsymbol ")
    assert told == "unnamed" or (told == symbol.replace(" ", ".") and len(told) <= 13)
