import os
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from journal.batches import Batch
from journal.errors import SettingsError, SpoolError
from journal.replay import Replay
from journal.segments import HEAD, MAGIC, SegmentFile, parse_segment, read_segment
from journal.spool import Spool, SpoolFullError, adopt_dead_spools

RUN = {"run_id": "r"}


def a_batch(index: int = 0, size_bytes: int = 10) -> Batch:
    return Batch(uuid.UUID(int=index + 1), "risk_events", 1, bytes([index % 256]) * size_bytes)


def segment_bytes(folder: Path, payloads: list[bytes]) -> bytes:
    path = folder / f"{uuid.uuid4().hex}.seg"
    segment = SegmentFile(path)
    for payload in payloads:
        segment.append(payload, durable=False)
    segment.close()
    return path.read_bytes()


@given(st.lists(st.binary(max_size=60), max_size=6), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_file_cut_anywhere_keeps_every_record_before_the_cut(
    tmp_path: Path, payloads: list[bytes], data: st.DataObject
) -> None:
    whole = segment_bytes(tmp_path, payloads)
    cut = data.draw(st.integers(0, len(whole)))
    ends = [len(MAGIC)]
    for payload in payloads:
        ends.append(ends[-1] + HEAD.size + len(payload))
    kept = sum(1 for end in ends[1:] if end <= cut)
    content = parse_segment(whole[:cut])
    assert content.payloads == payloads[:kept]
    assert content.damaged_bytes == 0


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=6), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_flipped_byte_costs_at_most_its_own_record(
    tmp_path: Path, payloads: list[bytes], data: st.DataObject
) -> None:
    whole = bytearray(segment_bytes(tmp_path, payloads))
    position = data.draw(st.integers(len(MAGIC), len(whole) - 1))
    whole[position] ^= data.draw(st.integers(1, 255))
    start, hit = len(MAGIC), 0
    for index, payload in enumerate(payloads):
        if position < start + HEAD.size + len(payload):
            hit = index
            break
        start += HEAD.size + len(payload)
    content = parse_segment(bytes(whole))
    assert content.payloads == payloads[:hit] + payloads[hit + 1 :]
    assert content.damaged_bytes + content.torn_bytes > 0


@given(st.binary(max_size=300))
def test_any_bytes_can_be_read_without_an_error(data: bytes) -> None:
    parse_segment(data)


def test_a_failed_write_is_cut_off_and_the_file_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = SegmentFile(tmp_path / "a.seg")
    segment.append(b"first", durable=True)
    real_write = os.write

    def half_then_full_disk(descriptor: int, data: bytes) -> int:
        if len(data) > 10:
            return real_write(descriptor, bytes(data)[:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", half_then_full_disk)
        with pytest.raises(SpoolError, match=r"No space left on device.*free space"):
            segment.append(b"second", durable=True)
    segment.append(b"third", durable=True)
    segment.close()
    content = read_segment(segment.path)
    assert content.payloads == [b"first", b"third"]
    assert (content.torn_bytes, content.damaged_bytes) == (0, 0)


def test_after_a_failed_sync_a_file_is_not_trusted_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, RUN, 10**6)
    spool.append(a_batch(0), durable=True)

    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", broken)
        with pytest.raises(SpoolError, match="Input/output error"):
            spool.append(a_batch(1), durable=True)
    spool.append(a_batch(2), durable=True)
    assert len(list(spool.folder.glob("durable-*.seg"))) == 2
    assert spool.close() == 2


def test_confirmed_batches_go_and_their_files_with_them(tmp_path: Path) -> None:
    spool = Spool(tmp_path, RUN, 10**6)
    batches = [a_batch(index) for index in range(4)]
    for batch in batches:
        spool.append(batch, durable=False)
    (path,) = spool.backlog()
    assert [batch.payload for batch in spool.read(path)] == [batch.payload for batch in batches]
    spool.confirm([batch.batch_id for batch in batches[:3]])
    assert [batch.payload for batch in spool.read(path)] == [batches[3].payload]
    spool.confirm([batches[3].batch_id])
    assert not path.exists()
    assert spool.size_bytes == 0
    assert spool.close() == 0
    assert list(tmp_path.iterdir()) == []


def test_durable_batches_wait_only_when_postgres_is_away(tmp_path: Path) -> None:
    spool = Spool(tmp_path, RUN, 10**6)
    spool.append(a_batch(), durable=True)
    assert not spool.has_waiting
    assert spool.backlog() == []
    spool.orphan_all()
    assert spool.waiting_rows() == {"risk_events": 1}
    assert len(spool.backlog()) == 1
    spool.close()


def test_the_limit_refuses_only_what_may_be_refused(tmp_path: Path) -> None:
    spool = Spool(tmp_path, RUN, limit_bytes=500)
    spool.append(a_batch(0, 600), durable=False, may_be_refused=True)
    with pytest.raises(SpoolFullError, match="limit of 500 bytes"):
        spool.append(a_batch(1), durable=False, may_be_refused=True)
    spool.append(a_batch(2), durable=False)
    spool.append(a_batch(3), durable=True)
    assert spool.close() == 3


def test_only_the_dead_are_adopted_and_each_once(tmp_path: Path) -> None:
    living, dead = Spool(tmp_path, RUN, 10**6), Spool(tmp_path, {"run_id": "dead"}, 10**6)
    living.append(a_batch(0), durable=True)
    dead.append(a_batch(1), durable=True)
    assert dead.close() == 1
    (adopted,) = adopt_dead_spools(tmp_path)
    assert adopted.run_document == {"run_id": "dead"}
    assert adopt_dead_spools(tmp_path) == []
    adopted.release()
    living.close()


def test_a_damaged_file_of_a_dead_writer_is_replayed_as_far_as_it_can_be_and_kept(tmp_path: Path) -> None:
    dead = Spool(tmp_path, {"run_id": "dead"}, 10**6)
    for index in range(3):
        dead.append(a_batch(index, 100), durable=True)
    dead.close()
    (path,) = dead.folder.glob("*.seg")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    spool = Spool(tmp_path, RUN, 10**6)
    replay = Replay(spool)
    part = replay.next()
    assert part is not None
    assert [batch.payload[0] for batch in part.batches] == [0, 2]
    assert "damaged" in part.problem
    replay.done(part)
    assert replay.next() is None
    assert path.with_suffix(".damaged").exists()
    assert replay.row_count == 2
    spool.close()


def test_a_spool_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"spool folder .*file.* choose another folder"):
        Spool(tmp_path / "file", RUN, 10**6)
