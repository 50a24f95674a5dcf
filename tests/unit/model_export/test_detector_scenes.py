"""Boxes on generated charts and on screenshots."""

from __future__ import annotations

import numpy as np
import pytest

from market.chart import ChartOptions, draw
from model_export.chart_patterns import HELD_OUT, TRAINING, plant
from model_export.detector.layout import CLASSES, GRIDS, mirrored
from model_export.detector.scenes import (
    Planted,
    Scene,
    empty_scene,
    join,
    plain_scene,
    scene_of,
    varied_scene,
)
from model_export.detector.screenshots import varied
from model_export.pattern_shapes import GAPS, NONE, PATTERN_NAMES


def test_every_class_belongs_to_one_grid_and_has_a_mirror_image() -> None:
    assert set(CLASSES) == set(PATTERN_NAMES) - {NONE}
    assert [name for grid in GRIDS for name in CLASSES[grid.first_label :][: grid.classes]] == list(CLASSES)
    for label, name in enumerate(CLASSES):
        assert mirrored(mirrored(label)) == label
        assert (mirrored(label) == label) == (name == "symmetric_triangle")


@pytest.mark.parametrize("name", ["head_and_shoulders", "gap_up", "gap_down"])
def test_a_box_holds_all_of_the_patterns_bars_from_low_to_high(name: str) -> None:
    series = plant(np.random.default_rng(3), TRAINING, name)
    chart = draw(series.bars, ChartOptions(480, 480))
    scene = scene_of(series.bars, [Planted(name, series.first_bar, series.last_bar)], chart)
    left, top, right, bottom = scene.boxes[0]
    inside = slice(series.first_bar, series.last_bar + 1)
    rows = chart.geometry.rows_of(np.stack([series.bars.low[inside].min(), series.bars.high[inside].max()]))
    assert (bottom - 1, top) == tuple(rows)
    columns = chart.geometry.columns_of_bars()
    assert left <= columns[series.first_bar] <= columns[series.last_bar] < right
    slots = series.last_bar - series.first_bar + 1
    assert right - left == pytest.approx(slots * chart.geometry.price.width / chart.geometry.bar_count, abs=2)
    assert CLASSES[scene.labels[0]] == name
    if name in GAPS:
        assert slots == 2


def test_a_chart_without_a_pattern_has_no_box() -> None:
    scene = plain_scene(np.random.default_rng(1), HELD_OUT, NONE)
    assert scene.boxes.shape == (0, 4)
    assert scene.labels.shape == (0,)


def test_an_empty_picture_has_no_box_whatever_it_shows() -> None:
    rng = np.random.default_rng(9)
    scenes = [empty_scene(rng) for _ in range(12)]
    assert {scene.boxes.shape for scene in scenes} == {(0, 4)}
    assert {scene.pixels.dtype for scene in scenes} == {np.dtype(np.uint8)}
    contrasts = [int(scene.pixels.max()) - int(scene.pixels.min()) for scene in scenes]
    assert min(contrasts) == 0
    assert max(contrasts) > 100


def test_boxes_of_varied_charts_lie_on_them() -> None:
    rng = np.random.default_rng(8)
    scenes = [varied_scene(rng, TRAINING) for _ in range(40)]
    assert len({scene.pixels.shape for scene in scenes}) > 5
    assert max(len(scene.labels) for scene in scenes) == 2
    for scene in scenes:
        height, width = scene.pixels.shape[:2]
        assert (scene.boxes >= 0).all()
        assert (scene.boxes[:, 2:] > scene.boxes[:, :2]).all()
        assert (scene.boxes[:, [2, 3]] <= (width, height)).all()


def test_two_series_in_a_row_go_on_at_the_price_where_the_first_ended() -> None:
    rng = np.random.default_rng(4)
    first, second = plant(rng, TRAINING, "double_top"), plant(rng, TRAINING, "bear_flag")
    bars, planted = join(rng, first, second)
    count = len(first.bars)
    assert len(bars) == count + len(second.bars)
    assert bars.open[count] == pytest.approx(bars.close[count - 1])
    assert [one.pattern for one in planted] == ["double_top", "bear_flag"]
    assert (planted[1].first_bar, planted[1].last_bar) == (second.first_bar + count, second.last_bar + count)
    later = np.log(bars.close[count:] / bars.close[count])
    before = np.log(second.bars.close / second.bars.close[0])
    assert np.corrcoef(later, before)[0, 1] == pytest.approx(1.0)


def test_a_piece_of_a_screenshot_keeps_its_boxes_on_what_they_showed() -> None:
    pixels = np.zeros((200, 300, 3), np.uint8)
    pixels[60:90, 140:150] = (250, 20, 10)
    gap_up, gap_down = CLASSES.index("gap_up"), CLASSES.index("gap_down")
    scene = Scene(pixels, np.array([[140, 60, 150, 90]], np.float32), np.array([gap_up]))
    rng = np.random.default_rng(2)
    turned = 0
    for _ in range(60):
        piece = varied(rng, scene)
        for box, label in zip(piece.boxes.astype(int), piece.labels, strict=True):
            inside = piece.pixels[box[1] : box[3], box[0] : box[2]]
            # Upside down, red and green change places and a gap up is a gap down.
            assert (inside == ((20, 250, 10) if label == gap_down else (250, 20, 10))).all()
            turned += int(label == gap_down)
    assert turned > 5
