"""What the graph chooses among the answers of cells, against the same steps written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

for _module in ("torch", "onnx", "onnxruntime"):
    pytest.importorskip(
        _module, reason=f"{_module} is not installed: `make test EXTRAS=cpu,dev,export` brings it"
    )

import onnxruntime  # noqa: E402

from model_export.contract import DETECTIONS  # noqa: E402
from model_export.detector.average_precision import Found  # noqa: E402
from model_export.detector.graph import LEAST_SCORE, answer_tables, choosing_part  # noqa: E402
from model_export.detector.layout import CLASSES, GRIDS  # noqa: E402
from model_export.detector.parity import candidates_of, difference, suppressed  # noqa: E402

NAMES = ("net_outline_logits", "net_outline_boxes", "net_gap_logits", "net_gap_boxes")


@pytest.fixture(scope="module")
def part() -> Any:
    return onnxruntime.InferenceSession(
        choosing_part().SerializeToString(), providers=["CPUExecutionProvider"]
    )


def answers(rng: np.random.Generator, likely: float) -> list[np.ndarray]:
    """Return answers of all cells, about `likely` of them above the least score."""
    said = []
    for grid in GRIDS:
        logits = rng.normal(-2.9, 1.0, (grid.cells, grid.classes))
        logits[rng.random(logits.shape) > likely] -= 12
        middle, half = rng.uniform(0.1, 0.9, (grid.cells, 2)), rng.uniform(0.01, 0.3, (grid.cells, 2))
        said += [logits, np.concatenate((middle - half, middle + half), axis=1)]
    return [one.astype(np.float32) for one in said]


def chosen(part: Any, batch: list[list[np.ndarray]], width: int = 1, height: int = 1) -> list[Found]:
    feeds = {name: np.stack([said[i] for said in batch]) for i, name in enumerate(NAMES)}
    feeds["sides_of_picture"] = np.array([height, width], np.float32)
    boxes, scores, labels, count = part.run(["boxes", "scores", "labels", "count"], feeds)
    return [
        Found(boxes[i, :n].astype(float), labels[i, :n].astype(np.int64), scores[i, :n].astype(float))
        for i, n in enumerate(count[:, 0])
    ]


@pytest.mark.parametrize("likely", [0.0, 0.002, 0.02, 0.4])
def test_the_graph_chooses_what_the_written_out_steps_choose(likely: float, part: Any) -> None:
    rng = np.random.default_rng(3)
    batch = [answers(rng, likely) for _ in range(5)]
    for found, said in zip(chosen(part, batch), batch, strict=True):
        wanted = suppressed(candidates_of(said))
        assert len(found.scores) == len(wanted.scores)
        assert difference(found, wanted, 1) < 1e-5
        assert len(found.scores) <= DETECTIONS
        assert (likely == 0) == (len(found.scores) == 0)
        assert (found.scores > LEAST_SCORE).all()


def test_of_two_boxes_of_a_class_the_surer_stays_and_another_class_beside_it(part: Any) -> None:
    grid = GRIDS[0]
    said = [np.full((g.cells, w), -9.0 if w != 4 else 0.0, np.float32) for g in GRIDS for w in (g.classes, 4)]
    said[1][:3] = (0.2, 0.2, 0.6, 0.6)
    said[0][0, 2], said[0][1, 2], said[0][2, 5] = 2.0, 1.0, 0.0
    (found,) = chosen(part, [said], width=200, height=100)
    assert [CLASSES[label] for label in found.labels] == [CLASSES[grid.first_label + 2], CLASSES[5]]
    assert found.scores == pytest.approx([1 / (1 + np.exp(-2.0)), 0.5], abs=1e-6)
    assert found.boxes[0] == pytest.approx([40, 20, 120, 60], abs=1e-4)


def test_every_answer_knows_its_cell_and_its_class() -> None:
    cells, labels = answer_tables()
    assert len(cells) == sum(grid.cells * grid.classes for grid in GRIDS)
    assert sorted(set(labels.tolist())) == list(range(len(CLASSES)))
    assert cells[-1] == sum(grid.cells for grid in GRIDS) - 1
    first = GRIDS[0].classes
    assert cells[: first + 1].tolist() == [0] * first + [1]
    assert labels[:first].tolist() == list(range(first))
