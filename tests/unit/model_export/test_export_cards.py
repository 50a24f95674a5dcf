from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model_export.cards import (
    NO_SKILL,
    POOLED,
    ModelCard,
    describe_forecaster,
    describe_split,
    export_commit,
    has_skill,
    read_card,
    statement_of,
    write_card,
)
from model_export.contract import BAR_SIZES_S, MODELS
from model_export.errors import ArtifactError
from model_export.metrics import Estimate, Metrics

CHANCE = Metrics(
    samples=100,
    days=10,
    log_loss=Estimate(1.05, 1.0, 1.1),
    baseline_log_loss=1.05,
    log_loss_gain=Estimate(0.0, -0.01, 0.01),
    auc=Estimate(0.5, 0.48, 0.52),
    auc_one_bar_later=Estimate(0.5, 0.48, 0.52),
    accuracy=Estimate(0.4, 0.38, 0.42),
    baseline_accuracy=0.4,
    auc_against_same_day_median=None,
    demonstrated_skill=False,
)
SKILLED = replace(CHANCE, auc=Estimate(0.55, 0.53, 0.57), demonstrated_skill=True)


@pytest.fixture
def card() -> ModelCard:
    return ModelCard(
        **describe_forecaster(MODELS["gaf_resnet"]),
        data=[],
        split=describe_split(),
        training={},
        export_commit="ab",
        artifact_sha256="cd",
        parity={},
        metrics={},
        demonstrated_skill=False,
        statement=NO_SKILL,
    )


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_card_is_read_back_as_it_was_written(tmp_path: Path, card: ModelCard) -> None:
    write_card(tmp_path / "card.json", card)
    assert read_card(tmp_path / "card.json", ModelCard) == card


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "1"}, "version must be int"),
        ({"version": True}, "version must be int"),
        ({"surprise": 1}, "missing or unknown: surprise"),
        ({"statement": "buy everything"}, "must say"),
    ],
)
def test_a_wrong_card_names_the_file_and_the_field(
    tmp_path: Path, card: ModelCard, changes: dict[str, Any], words: str
) -> None:
    path = tmp_path / "card.json"
    write_card(path, card)
    rewrite(path, **changes)
    with pytest.raises(ArtifactError, match=words) as caught:
        read_card(path, ModelCard)
    assert str(path) in str(caught.value)


def test_a_missing_or_unreadable_card_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="make models"):
        read_card(tmp_path / "card.json", ModelCard)
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(ArtifactError, match="make models"):
        read_card(tmp_path / "card.json", ModelCard)


def test_skill_must_show_at_every_bar_size() -> None:
    assert not has_skill({})
    assert not has_skill({"60": CHANCE, POOLED: SKILLED})
    assert has_skill({"60": SKILLED, POOLED: SKILLED})


@pytest.mark.parametrize("placeholder", [True, False])
@pytest.mark.parametrize("gain", [Estimate(0.0, -0.01, 0.01), Estimate(0.01, 0.005, 0.02)])
def test_a_statement_without_skill_says_so_and_fits_a_line(gain: Estimate, placeholder: bool) -> None:
    measured = replace(CHANCE, log_loss_gain=gain)
    statement = statement_of({str(b): measured for b in BAR_SIZES_S} | {POOLED: measured}, placeholder)
    assert NO_SKILL in statement
    assert ("Placeholder" in statement) == placeholder
    assert len(statement) <= 200


def test_a_statement_names_only_the_bar_sizes_where_the_model_beats_class_shares() -> None:
    better = replace(CHANCE, log_loss_gain=Estimate(0.01, 0.005, 0.02))
    statement = statement_of({"60": better, "86400": CHANCE, POOLED: better}, placeholder=False)
    assert "(bars of 60 s)" in statement


def test_a_statement_with_skill_still_names_the_costs() -> None:
    statement = statement_of({"60": SKILLED, POOLED: SKILLED}, placeholder=False)
    assert NO_SKILL not in statement
    assert "costs" in statement


def test_the_commit_of_a_changed_tree_is_marked_dirty(tmp_path: Path) -> None:
    assert export_commit(tmp_path) == "unknown"

    def git(*args: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *args], check=True, capture_output=True)

    (tmp_path / "export").mkdir()
    (tmp_path / "export/a.py").write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "first", "--no-verify")
    clean = export_commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "notes.txt").write_text("elsewhere")
    assert export_commit(tmp_path) == clean
    (tmp_path / "export/a.py").write_text("2")
    assert export_commit(tmp_path) == f"{clean}-dirty"
