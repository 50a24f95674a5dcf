"""Screenshots with boxed gaps, as they lie in the data folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_export.detector.layout import CLASSES
from model_export.detector.screenshots import FOLDER, HELD_OUT_NAMES, read_screenshots
from model_export.errors import DataError

Image = pytest.importorskip(
    "PIL.Image", reason="pillow is not installed: `make test EXTRAS=cpu,dev,export` brings it"
)


def written(data: Path, **rows: str) -> Path:
    """Write screenshots of 200 x 100 pixels, by name the rows of their labels."""
    for kind in ("images", "labels"):
        (data / FOLDER / "train" / kind).mkdir(parents=True)
    for name, text in rows.items():
        Image.new("RGB", (200, 100)).save(data / FOLDER / "train/images" / f"{name}.jpg")
        (data / FOLDER / "train/labels" / f"{name}.txt").write_text(text)
    return data


def test_boxes_are_in_pixels_and_instruments_that_are_held_out_are_not_learnt_from(tmp_path: Path) -> None:
    data = written(tmp_path, OTHER_1="1 0.5 0.5 0.1 0.4\n", **{f"{HELD_OUT_NAMES[0]}1": "0 0.25 0.5 0.5 1\n"})
    shown = read_screenshots(data)
    (learnt,), (held_out,) = shown.training, shown.held_out
    assert learnt.pixels.shape == (100, 200, 3)
    assert learnt.boxes.tolist() == [pytest.approx([90, 30, 110, 70])]
    assert held_out.boxes.tolist() == [pytest.approx([0, 0, 100, 100])]
    assert [CLASSES[scene.labels[0]] for scene in (learnt, held_out)] == ["gap_up", "gap_down"]


@pytest.mark.parametrize("row", ["2 0.5 0.5 0.1 0.4", "1 0.5 0.5 0.1", "1 0.5 0.5 0.1 wide", ""])
def test_a_malformed_row_is_named(tmp_path: Path, row: str) -> None:
    with pytest.raises(DataError, match=r"one\.txt:2: a class, 0 or 1, and four shares are needed"):
        read_screenshots(written(tmp_path, one=f"0 0.5 0.5 0.1 0.4\n{row}\n"))


def test_screenshots_or_labels_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no screenshots; leave --data out"):
        read_screenshots(tmp_path)
    data = written(tmp_path, one="")
    (data / FOLDER / "train/labels/one.txt").unlink()
    with pytest.raises(DataError, match=r"one\.txt: can't be read"):
        read_screenshots(data)
