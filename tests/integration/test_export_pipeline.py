"""From made-up bars to served artifacts, with a few training steps; nothing of ../shared/data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_export.__main__ import main
from model_export.cards import NO_SKILL, sha256_of
from model_export.check import check_all
from model_export.contract import BAR_SIZES_S, DETECTOR, MODELS, SERVED, Layout
from model_export.data import DAILY, HOURLY, MINUTE_2024, Series
from model_export.pattern_shapes import PATTERN_NAMES
from model_export.windows import SPLITS

WITHOUT = "torch, onnx and pyts are not installed: `make test EXTRAS=cpu,dev,export` brings them"
_BARS = 220

# One worker trains for all of them; torch's exporter alone takes ten seconds a model on an idle core.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.xdist_group("export")]


def made_up_series() -> list[Series]:
    """Return three stretches per bar size: one for each split."""
    series = []
    for bar_size_s in BAR_SIZES_S:
        source = {86400: DAILY, 3600: HOURLY}.get(bar_size_s, MINUTE_2024)
        step = bar_size_s * 10**9
        train_edge, validation_edge, _ = SPLITS[bar_size_s].edges_ns().tolist()
        for number, first in enumerate((train_edge - _BARS * step, train_edge, validation_edge)):
            rng = np.random.default_rng(bar_size_s + number)
            close = 50 * np.exp(np.cumsum(rng.normal(0, 0.002, _BARS)))
            bars = np.stack([close, close * 1.001, close * 0.999, close, rng.lognormal(8, 1, _BARS)], 1)
            start = first + np.arange(_BARS, dtype=np.int64) * step
            series.append(
                Series(source, f"S{number}", bar_size_s, start, start + step, bars.astype(np.float32))
            )
    return series


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    for module in ("torch", "onnx", "onnxscript", "sklearn"):
        pytest.importorskip(module, reason=WITHOUT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_DISABLE_JIT", "1")  # compiling what pyts imports takes a minute
        pytest.importorskip("pyts", reason=WITHOUT)
        from model_export import export, index, train
        from model_export.detector.recipe import make_detector
        from model_export.detector.training import Recipe

        layout, series = Layout(tmp_path_factory.mktemp("export")), made_up_series()
        cards: dict[str, Any] = {}
        for name in MODELS:
            weights = layout.work / f"{name}.pt"
            train.save(train.train(name, series, steps=3), name, weights)
            cards[name] = export.export(name, train.load(weights), series, layout)
        index.build_index(series, layout)
        short = Recipe(steps=2, falling=1, batch=4)
        cards[DETECTOR.name] = make_detector(layout, None, recipe=short, examined=2 * len(PATTERN_NAMES))
        return layout, cards


def test_a_few_steps_give_complete_artifacts_that_agree(made: tuple[Layout, dict[str, Any]]) -> None:
    assert len(check_all(made[0])) == len(SERVED) + 1


def test_a_barely_trained_model_calls_itself_a_placeholder(made: tuple[Layout, dict[str, Any]]) -> None:
    for card in made[1].values():
        assert card.statement.startswith("Placeholder training.")
        assert NO_SKILL in card.statement
        assert card.training["placeholder"] is True
        assert not card.demonstrated_skill


def test_the_same_weights_give_the_same_bytes(made: tuple[Layout, dict[str, Any]], tmp_path: Path) -> None:
    from model_export import export, train

    layout, _ = made
    again = tmp_path / "model.onnx"
    export.write_onnx(train.load(layout.work / "lstm_cnn.pt").model, "lstm_cnn", again)
    assert sha256_of(again) == sha256_of(layout.onnx("lstm_cnn"))


def test_a_course_goes_on_from_where_it_was_and_gives_the_same_detector(
    made: tuple[Layout, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from model_export.detector.graph import write_graph
    from model_export.detector.half_precision import rounded
    from model_export.detector.training import Recipe, train

    layout, cards = made
    saved = layout.root / "build/detector/detector-1.pt"
    again = train(1, Recipe(steps=2, falling=1, batch=4), (), saved)
    assert "goes on after step 2" in capsys.readouterr().out
    anew = train(1, Recipe(steps=2, falling=1, batch=4), (), tmp_path / "other.pt")
    for name, values in again.state_dict().items():
        assert torch.equal(values, anew.state_dict()[name]), name
    write_graph(rounded(again), tmp_path / "model.onnx")
    assert sha256_of(tmp_path / "model.onnx") == cards[DETECTOR.name].artifact_sha256


def test_a_longer_course_goes_on_from_a_shorter_one_as_if_it_had_never_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch", reason=WITHOUT)
    from model_export.detector.training import Recipe, train

    longer = Recipe(steps=4, falling=1, batch=2)
    train(3, Recipe(steps=2, falling=0, batch=2), (), tmp_path / "stopped.pt")
    stopped = train(3, longer, (), tmp_path / "stopped.pt")
    assert "goes on after step 2" in capsys.readouterr().out
    whole = train(3, longer, (), tmp_path / "whole.pt")
    assert "goes on" not in capsys.readouterr().out
    for name, values in whole.state_dict().items():
        assert torch.equal(values, stopped.state_dict()[name]), name


def test_the_shipped_artifacts_are_checked_without_torch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("torch", "onnx"):
        monkeypatch.setitem(sys.modules, module, None)
    assert main(["check"]) == 0
    assert capsys.readouterr().out.count("\n") == len(SERVED) + 1
