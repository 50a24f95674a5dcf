"""What cells ought to say, and what being wrong costs."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip(
    "torch", reason="torch is not installed: `make test EXTRAS=cpu,dev,export` brings it"
)

from model_export.detector.layout import CLASSES, GAP_GRID, GRIDS, OUTLINE_GRID  # noqa: E402
from model_export.detector.losses import (  # noqa: E402
    NOTHING,
    detection_loss,
    focal_loss,
    overlap,
    targets_of,
)
from model_export.detector.network import PatternNet, boxes_of, cell_centres, input_shape  # noqa: E402
from model_export.detector.training import Recipe, share_of  # noqa: E402


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def test_the_cells_around_the_middle_of_a_box_answer_for_it() -> None:
    wanted = boxes((0.2, 0.3, 0.8, 0.9))
    label = CLASSES.index("double_top")
    labels, boxed = targets_of(wanted, np.array([label]), OUTLINE_GRID)
    mine = labels != NOTHING
    centres = cell_centres(OUTLINE_GRID).numpy()[mine]
    assert 9 <= mine.sum() <= 12
    assert (np.abs(centres - (0.5, 0.6)) < (1.5 / OUTLINE_GRID.columns, 1.5 / OUTLINE_GRID.rows)).all()
    assert (labels[mine] == label).all()
    assert (boxed[mine] == wanted[0]).all()
    assert (boxed[~mine] == 0).all()


def test_each_grid_answers_for_its_own_classes_alone() -> None:
    labels = np.array([CLASSES.index("gap_down")])
    gap = boxes((0.5, 0.4, 0.52, 0.7))
    assert (targets_of(gap, labels, OUTLINE_GRID)[0] == NOTHING).all()
    own = targets_of(gap, labels, GAP_GRID)[0]
    assert set(own.tolist()) == {NOTHING, CLASSES.index("gap_down") - GAP_GRID.first_label}


def test_a_cell_that_two_boxes_want_has_the_nearer_one() -> None:
    pair = boxes((0.40, 0.4, 0.42, 0.6), (0.42, 0.4, 0.44, 0.6))
    up, down = CLASSES.index("gap_up"), CLASSES.index("gap_down")
    labels, _ = targets_of(pair, np.array([up, down]), GAP_GRID)
    centres = cell_centres(GAP_GRID).numpy()[:, 0]
    for column, label in zip(centres, labels, strict=True):
        if label != NOTHING:
            assert (label + GAP_GRID.first_label == up) == (abs(column - 0.41) < abs(column - 0.43))
    assert len(set(labels.tolist())) == 3


def test_boxes_are_read_from_their_cells() -> None:
    raw = torch.zeros(1, OUTLINE_GRID.cells, 4)
    raw[0, 0] = torch.tensor([1.0, 0.0, np.log(0.5), 0.0])
    left, top, right, bottom = boxes_of(raw, OUTLINE_GRID)[0, 0].tolist()
    assert (left + right) / 2 == pytest.approx(1.5 / OUTLINE_GRID.columns, abs=1e-6)
    assert (top + bottom) / 2 == pytest.approx(0.5 / OUTLINE_GRID.rows, abs=1e-6)
    assert right - left == pytest.approx(OUTLINE_GRID.usual_width / 2, abs=1e-6)
    assert bottom - top == pytest.approx(OUTLINE_GRID.usual_height, abs=1e-6)


def test_overlap_is_one_for_equal_boxes_and_the_general_one_falls_with_distance() -> None:
    one = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    half = torch.tensor([[0.0, 0.0, 1.0, 0.5]])
    near, far = torch.tensor([[1.0, 0.0, 2.0, 1.0]]), torch.tensor([[3.0, 0.0, 4.0, 1.0]])
    assert [round(float(v), 4) for v in overlap(one, one)] == [1.0, 1.0]
    assert float(overlap(one, half)[0]) == pytest.approx(0.5, abs=1e-5)
    assert float(overlap(one, near)[1]) == pytest.approx(0.0, abs=1e-5)
    assert float(overlap(one, far)[1]) == pytest.approx(-0.5, abs=1e-5)


def test_being_sure_and_right_costs_nothing_and_being_sure_and_wrong_much() -> None:
    labels = torch.tensor([[1, NOTHING]])
    right = torch.tensor([[[-9.0, 9.0], [-9.0, -9.0]]])
    unsure = torch.zeros(1, 2, 2)
    assert float(focal_loss(right, labels)) < 1e-6
    assert (
        float(focal_loss(right, labels))
        < float(focal_loss(unsure, labels))
        < float(focal_loss(-right, labels))
    )


def test_what_every_cell_ought_to_say_costs_nothing() -> None:
    outputs, targets = [], []
    for grid in GRIDS:
        label = np.array([grid.first_label])
        labels, boxed = targets_of(boxes((0.3, 0.3, 0.7, 0.6)), label, grid)
        logits = torch.full((1, grid.cells, grid.classes), -9.0)
        logits[0, labels == 0, 0] = 9.0
        outputs += [logits, torch.from_numpy(boxed)[None]]
        targets.append((torch.from_numpy(labels)[None], torch.from_numpy(boxed)[None]))
    loss, parts = detection_loss(outputs, targets)
    assert float(loss) < 1e-4
    shifted = [outputs[0], outputs[1] + 0.1, *outputs[2:]]
    assert float(detection_loss(shifted, targets)[0]) > 0.05
    assert len(parts) == 2 * len(GRIDS)


def test_an_untrained_network_sees_nothing_anywhere() -> None:
    torch.manual_seed(0)
    net = PatternNet().eval()
    with torch.no_grad():
        outline_logits, outline_boxes, gap_logits, gap_boxes = net(torch.zeros(input_shape(2)))
    assert outline_logits.shape == (2, OUTLINE_GRID.cells, OUTLINE_GRID.classes)
    assert gap_logits.shape == (2, GAP_GRID.cells, GAP_GRID.classes)
    assert outline_boxes.shape[2] == gap_boxes.shape[2] == 4
    assert float(torch.sigmoid(torch.cat([outline_logits.flatten(), gap_logits.flatten()])).max()) < 0.2


def test_the_learning_rate_stays_until_it_falls_to_nothing() -> None:
    short, long = Recipe(steps=1000, falling=300), Recipe(steps=2000, falling=300)
    shares = [share_of(step, short) for step in range(1000)]
    assert shares[0] < 0.01
    assert set(shares[200:701]) == {1.0}
    assert 0 < shares[-1] < 0.01
    assert shares[:700] == [share_of(step, long) for step in range(700)]
