"""The shipped pattern detector: on the real Triton, beside ONNX Runtime, and from the command line."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from market.chart import ChartOptions, ChartStyle, Theme, draw
from market.events import Bar
from tradeserve_client import Answer, BlockingClients, ClientConfig, TritonSection, WrongRequestError

onnxruntime = pytest.importorskip("onnxruntime", reason="reads the graph: make setup EXTRAS=cpu,dev")

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "model_repository" / "pattern_detector"
MINUTE_NS = 60_000_000_000
Pixels = NDArray[np.uint8]

pytestmark = pytest.mark.xdist_group("served models")


def bars_along(path: NDArray[np.float64], wick: float, *, gap_at: int = -1) -> list[Bar]:
    """Return bars whose opens and closes follow a path, with a gap up of 4 before one of them."""
    dice = np.random.default_rng(7)
    bars = []
    for index, (opened, closed) in enumerate(itertools.pairwise(path.tolist())):
        lift = 4.0 if 0 <= gap_at <= index else 0.0
        high = max(opened, closed) + lift + float(dice.uniform(0, wick))
        low = min(opened, closed) + lift - float(dice.uniform(0, wick))
        start_ns = 1_741_786_200_000_000_000 + index * 5 * MINUTE_NS
        bars.append(
            Bar(1, start_ns, start_ns + 5 * MINUTE_NS, opened + lift, high, low, closed + lift, 1000.0)
        )
    return bars


def double_top() -> list[Bar]:
    turns = [(0.0, 97.5), (0.2, 96.0), (0.42, 104.0), (0.6, 99.5), (0.78, 103.9), (1.0, 98.6)]
    path = np.interp(np.linspace(0, 1, 71), *np.array(turns).T)
    return bars_along(path + np.random.default_rng(6).normal(0, 0.06, 71), 0.08)


def walk_with_gap() -> list[Bar]:
    return bars_along(100 + np.cumsum(np.random.default_rng(6).normal(0, 0.3, 71)), 0.3, gap_at=45)


@pytest.fixture(scope="module")
def classes() -> list[str]:
    return list(json.loads((MODEL / "card.json").read_text())["classes"])


@pytest.fixture(scope="module")
def session() -> Any:
    return onnxruntime.InferenceSession(MODEL / "1" / "model.onnx")


def local(session: Any, images: Pixels) -> dict[str, NDArray[Any]]:
    names = [node.name for node in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": images}), strict=True))


def pictures(width: int, height: int) -> Pixels:
    bars = double_top(), walk_with_gap()
    readable = ChartOptions(width, height, theme=Theme.DARK)
    bare = ChartOptions(width, height, style=ChartStyle.BARE)
    return np.stack([draw(one, options).pixels for one in bars for options in (readable, bare)])


@pytest.mark.parametrize("size", [(480, 480), (700, 410)], ids=str)
def test_triton_gives_what_onnxruntime_gives_for_any_size_of_picture(
    size: tuple[int, int], session: Any, real_triton: str
) -> None:
    images = pictures(*size)
    with BlockingClients(ClientConfig(triton=TritonSection(target=real_triton))) as clients:
        outcome = clients.triton.infer("pattern_detector", {"image": images}, budget=30.0)
    assert isinstance(outcome, Answer), outcome
    wanted = local(session, images)
    assert set(outcome.value.outputs) == set(wanted)
    for name, values in wanted.items():
        assert outcome.value.outputs[name] == pytest.approx(values, abs=1e-3), name


def test_rows_are_sorted_and_those_without_a_box_say_so(session: Any, classes: list[str]) -> None:
    out = local(session, pictures(480, 480))
    assert out["count"].min() >= 1
    for boxes, scores, labels, (count,) in zip(
        out["boxes"], out["scores"], out["labels"], out["count"], strict=True
    ):
        assert (np.diff(scores) <= 0).all()
        assert (scores[:count] > 0).all()
        assert ((labels[:count] >= 0) & (labels[:count] < len(classes))).all()
        assert ((boxes >= 0) & (boxes <= 480)).all()
        assert (boxes[:count, 2:] > boxes[:count, :2]).all()
        assert not scores[count:].any()
        assert not boxes[count:].any()
        assert (labels[count:] == -1).all()


def test_a_picture_in_a_batch_gives_what_it_gives_alone(session: Any) -> None:
    images = pictures(480, 480)
    together = local(session, images)
    for row in range(len(images)):
        for name, values in local(session, images[row : row + 1]).items():
            assert together[name][row] == pytest.approx(values[0], abs=1e-3), name


@pytest.mark.parametrize("level", [0, 18, 255])
def test_an_empty_picture_gives_no_detection(level: int, session: Any) -> None:
    out = local(session, np.full((1, 480, 480, 3), level, np.uint8))
    assert out["count"].tolist() == [[0]]


def test_a_textbook_double_top_and_a_gap_are_found_where_they_are(session: Any, classes: list[str]) -> None:
    for bars, name, (first, last) in (
        (double_top(), "double_top", (14, 69)),
        (walk_with_gap(), "gap_up", (44, 45)),
    ):
        chart = draw(bars, ChartOptions(480, 480))
        out = local(session, chart.pixels[None])
        assert classes[out["labels"][0, 0]] == name
        assert out["scores"][0, 0] > 0.4
        left, _, right, _ = out["boxes"][0, 0]
        slot = chart.geometry.price.width / chart.geometry.bar_count
        assert left == pytest.approx(
            chart.geometry.column_of(first), abs=max(4 * slot, 0.12 * (right - left))
        )
        assert right == pytest.approx(
            chart.geometry.column_of(last), abs=max(4 * slot, 0.12 * (right - left))
        )


def test_pictures_of_another_dtype_or_shape_are_refused_before_they_are_sent(real_triton: str) -> None:
    image = np.zeros((1, 480, 480, 3))
    with BlockingClients(ClientConfig(triton=TritonSection(target=real_triton))) as clients:
        with pytest.raises(WrongRequestError, match=r"wants UINT8, got float64: convert it"):
            clients.triton.infer("pattern_detector", {"image": image}, budget=30.0)
        with pytest.raises(WrongRequestError, match=r"wants shape \[-1, -1, -1, 3\]"):
            grey = np.zeros((1, 480, 480, 1), np.uint8)
            clients.triton.infer("pattern_detector", {"image": grey}, budget=30.0)


def test_the_server_tells_what_the_labels_stand_for(real_triton: str, classes: list[str]) -> None:
    with BlockingClients(ClientConfig(triton=TritonSection(target=real_triton))) as clients:
        contract = clients.triton.contract("pattern_detector", timeout_s=30.0)
    assert contract.parameters["classes"].split(",") == classes
    assert contract.parameters["demonstrated_skill"] == "false"
    assert "Nothing here has demonstrated skill" in contract.parameters["statement"]


def detect(folder: Path, address: str, *more: str) -> subprocess.CompletedProcess[str]:
    rows = [
        f"{bar.start_ns},{bar.open},{bar.high},{bar.low},{bar.close},{bar.volume}" for bar in walk_with_gap()
    ]
    (folder / "bars.csv").write_text("\n".join(["time,open,high,low,close,volume", *rows]) + "\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TRADESERVE_")}
    command = [sys.executable, "-W", "error", "-m", "tradeserve_cli", "detect", "bars.csv", "--bars", "70"]
    command += ["--triton", address, "--timeout-ms", "30000", *more]
    return subprocess.run(
        command, cwd=folder, env=clean, capture_output=True, text=True, timeout=90, check=False
    )


def test_the_command_finds_the_gap_in_a_file_of_bars(tmp_path: Path, real_triton: str) -> None:
    done = detect(tmp_path, real_triton, "--json", "--out", "found.png")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    first = said["patterns"][0]
    assert (first["name"], said["bars"]) == ("gap_up", 70)
    assert abs(first["first_bar"] - 44) <= 1
    assert abs(first["last_bar"] - 45) <= 1
    bars = walk_with_gap()
    assert first["low"] == pytest.approx(bars[44].low, abs=0.5)
    assert first["high"] == pytest.approx(bars[45].high, abs=0.5)
    assert first["first_time"].startswith("2025-03-12T1")
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_says_in_words_what_it_found(tmp_path: Path, real_triton: str) -> None:
    done = detect(tmp_path, real_triton, "--out", "found.png")
    assert done.returncode == 0, done.stderr
    assert "on 70 bars" in done.stdout
    assert "gap_up" in done.stdout
    assert "demonstrated skill" in done.stdout
    nothing = detect(tmp_path, real_triton, "--min-score", "1.0", "--out", "plain.png")
    assert "no patterns on 70 bars" in nothing.stdout
    assert (tmp_path / "found.png").read_bytes() != (tmp_path / "plain.png").read_bytes()
