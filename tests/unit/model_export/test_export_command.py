from __future__ import annotations

from pathlib import Path

import pytest

from model_export.__main__ import main


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for command in (
        "train",
        "export",
        "index",
        "all",
        "vlm",
        "detector",
        "examine-detector",
        "configs",
        "check",
        "pin",
    ):
        assert command in shown


def test_training_without_data_gives_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--data", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no training data in ")
    assert error.count("\n") == 1


def test_checking_an_empty_tree_names_the_missing_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", str(tmp_path), "check"]) == 2
    assert "card.json" in capsys.readouterr().err
