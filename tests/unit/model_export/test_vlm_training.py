"""The small chart reader: its network, its file, and a course of a few steps."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

WITHOUT_TORCH = "torch is not installed: `make test EXTRAS=cpu,dev,export` brings it"
torch: Any = pytest.importorskip("torch", reason=WITHOUT_TORCH)

from model_export.pattern_shapes import PATTERN_NAMES  # noqa: E402
from model_export.vlm import evaluate  # noqa: E402
from model_export.vlm import recipe as course  # noqa: E402
from model_export.vlm.answers import compact  # noqa: E402
from model_export.vlm.checkpoint import load_weights, write_checkpoint  # noqa: E402
from model_export.vlm.codes import GROUPS, directions, loss_of, targets  # noqa: E402
from model_export.vlm.dialogue import END, IGNORED, make_dialogue  # noqa: E402
from model_export.vlm.drill import drill, longest_scale  # noqa: E402
from model_export.vlm.evaluate import share  # noqa: E402
from model_export.vlm.language_model import LanguageModel  # noqa: E402
from model_export.vlm.lesson import share_of_rate  # noqa: E402
from model_export.vlm.look import harder, varied  # noqa: E402
from model_export.vlm.optimise import orthogonal  # noqa: E402
from model_export.vlm.reader import Reader, answer, hidden_of  # noqa: E402
from model_export.vlm.safetensors import read_bfloat16  # noqa: E402
from model_export.vlm.shape import TextShape, VisionShape  # noqa: E402
from model_export.vlm.speak import begin_looking_back, translated  # noqa: E402
from model_export.vlm.vision_tower import Merger, rotate  # noqa: E402

SMALL = VisionShape(image_px=48, patch_size=12, hidden_size=32, intermediate_size=64, depth=3, num_heads=1)
TINY = course.Recipe(
    shards=1,
    fresh_shards=1,
    shard_examples=14,
    held_out_examples=4,
    validation_examples=2,
    real_examples=2,
    tower_steps=2,
    tower_again=1,
    drill_steps=1,
    language_steps=2,
    joined_steps=1,
    looked_again=1,
    spoken_again=1,
    joined_again=1,
    hard_shards=1,
    looked_hard=1,
    joined_hard=1,
    looked_longer=1,
    joined_longer=1,
)


@pytest.fixture(scope="module")
def dialogue() -> Any:
    return make_dialogue(SMALL)


@pytest.fixture(scope="module")
def reader(dialogue: Any) -> Any:
    torch.manual_seed(3)
    made = Reader(SMALL, TextShape(len(dialogue.vocabulary), intermediate_size=64, num_hidden_layers=3))
    for merger in made.tower.deepstack_merger_list:
        assert isinstance(merger, Merger)
        torch.nn.init.normal_(merger.linear_fc2.weight, 0, 0.05)
    return made.eval()


def question(dialogue: Any) -> Any:
    return torch.tensor([dialogue.question("\nlow 1 high 2"), dialogue.question("\nlow 3 high 4")])


@torch.no_grad()
def test_answering_word_by_word_is_answering_at_once(reader: Any, dialogue: Any) -> None:
    pixels = torch.randint(0, 255, (2, 48, 48, 3), dtype=torch.uint8)
    texts = answer(reader, dialogue, pixels, ["\nlow 1 high 2", "\nlow 3 high 4"], 5)
    tokens = question(dialogue)
    picture, deep = reader.tower(pixels)
    for _ in range(5):
        hidden = hidden_of(reader.language, dialogue, picture, deep, tokens)
        tokens = torch.cat((tokens, reader.language.words(hidden[:, -1]).argmax(-1)[:, None]), 1)
    for row, text in enumerate(texts):
        assert dialogue.vocabulary.decode(tokens[row, -5:].tolist()) == text


@torch.no_grad()
def test_no_token_sees_those_after_it(reader: Any, dialogue: Any) -> None:
    picture, deep = reader.tower(torch.zeros(1, 48, 48, 3, dtype=torch.uint8))
    tokens = question(dialogue)[:1]
    whole = hidden_of(reader.language, dialogue, picture, deep, tokens)
    part = hidden_of(reader.language, dialogue, picture, deep, tokens[:, :4])
    assert torch.allclose(whole[:, :4], part, atol=1e-5)


def test_what_is_wanted_is_the_answer_and_the_end(dialogue: Any) -> None:
    said = '{"reasoning": "gap_up", "patterns": ["gap_up"], "key_levels": [1.0]}'
    batch = dialogue.batch(["\nsymbol A", "\nsymbol A\nprice scale 0%=1.00"], [said, said])
    for wanted in batch.wanted:
        ids = wanted[wanted != IGNORED].tolist()
        assert ids[-1] == END
        assert dialogue.vocabulary.decode(ids) == compact(said)
    first = batch.weight[0][batch.wanted[0] != IGNORED].tolist()
    assert first == sorted(first, reverse=True)
    assert first[0] > first[-1]


@torch.no_grad()
def test_a_language_model_keeps_its_words_in_another_vocabulary(dialogue: Any) -> None:
    known = make_dialogue(SMALL, is_compact=False).vocabulary
    torch.manual_seed(2)
    language: Any = LanguageModel(TextShape(len(known), intermediate_size=64, num_hidden_layers=1))
    other: Any = translated(language, known, dialogue.vocabulary)

    def word(model: Any, vocabulary: Any, piece: str) -> Any:
        return model.embed_tokens.weight[vocabulary.ids[piece]]

    wanted = dialogue.vocabulary
    assert torch.equal(word(other, wanted, " 45%="), word(language, known, " 45%="))
    parts = (word(language, known, '":') + word(language, known, ' ["')) / 2
    assert torch.allclose(word(other, wanted, '":["'), parts)
    assert torch.equal(other.layers[0].mlp.up_proj.weight, language.layers[0].mlp.up_proj.weight)


def test_exercises_want_the_prices_that_stand_behind_the_shares_asked_for(dialogue: Any) -> None:
    batch = drill(dialogue, np.random.default_rng(1), 3, 4)
    for tokens, wanted in zip(batch.tokens, batch.wanted, strict=True):
        told, asked = dialogue.vocabulary.decode(tokens.tolist()).split("none")
        on_scale = dict(re.findall(r"(\d+%)=([0-9.]+)", told))
        cited = re.findall(r"(\d+%)=([0-9.]+), ", asked)
        assert len(cited) == 11
        assert all(on_scale[share] == price for share, price in cited)
        said = dialogue.vocabulary.decode(wanted[wanted != IGNORED].tolist())
        assert said.startswith("".join(price for _, price in cited))


def test_scales_of_exercises_grow_to_whole_ones() -> None:
    sizes = [longest_scale(progress) for progress in np.linspace(0, 1, 50)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (4, 21)


@torch.no_grad()
def test_heads_begin_by_looking_one_two_and_three_tokens_back() -> None:
    torch.manual_seed(1)
    language = LanguageModel(TextShape(600))
    begin_looking_back(language)
    layer: Any = language.layers[0]
    size = 60
    x = layer.input_layernorm(language.embed_tokens(torch.randint(0, 600, (1, size))))
    cos, sin = language._angles(torch.arange(size).expand(3, -1))
    attention = layer.self_attn
    q = rotate(attention.q_norm(attention.q_proj(x).view(1, size, 4, 32)).transpose(1, 2), cos, sin)
    k = rotate(attention.k_norm(attention.k_proj(x).view(1, size, 2, 32)).transpose(1, 2), cos, sin)
    scores = q @ k.repeat_interleave(2, 1).transpose(2, 3) / 32**0.5
    seen = scores.masked_fill(~torch.ones(size, size, dtype=torch.bool).tril(), -1e9).softmax(-1)[0]
    for head, distance in ((0, 1), (1, 2), (2, 3)):
        assert seen[head].diagonal(-distance)[10:].mean() > 0.8


def test_pictures_vary_in_place_and_colour_but_not_in_size() -> None:
    image = np.zeros((1, 48, 48, 3), np.uint8)
    image[0, 8:40, 8:40] = (10, 200, 30)
    rng = np.random.default_rng(2)
    made = [varied(rng, image)[0] for _ in range(40)]
    assert {one.shape for one in made} == {(48, 48, 3)}
    # A negative of something green is green on white, so that ups stay ups.
    colours = {tuple(one[24, 24].tolist()) for one in made}
    assert colours <= {(10, 200, 30), (55, 245, 225)}
    assert len(colours) == 2
    assert len({one.tobytes() for one in made}) > 20


def test_a_second_round_rises_and_falls_again_fainter() -> None:
    shares = [share_of_rate(step, 500, 400) for step in range(900)]
    assert max(shares[:500]) == 1.0
    assert shares[499] < 0.01
    assert max(shares[500:]) == pytest.approx(0.6)
    assert shares[899] < 0.01
    assert shares[:500] == [share_of_rate(step, 500) for step in range(500)]


def test_harder_places_are_gaps_and_none_of_the_same_shard() -> None:
    places = [(2, 14 * turn + at) for turn in range(20) for at in range(14)]
    exchanged = harder(np.random.default_rng(3), places)
    moved = [two for one, two in zip(places, exchanged, strict=True) if one != two]
    assert 0.05 < len(moved) / len(places) < 0.35
    assert {PATTERN_NAMES[at % 14] for _, at in moved} == {"gap_up", "gap_down", "none"}
    assert {which for which, _ in exchanged} == {2}
    assert [at // 14 for _, at in exchanged] == [at // 14 for _, at in places]


def test_codes_are_apart_and_shares_add_up_to_one() -> None:
    code = directions(128)
    assert torch.allclose(code @ code.T, torch.eye(sum(GROUPS)), atol=1e-5)
    wanted = targets([course_truth()])
    assert [one.sum().item() for one in wanted] == pytest.approx([1.0] * 4)
    right = torch.cat(wanted, 1) * 20
    assert loss_of(right, wanted) < loss_of(-right, wanted)


def course_truth() -> Any:
    from model_export.vlm.answers import Truth

    return Truth("double_top", 1.0, 0.43, 1)


def test_a_turned_matrix_has_singular_values_near_one() -> None:
    torch.manual_seed(1)
    for shape in ((16, 48), (48, 16)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.4


def test_a_checkpoint_is_read_back_as_written_to_a_bfloat16s_precision(
    reader: Any, dialogue: Any, tmp_path: Any
) -> None:
    manifest = write_checkpoint(tmp_path / "a", reader, dialogue)
    assert write_checkpoint(tmp_path / "b", reader, dialogue) == manifest
    again = load_weights(tmp_path / "a", Reader(reader.tower.shape, reader.language.shape))
    for one, two in zip(reader.parameters(), again.parameters(), strict=True):
        assert torch.allclose(one, two, rtol=0.01, atol=1e-6)
    names = read_bfloat16(tmp_path / "a/model.safetensors")
    assert "model.visual.blocks.0.attn.qkv.weight" in names
    assert "model.language_model.layers.0.self_attn.q_norm.weight" in names
    config = json.loads((tmp_path / "a/config.json").read_text())
    assert config["text_config"]["vocab_size"] == len(dialogue.vocabulary)
    assert config["text_config"]["head_dim"] in (32, 64, 80)  # what vLLM computes on a CPU


def test_a_share_has_an_interval_around_it() -> None:
    assert share([True] * 97 + [False] * 3) == {"value": 0.97, "ci95": [0.9155, 0.9897], "of": 100}
    assert share([])["of"] == 0


def test_no_two_kinds_of_charts_have_the_same_seed() -> None:
    seeds = [kind.seed for kind in course.kinds_of(TINY)]
    assert len(seeds) == len(set(seeds))


def test_a_shard_that_ends_before_all_patterns_had_their_turn_is_refused() -> None:
    with pytest.raises(ValueError, match="shard_examples is 15; a multiple of 14"):
        replace(TINY, shard_examples=15)


@pytest.mark.timeout(300)
def test_the_course_runs_twice_to_the_same_weights_and_goes_on_where_it_was(
    tmp_path: Any, monkeypatch: Any, dialogue: Any
) -> None:
    monkeypatch.setattr(course, "VisionShape", lambda: SMALL)
    monkeypatch.setattr(
        course, "make_dialogue", lambda _, is_compact=True: replace(dialogue, is_compact=is_compact)
    )
    monkeypatch.setattr(evaluate, "MOST_TOKENS", 3)
    made = []
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    for name in ("a", "b"):
        card = course.make_reader(tmp_path / "work" / name, tmp_path / name, tmp_path, recipe=TINY)
        made.append((tmp_path / name / "model.safetensors").read_bytes())
        assert card["metrics"]["held_out"]["charts"] == 4
        assert "no trading value" in card["statement"]
        assert json.loads((tmp_path / name / "card.json").read_text()) == card
    assert made[0] == made[1]
    assert torch.get_num_threads() == 3  # those of the lessons are not left behind
    torch.set_num_threads(threads)
    for name in ("reader-again", "tower-hard", "reader-hard", "tower-longer", "reader-longer"):
        (tmp_path / f"work/a/{name}-1.pt").unlink()
    course.make_reader(tmp_path / "work/a", tmp_path / "again", tmp_path, recipe=TINY)
    assert (tmp_path / "again/model.safetensors").read_bytes() == made[0]
