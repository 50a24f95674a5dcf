from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

_SPEC = importlib.util.spec_from_file_location("chart_cases", Path(__file__).with_name("chart_cases.py"))
assert _SPEC is not None and _SPEC.loader is not None
golden = importlib.util.module_from_spec(_SPEC)
sys.modules["chart_cases"] = golden
_SPEC.loader.exec_module(golden)

CASES = golden.cases()
HOW = "look at the picture; if it is meant, run tests/golden/chart_cases.py and commit what it writes"


def test_every_case_has_its_digest() -> None:
    assert json.loads(golden.DIGESTS.read_text()).keys() == CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_chart_is_drawn_as_ever(name: str) -> None:
    assert golden.digest(CASES[name].draw()) == json.loads(golden.DIGESTS.read_text())[name], HOW


@pytest.mark.parametrize("name", golden.FOR_PEOPLE)
def test_the_picture_for_people_is_the_chart(name: str) -> None:
    pixels = CASES[name].draw().pixels
    assert np.array_equal(pixels_of((golden.FOLDER / f"{name}.png").read_bytes(), pixels.shape), pixels), HOW


def test_pictures_for_people_stay_small() -> None:
    assert sum(path.stat().st_size for path in golden.FOLDER.iterdir()) < 150_000


def test_another_process_with_another_hash_seed_draws_the_same_bytes() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import chart_cases\n"
        "print(chart_cases.digest(chart_cases.cases()['readable_light'].draw()))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "5", "TZ": "Asia/Tokyo", "LC_ALL": "C", "NPY_DISABLE_CPU_FEATURES": ""},
    )
    assert done.stdout.strip() == json.loads(golden.DIGESTS.read_text())["readable_light"]


def pixels_of(png: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Read what `encode_png` wrote: one chunk of rows, each the difference to the one above."""
    body = png.index(b"IDAT") + 4
    length = int.from_bytes(png[body - 8 : body - 4], "big")
    rows = np.frombuffer(zlib.decompress(png[body : body + length]), np.uint8).reshape(shape[0], -1)
    assert (rows[:, 0] == 2).all()
    return np.cumsum(rows[:, 1:], axis=0, dtype=np.uint8).reshape(shape)
