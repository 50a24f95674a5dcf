"""The committed models and the committed index, as they are shipped."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from market.instruments import synthetic_con_id
from model_export.cards import IndexCard, ModelCard, read_card, sha256_of
from model_export.check import MAX_MODEL_BYTES, check_all, check_index, check_model
from model_export.contract import BAR_SIZES_S, INDEX_MODEL, MODELS, SERVED, Layout
from model_export.errors import ArtifactError
from model_export.index import MAX_BYTES
from model_export.runtime import Graph
from model_export.triton_config import read_parameters
from model_export.windows import nasty_windows

Windows = NDArray[np.float32]
LAYOUT = Layout(Path(__file__).resolve().parents[2])


@pytest.fixture(scope="module", params=sorted(MODELS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def graph(name: str) -> Graph:
    return Graph(LAYOUT.onnx(name))


@pytest.fixture(scope="module")
def windows() -> Windows:
    rng = np.random.default_rng(11)
    close = 80 * np.exp(np.cumsum(rng.normal(0, 0.004, (40, 60)), axis=1))
    high, low = (
        close * (1 + rng.uniform(0, 0.004, close.shape)),
        close * (1 - rng.uniform(0, 0.004, close.shape)),
    )
    volume = rng.lognormal(8, 1, close.shape)
    return np.concatenate(
        [nasty_windows(), np.stack([close, high, low, close, volume], 2).astype(np.float32)]
    )


@pytest.fixture
def copy(tmp_path: Path) -> Layout:
    copied = Layout(tmp_path)
    shutil.copytree(LAYOUT.model_repository, copied.model_repository)
    shutil.copytree(LAYOUT.index_dir, copied.index_dir)
    return copied


def test_every_artifact_agrees_with_its_card_its_configs_and_the_contract() -> None:
    assert len(check_all(LAYOUT)) == len(SERVED) + 1


def test_probabilities_are_finite_and_sum_to_one(graph: Graph, windows: Windows) -> None:
    probabilities = graph(windows)["probabilities"]
    assert np.isfinite(probabilities).all()
    assert (probabilities > 0).all()
    assert probabilities.sum(1) == pytest.approx(1, abs=1e-5)


def test_embeddings_have_length_one(windows: Windows) -> None:
    embedding = Graph(LAYOUT.onnx(INDEX_MODEL))(windows)["embedding"]
    assert np.linalg.norm(embedding, axis=1) == pytest.approx(1, abs=1e-4)


def test_a_batch_gives_what_single_windows_give(graph: Graph, windows: Windows) -> None:
    together = graph(windows)
    for row in range(len(windows)):
        alone = graph(windows[row : row + 1])
        for output, values in together.items():
            assert np.abs(values[row] - alone[output][0]).max() <= 1e-4


def test_an_answer_does_not_depend_on_the_price_level(graph: Graph, windows: Windows) -> None:
    plain = windows[len(nasty_windows()) :]
    scaled = plain.copy()
    scaled[:, :, :4] *= 64
    assert np.abs(graph(plain)["probabilities"] - graph(scaled)["probabilities"]).max() < 1e-3


@pytest.mark.parametrize("name", sorted(SERVED))
def test_a_model_file_is_small_and_carries_nothing_of_the_machine_that_made_it(name: str) -> None:
    content = LAYOUT.onnx(name).read_bytes()
    assert len(content) <= MAX_MODEL_BYTES
    folders = [b"/" + name + b"/" for name in (b"home", b"root", b"work", b"tmp")]
    for word in (*folders, b"site-packages", b'.py"'):
        assert word not in content


def test_the_card_measures_every_bar_size_and_admits_what_is_not_there(name: str) -> None:
    card: ModelCard = read_card(LAYOUT.card(name), ModelCard)
    for key in (*(str(b) for b in BAR_SIZES_S), "pooled"):
        measured = card.metrics[key]
        assert measured["samples"] > 1000
        for figure in ("log_loss_gain", "auc", "auc_one_bar_later", "accuracy"):
            low, high = measured[figure]["ci95"]
            assert low <= measured[figure]["value"] <= high
    skills = [card.metrics[k]["demonstrated_skill"] for k in (*(str(b) for b in BAR_SIZES_S), "pooled")]
    assert card.demonstrated_skill <= all(skills)
    assert card.parity["torch_vs_onnxruntime_max_abs"] <= 1e-4
    assert card.parity["gaf_vs_pyts_max_abs"] <= 1e-5
    assert {row["licence"].split(" ")[0] for row in card.data} <= {"MIT", "Apache-2.0", "CC0-1.0"}


def test_models_and_index_come_from_one_commit() -> None:
    commits = {read_card(LAYOUT.card(n), ModelCard).export_commit for n in MODELS}
    commits.add(read_card(LAYOUT.index_dir / "card.json", IndexCard).export_commit)
    assert len(commits) == 1
    assert "dirty" not in commits.pop()


def test_the_index_holds_past_states_whose_outcomes_came_later() -> None:
    path = LAYOUT.index_dir / "states.npz"
    assert path.stat().st_size <= MAX_BYTES
    with np.load(path, allow_pickle=False) as states:
        assert len(set(states["state_id"].tolist())) == len(states["state_id"])
        assert (states["outcome_ns"] > states["event_ns"]).all()
        assert set(states["bar_size_s"].tolist()) == set(BAR_SIZES_S)
        assert np.isfinite(states["forward_return_bps"]).all()
        symbols = states["symbols"]
        expected = np.asarray([synthetic_con_id(str(s)) for s in symbols])
        assert np.array_equal(states["con_id"], expected[states["symbol_id"]])


def test_a_changed_byte_of_a_model_is_found(copy: Layout) -> None:
    path = copy.onnx("lstm_cnn")
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ArtifactError, match="sha256"):
        check_model("lstm_cnn", copy)


def test_a_config_that_pins_other_bytes_is_found(copy: Layout) -> None:
    config = copy.model_dir("lstm_cnn") / "configs" / "cpu.pbtxt"
    text = config.read_text()
    config.write_text(text.replace(read_parameters(text)["artifact_sha256"], "0" * 64))
    with pytest.raises(ArtifactError, match=r"cpu\.pbtxt: parameters"):
        check_model("lstm_cnn", copy)


def test_an_index_of_another_embedding_model_is_found(copy: Layout) -> None:
    card = copy.card(INDEX_MODEL)
    card.write_text(card.read_text().replace(sha256_of(copy.onnx(INDEX_MODEL)), "0" * 64))
    with pytest.raises(ArtifactError, match="embedding model"):
        check_index(copy)


def test_a_missing_model_says_what_to_do(copy: Layout) -> None:
    copy.onnx("gaf_resnet").unlink()
    with pytest.raises(ArtifactError, match="make models"):
        check_model("gaf_resnet", copy)
