"""What a chart's reader may answer."""

import json

import pytest

from vision_prompt import AnswerError, ChartAnswer, Pattern, Signal, answer_schema, parse_answer

GOOD = {
    "reasoning": "two highs near 183.42",
    "patterns": ["double_top"],
    "key_levels": [183.42, 181],
    "signal": "SELL",
    "confidence": 0.7,
    "risks": ["a close above 183.42"],
}


def test_an_answer_becomes_values():
    assert parse_answer(json.dumps(GOOD)) == ChartAnswer(
        (Pattern.DOUBLE_TOP,),
        (183.42, 181.0),
        Signal.SELL,
        0.7,
        ("a close above 183.42",),
        "two highs near 183.42",
    )


def test_lists_may_be_empty():
    answer = parse_answer(json.dumps(GOOD | {"patterns": [], "key_levels": [], "risks": []}))
    assert (answer.patterns, answer.key_levels, answer.risks) == ((), (), ())


@pytest.mark.parametrize(
    "change",
    [
        {"signal": "buy"},
        {"signal": None},
        {"confidence": 1.1},
        {"confidence": -0.1},
        {"confidence": True},
        {"confidence": "0.5"},
        {"patterns": ["uptrend"]},
        {"patterns": "double_top"},
        {"patterns": ["double_top", "double_top"]},
        {"patterns": list(Pattern)[:4]},
        {"key_levels": [-1]},
        {"key_levels": [1e12]},
        {"key_levels": [[1]]},
        {"key_levels": [1, 2, 3, 4, 5]},
        {"risks": ["a", "b", "c"]},
        {"risks": [""]},
        {"risks": ["x" * 101]},
        {"reasoning": ""},
        {"reasoning": "x" * 241},
        {"reasoning": "two\nlines"},
        {"reasoning": "é"},
        {"extra": 1},
    ],
)
def test_what_the_schema_does_not_allow_is_refused(change):
    with pytest.raises(AnswerError):
        parse_answer(json.dumps(GOOD | change))


@pytest.mark.parametrize("field", GOOD)
def test_a_missing_field_is_refused(field):
    with pytest.raises(AnswerError):
        parse_answer(json.dumps({name: value for name, value in GOOD.items() if name != field}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        "[" * 1900,
        json.dumps(GOOD) + " x",
        json.dumps(GOOD).replace("0.7", "NaN"),
        json.dumps(GOOD).replace("0.7", "1e999"),
        json.dumps(GOOD).replace("0.7", "0." + "7" * 30),
        json.dumps(GOOD).replace("{", '{"signal": "BUY", '),
        json.dumps(GOOD) + " " * 2000,
    ],
)
def test_what_is_no_plain_json_object_is_refused(text):
    with pytest.raises(AnswerError):
        parse_answer(text)


def test_the_schema_bounds_every_field():
    schema = answer_schema()
    assert schema["additionalProperties"] is False
    assert schema["required"] == list(schema["properties"]) == list(GOOD)
    for field in schema["properties"].values():
        assert field.keys() & {"enum", "maxItems", "maximum", "pattern"}
