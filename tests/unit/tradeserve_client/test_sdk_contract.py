from __future__ import annotations

from dataclasses import replace

import pytest

from strategy.adapters.forecaster_specs import ForecasterSpec, IndexSpec, VoterSpec, bar_size_differences
from tradeserve_client.contract import ModelContract, TensorSpec, differences, require
from tradeserve_client.errors import ContractError

WINDOW = TensorSpec("window", "FP32", (-1, 60, 5))
PROBABILITIES = TensorSpec("probabilities", "FP32", (-1, 3))
SERVED = ModelContract(
    "lstm_cnn", 1, (1,), (WINDOW,), (PROBABILITIES,), {"artifact_sha256": "ab" * 32, "bar_sizes_s": "60, 300"}
)
EXPECTED = VoterSpec("lstm_cnn", 1, "AB" * 32).expected(60)


def test_an_equal_contract_has_no_differences() -> None:
    assert differences(EXPECTED, SERVED) == []
    require(EXPECTED, SERVED)


def test_an_empty_digest_and_version_zero_accept_what_is_served() -> None:
    assert differences(VoterSpec("lstm_cnn").expected(60), SERVED) == []


@pytest.mark.parametrize(
    ("served", "words"),
    [
        (replace(SERVED, version=2, versions=(2, 3)), "expected version 1, served: 2, 3"),
        (replace(SERVED, parameters={"artifact_sha256": "cd" * 32}), "abababababab…, served: cdcdcdcdcdcd…"),
        (replace(SERVED, parameters={}), "served: none"),
        (replace(SERVED, name="other"), "a model named 'other'"),
        (
            replace(SERVED, inputs=(replace(WINDOW, shape=(-1, 30, 5)),)),
            "input 'window': expected shape [-1, 60, 5], served [-1, 30, 5]",
        ),
        (replace(SERVED, inputs=(replace(WINDOW, dtype="FP16"),)), "expected dtype FP32, served FP16"),
        (replace(SERVED, inputs=()), "expected an input 'window', served: none"),
        (
            replace(SERVED, inputs=(WINDOW, TensorSpec("mask", "BOOL", (-1,)))),
            "the served model also wants an input 'mask'",
        ),
        (replace(SERVED, outputs=(replace(PROBABILITIES, shape=(-1, 2)),)), "served [-1, 2]"),
        (replace(SERVED, outputs=(replace(PROBABILITIES, shape=(3,)),)), "served [3]"),
    ],
)
def test_each_difference_is_spelled_out(served: ModelContract, words: str) -> None:
    found = differences(EXPECTED, served)
    assert len(found) == 1
    assert words in found[0]
    assert found[0].startswith("lstm_cnn: ")
    with pytest.raises(ContractError, match="lstm_cnn"):
        require(EXPECTED, served)


def test_all_differences_are_told_at_once() -> None:
    served = replace(SERVED, version=2, versions=(2,), parameters={}, outputs=())
    assert len(differences(EXPECTED, served)) == 3


def test_more_outputs_than_are_read_do_no_harm() -> None:
    embedding = TensorSpec("embedding", "FP32", (-1, 128))
    assert differences(EXPECTED, replace(SERVED, outputs=(embedding, PROBABILITIES))) == []


def test_a_bar_size_the_model_was_not_trained_for_is_a_difference() -> None:
    assert bar_size_differences(SERVED, 300) == []
    assert bar_size_differences(SERVED, 0) == []
    assert (
        "trades bars of 30 s, the served model was trained for bars of 60, 300 s"
        in (bar_size_differences(SERVED, 30)[0])
    )
    assert "does not say" in bar_size_differences(replace(SERVED, parameters={}), 60)[0]


@pytest.mark.parametrize(
    ("voters", "index", "words"),
    [
        ((), IndexSpec(), "at least one"),
        ((VoterSpec("a"), VoterSpec("a")), IndexSpec(), "each named once"),
        (
            (VoterSpec("a", embedding_dimension=2), VoterSpec("b", embedding_dimension=2)),
            IndexSpec(),
            "at most one",
        ),
        ((VoterSpec("a"),), IndexSpec(target="localhost:1"), "no voter has an embedding_dimension"),
        ((VoterSpec("a"),), IndexSpec(neighbor_count=0), "neighbor_count"),
    ],
)
def test_an_impossible_plan_is_refused(voters: tuple[VoterSpec, ...], index: IndexSpec, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ForecasterSpec("localhost:1", voters, index)
