import json
import shutil
from pathlib import Path

import pytest

from server_runtime.errors import StartError
from vision_server.checkpoint import CARD, MANIFEST, PACKAGED, load_card, verify, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "checkpoint"
    made.mkdir()
    (made / "model.safetensors").write_bytes(b"weights")
    (made / "config.json").write_text("{}")
    card = {"name": "m", "version": 2, "artifact_sha256": write_manifest(made), "statement": "none"}
    (made / CARD).write_text(json.dumps(card))
    return made


def test_the_packaged_checkpoint_is_whole_and_says_what_it_is_worth() -> None:
    card = verify(PACKAGED)
    assert card.name == "chart_reader"
    assert card.version >= 1
    assert len(card.statement) <= 1000
    assert json.loads((PACKAGED / CARD).read_text())["not_demonstrated"]


def test_a_whole_checkpoint_gives_its_card(folder: Path) -> None:
    card = verify(folder)
    assert (card.name, card.version, card.statement) == ("m", 2, "none")
    assert card.artifact_sha256.hex() == write_manifest(folder)


def spoil_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weightz")


def lose_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def add_code(folder: Path) -> None:
    (folder / "modeling.py").write_text("print('hello')")


def spoil_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("0  x\n")


def lose_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def lose_card(folder: Path) -> None:
    (folder / CARD).unlink()


def spoil_card(folder: Path) -> None:
    (folder / CARD).write_text('{"name": 1')


def lose_everything(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_weights, "model.safetensors is corrupt"),
        (lose_weights, "model.safetensors is missing"),
        (add_code, "modeling.py"),
        (spoil_manifest, "is not the one that card.json names"),
        (lose_manifest, "has no SHA256SUMS"),
        (lose_card, "can't be read"),
        (spoil_card, "malformed"),
        (lose_everything, "can't be read"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused_with_the_reason(folder: Path, spoil, words: str) -> None:
    spoil(folder)
    with pytest.raises(StartError, match=words) as failed:
        verify(folder)
    assert failed.value.exit_code == 2


@pytest.mark.parametrize("digest", ["", "ab", "x" * 64])
def test_a_card_without_a_digest_is_malformed(folder: Path, digest: str) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**card, "artifact_sha256": digest}))
    with pytest.raises(StartError, match="malformed"):
        load_card(folder / CARD)
