import json
import os
from pathlib import Path

import numpy as np
import pytest

from server_runtime.errors import StartError
from similarity_server import building, snapshot
from similarity_server.artifact import IndexCard
from similarity_server.filters import Filter
from similarity_server.kinds import choose
from similarity_server.main_index import MainIndex


@pytest.fixture(params=["flat", "pq", "ivf"])
def written(request, make_table, make_card, tmp_path: Path) -> tuple[Path, IndexCard, MainIndex]:
    table = make_table(3_000)
    main = building.build(table, choose(len(table), table.dimension, request.param), recall_queries=50)
    main.delete(5)
    card = make_card(table)
    path = snapshot.write(tmp_path, card, main, deleted=frozenset({5, 10**6}), as_of_ns=2**62, sequence=77)
    return path, card, main


def test_what_was_written_is_read_back(written: tuple[Path, IndexCard, MainIndex]) -> None:
    path, card, main = written
    found = snapshot.read_latest(path.parent, card)
    assert found is not None
    assert found.main.kind == main.kind
    assert (found.main.recall_at_10, found.main.recall_queries) == (main.recall_at_10, main.recall_queries)
    assert (found.sequence, found.as_of_ns, found.deleted.tolist()) == (77, 2**62, [5, 10**6])
    assert len(found.main) == len(main) == 2_999
    for filter_ in (
        Filter(),
        Filter(con_ids=frozenset({1})),
        Filter(before_ns=int(main.table.outcome_ns[500])),
    ):
        for row in range(0, 3_000, 300):
            query = main.table.embedding[row]
            similarity, rows = main.search(query, 20, filter_)
            read_similarity, read_rows = found.main.search(query, 20, filter_)
            assert np.array_equal(similarity, read_similarity)
            assert np.array_equal(rows, read_rows)
    assert found.main.table.states(np.arange(10)) == main.table.states(np.arange(10))


def test_a_table_that_was_read_back_grows_without_being_copied(
    written: tuple[Path, IndexCard, MainIndex], make_table
) -> None:
    path, card, _ = written
    found = snapshot.read_latest(path.parent, card)
    assert found is not None
    grown = found.store.append(make_table(10))
    assert np.shares_memory(grown.embedding, found.main.table.embedding)


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "gone"])
@pytest.mark.parametrize("name", ["embedding.f32", "columns.npz", "index.faiss"])
def test_a_damaged_file_is_named_and_never_read(
    make_table, make_card, tmp_path: Path, name: str, damage: str
) -> None:
    table = make_table(500)
    main = building.build(table, choose(500, table.dimension, "pq"), recall_queries=10)
    path = snapshot.write(tmp_path, make_card(table), main) / name
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(content[:-1] if damage == "cut" else content + b"x")
    with pytest.raises(StartError, match=r"is damaged .*remove the folder, and build it again"):
        snapshot.read_latest(tmp_path, make_card(table))


@pytest.mark.parametrize("manifest", ["{", "[]", '{"format": 99}', '{"format": 1}'])
def test_a_manifest_that_is_wrong_is_a_clear_error_or_not_ours(
    make_table, make_card, tmp_path: Path, manifest: str
) -> None:
    table = make_table(100)
    main = building.build(table, choose(100, table.dimension))
    path = snapshot.write(tmp_path, make_card(table), main)
    (path / "manifest.json").write_text(manifest)
    if manifest == '{"format": 1}':
        assert snapshot.read_latest(tmp_path, make_card(table)) is None
        return
    with pytest.raises(StartError, match="is damaged"):
        snapshot.read_latest(tmp_path, make_card(table))


def test_a_manifest_whose_fields_are_missing_is_damaged(make_table, make_card, tmp_path: Path) -> None:
    table = make_table(100)
    path = snapshot.write(tmp_path, make_card(table), building.build(table, choose(100, table.dimension)))
    manifest = json.loads((path / "manifest.json").read_text())
    for field in manifest.keys() - {"format", "artifact_sha256", "name", "version"}:
        partial = {key: value for key, value in manifest.items() if key != field}
        (path / "manifest.json").write_text(json.dumps(partial))
        with pytest.raises(StartError, match="is damaged"):
            snapshot.read_latest(tmp_path, make_card(table))


def test_a_snapshot_of_other_states_is_not_used(make_table, make_card, tmp_path: Path) -> None:
    table = make_table(100)
    card = make_card(table)
    snapshot.write(tmp_path, card, building.build(table, choose(100, table.dimension)))
    other = IndexCard(
        type(card.provenance)("market_states", 1, b"\x02" * 32, ""),
        card.embedding_model,
        table.dimension,
        6,
        0,
        100,
    )
    assert snapshot.read_latest(tmp_path, other) is None
    assert snapshot.read_latest(tmp_path / "nowhere", card) is None


def test_the_newest_is_read_and_two_are_kept(make_table, make_card, tmp_path: Path) -> None:
    table = make_table(100)
    card = make_card(table)
    main = building.build(table, choose(100, table.dimension))
    written = [snapshot.write(tmp_path, card, main, sequence=sequence) for sequence in (0, 5, 5, 12)]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in written[2:])
    found = snapshot.read_latest(tmp_path, card)
    assert found is not None
    assert found.sequence == 12


def test_a_snapshot_that_was_not_finished_is_not_there(
    make_table, make_card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_table(100)
    main = building.build(table, choose(100, table.dimension))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        snapshot.write(tmp_path, make_card(table), main)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".000-1.partial").mkdir()  # what a killed process leaves
    assert snapshot.read_latest(tmp_path, make_card(table)) is None


def test_only_one_process_writes_into_a_folder(tmp_path: Path) -> None:
    lock = snapshot.SnapshotLock(tmp_path / "snapshots")
    with pytest.raises(StartError, match="another process writes the index"):
        snapshot.SnapshotLock(tmp_path / "snapshots")
    lock.close()
    snapshot.SnapshotLock(tmp_path / "snapshots").close()


def test_a_folder_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="choose another folder with --snapshots"):
        snapshot.SnapshotLock(tmp_path / "file" / "snapshots")
