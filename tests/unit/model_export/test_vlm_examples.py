"""Charts with prompts and answers, and the tokens they become; without torch."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_export.chart_patterns import HELD_OUT, TRAINING
from model_export.pattern_shapes import NONE, PATTERN_NAMES
from model_export.vlm.answers import SIGNALS, Truth, answer_text, compact, confidence_of
from model_export.vlm.tokenizer import CHAT_TEMPLATE, SPECIALS, learn, pieces
from vision_prompt import PastOutcome, load_template, parse_answer

examples = pytest.importorskip(
    "model_export.vlm.examples", reason="pillow, of the export extra, is not installed"
)
SCALE = tuple(f"{100 + step:.2f}" for step in range(21))


@pytest.fixture(scope="module")
def made():
    return [
        examples.make_example((4, number), family, 48, name)
        for family in (TRAINING, HELD_OUT)
        for number, name in enumerate(PATTERN_NAMES)
    ]


@pytest.fixture(scope="module")
def vocabulary(made):
    return learn([one.context + one.answer for one in made] * 5, (load_template().before_chart,))


def test_every_answer_is_one_that_the_parser_takes(made):
    for example in made:
        answer = parse_answer(example.answer)
        assert [str(one) for one in answer.patterns] == [example.truth.pattern][
            : example.truth.pattern != NONE
        ]
        assert answer.signal is SIGNALS[example.truth.pattern]
        assert answer.reasoning.startswith(example.truth.pattern)
        assert re.sub(r"\d+\.?\d*", "0", example.answer) == re.sub(
            r"\d+\.?\d*", "0", json.dumps(json.loads(example.answer))
        )


def test_levels_are_prices_of_the_prompts_scale_and_cited_as_there(made):
    for example in made:
        answer = parse_answer(example.answer)
        levels = answer.key_levels
        assert set(re.findall(r"\d+%=[0-9.]+", answer.reasoning)) <= set(example.context.split())
        assert [float(price) for price in re.findall(r"%=([0-9.]+)", answer.reasoning)] == list(levels)
        told = [float(price) for price in re.findall(r"%=([0-9.]+)", example.context)]
        assert set(levels) <= set(told)
        assert len(levels) == (2 if told else 0)
        assert list(levels) == sorted(levels, reverse=True)


@pytest.mark.parametrize(
    ("pattern", "mean_bps", "confidence"),
    [("double_top", 5.0, 0.7), ("double_top", -5.0, 0.9), ("double_bottom", -5.0, 0.7), (NONE, 5.0, 0.9)],
)
def test_past_outcomes_against_the_signal_lower_the_confidence(pattern, mean_bps, confidence):
    assert confidence_of(Truth(pattern, 1.0, 0.5, 0), (PastOutcome(0.9, mean_bps),)) == confidence


def test_an_answer_reads_so():
    assert answer_text(Truth("double_top", 0.9, 0.5, 1), SCALE, ()) == (
        '{"reasoning": "double_top, upper 90%=118.00, lower 50%=110.00", "patterns": ["double_top"], '
        '"key_levels": [118.00, 110.00], "signal": "SELL", "confidence": 0.7, "risks": ["a close above 118.00"]}'
    )


def test_an_answer_is_compact_as_the_grammar_of_vllm_writes_it(made):
    for example in made:
        written = compact(example.answer)
        assert json.loads(written) == json.loads(example.answer)
        numbers = re.compile(r"\d+\.?\d*")
        wanted = json.dumps(json.loads(example.answer), separators=(",", ":"))
        assert numbers.sub("0", written) == numbers.sub("0", wanted)
    assert compact('{"a": "b, c: d", "e": [1.0, 2.50]}') == '{"a":"b, c: d","e":[1.0,2.50]}'


def test_a_shard_is_the_same_from_the_same_seed_and_read_as_written(tmp_path):
    one = examples.read_shard(examples.write_shard(tmp_path / "a", (1, 2), 3, HELD_OUT, 48))
    two = examples.read_shard(examples.write_shard(tmp_path / "b", (1, 2), 3, HELD_OUT, 48))
    assert np.array_equal(one.images, two.images)
    assert (list(one.answers), list(one.contexts)) == (list(two.answers), list(two.contexts))
    assert np.array_equal(one.paths, two.paths)
    assert one.images.shape == (3, 48, 48, 3)
    assert one.paths.min() >= 0
    assert one.paths.max() <= 1
    assert [truth.pattern for truth in one.truths] == list(PATTERN_NAMES[:3])


@settings(max_examples=60)
@given(text=st.text(max_size=80))
def test_any_text_survives_the_tokenizer(vocabulary, text):
    clean = text.encode("utf-8", "ignore").decode()
    assert "".join(pieces(clean)) == clean
    ids = vocabulary.encode(clean)
    assert vocabulary.decode(ids) == clean
    # A special can't be written in text: it would end the turn, or stand for a picture.
    assert not ids or min(ids) >= len(SPECIALS)


def test_specials_in_a_text_are_plain_bytes(vocabulary):
    assert min(vocabulary.encode("".join(SPECIALS))) >= len(SPECIALS)


def test_a_price_takes_few_tokens(vocabulary):
    assert len(vocabulary.encode(" 45%=183.42")) == 3
    assert max(len(vocabulary.encode(f"{number}%")) for number in range(101)) == 1


def test_every_id_of_the_tokenizer_file_has_one_meaning(vocabulary):
    vocab = vocabulary.file()["model"]["vocab"]
    assert sorted(vocab.values()) == list(range(len(vocabulary)))


def test_the_chat_template_puts_picture_and_texts_in_their_order():
    jinja2 = pytest.importorskip(
        "jinja2", reason="jinja2, which mypy's reports and others bring, is not installed"
    )
    content = [{"type": "text", "text": "before"}, {"type": "image"}, {"type": "text", "text": "\nafter"}]
    text = jinja2.Template(CHAT_TEMPLATE).render(
        messages=[{"role": "user", "content": content}], add_generation_prompt=True
    )
    assert text == (
        "<|im_start|>user\nbefore<|vision_start|><|image_pad|><|vision_end|>\nafter<|im_end|>\n<|im_start|>assistant\n"
    )
