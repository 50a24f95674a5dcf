"""The onnxruntime backend inside a real tritonserver."""

import time
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

pytestmark = pytest.mark.xdist_group("triton")

X = np.array([[1, 2], [3, 4]], np.float32)
Y = np.array([[1.5, 1.5, 8], [3.5, 3.5, 18]], np.float32)
_BURSTS = 25
_BURST_SIZE = 5


def test_a_model_answers_with_the_numbers_of_its_graph(triton: Any) -> None:
    outputs = triton.infer("affine", {"x": X})
    np.testing.assert_allclose(outputs["y"], Y)
    np.testing.assert_allclose(outputs["total"], Y.sum(1, keepdims=True))


def test_types_other_than_float32_and_dynamic_shapes_arrive_intact(triton: Any) -> None:
    outputs = triton.infer("lookup", {"index": np.array([[2, 0, 1]])})
    assert outputs["row"].dtype == np.float16
    np.testing.assert_array_equal(outputs["row"], [[[20, 21], [0, 1], [10, 11]]])
    np.testing.assert_array_equal(outputs["is_first"], [[False, True, False]])


def test_only_the_requested_outputs_come_back(triton: Any) -> None:
    assert list(triton.infer("affine", {"x": X}, ["total"])) == ["total"]


def test_requests_that_arrive_together_are_computed_in_one_batch(triton: Any) -> None:
    def executions() -> int:
        statistics = triton.stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name="lookup"))
        return int(statistics.model_stats[0].execution_count)

    before = executions()
    calls = [triton.send("lookup", {"index": np.full((1, 1), row % 3)}) for row in range(16)]
    for row, call in enumerate(calls):
        answer = np.frombuffer(call.result().raw_output_contents[0], np.float16)
        np.testing.assert_array_equal(answer, [row % 3 * 10, row % 3 * 10 + 1])
    # The watchdog computes zeros meanwhile, at most a few times.
    assert executions() - before <= 8


def test_requests_with_different_outputs_share_a_batch_and_get_their_own(triton: Any) -> None:
    index = np.array([[1]])
    calls = [triton.send("lookup", {"index": index}, [name]) for name in ("row", "is_first", "row")]
    assert [[output.name for output in call.result().outputs] for call in calls] == [
        ["row"],
        ["is_first"],
        ["row"],
    ]


def test_a_request_that_fails_leaves_the_others_of_its_batch_fine(triton: Any) -> None:
    good = [triton.send("lookup", {"index": np.array([[row]])}) for row in range(3)]
    bad = triton.send("lookup", {"index": np.array([[99]])})
    good += [triton.send("lookup", {"index": np.array([[row]])}) for row in range(3)]
    with pytest.raises(grpc.RpcError, match=r"onnxruntime.*99"):
        bad.result()
    for row, call in enumerate(good):
        answer = np.frombuffer(call.result().raw_output_contents[0], np.float16)
        np.testing.assert_array_equal(answer, [row % 3 * 10, row % 3 * 10 + 1])


def test_a_request_cancelled_in_the_queue_is_not_computed(triton: Any) -> None:
    def failures() -> int:
        statistics = triton.stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name="lookup"))
        return int(statistics.model_stats[0].inference_stats.fail.count)

    before = failures()
    # A busy machine may be late: the queue holds the requests for 100 ms only.
    for _ in range(20):
        other, cancelled = (triton.send("lookup", {"index": np.array([[row]])}) for row in range(2))
        time.sleep(0.03)
        cancelled.cancel()
        assert other.result().outputs
        if failures() > before:
            return
    pytest.fail("Triton computed what nobody waits for")


def test_a_wrong_shape_is_refused_as_the_callers_mistake(triton: Any) -> None:
    good, bad = triton.send("affine", {"x": X}), triton.send("affine", {"x": np.zeros((1, 3), np.float32)})
    assert bad.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "unexpected shape" in bad.details()
    assert good.result().outputs


def test_a_burst_followed_by_silence_shows_no_stall_of_half_a_second(triton: Any) -> None:
    # Triton 2.51 with a queue policy stalls 15 to 40 of these 125 requests for 500 ms.
    stalled = 0
    for _ in range(_BURSTS):
        start = time.monotonic()
        calls = [triton.send("affine", {"x": X}) for _ in range(_BURST_SIZE)]
        for call in calls:
            call.result()
            stalled += time.monotonic() - start > 0.45
    assert stalled <= _BURST_SIZE  # one burst may meet a busy machine


def test_memory_of_the_stub_does_not_grow_with_requests(triton: Any) -> None:
    wide = np.zeros((16, 2), np.float32)

    def resident_kib() -> int:
        total = 0
        for pid in triton.stub_pids():
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
        return total

    for _ in range(200):
        triton.infer("affine", {"x": wide})
    before = resident_kib()
    for _ in range(1000):
        triton.infer("affine", {"x": wide})
    assert resident_kib() - before < 1000  # a capsule leaked per answer would be 2000 arrays and more


def test_the_ready_file_says_where_everything_is(triton: Any) -> None:
    assert triton.ready["pid"] == triton.process.pid
    assert triton.ready["models"] == [
        {"name": "affine", "version": "1"},
        {"name": "lookup", "version": "1"},
    ]
    with urllib.request.urlopen(f"http://{triton.ready['metrics']}/metrics", timeout=5) as answer:
        assert b'nv_inference_request_success{model="affine",version="1"}' in answer.read()
    with urllib.request.urlopen(f"http://{triton.ready['http']}/v2/health/ready", timeout=5) as answer:
        assert answer.status == 200
