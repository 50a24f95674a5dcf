"""The benchmark works at all; what it measures is looked at by people."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from triton_server.launcher import unavailable_reason

ROOT = Path(__file__).resolve().parents[2]
NAMES = {
    "chart_480_ms",
    "chart_vs_mplfinance",
    "decision_p50_ms",
    "decision_p99_ms",
    "decision_vs_in_process_p50",
    "fan_out_vs_in_process_p50",
    "forecast_vs_in_process_p50",
    "gc_longest_pause_ms",
    "late_answers_used",
    "model_call_vs_in_process_p50",
    "order_vs_in_process_p50",
    "sdk_vs_raw_stub_p50",
    "similarity_adds_p99_ratio",
    "similarity_overload_admitted_in_time",
    "similarity_overload_admitted_p99_ms",
    "similarity_overload_goodput",
    "similarity_overload_recovery_ms",
    "similarity_overload_refusal_p50_ms",
    "similarity_overload_refusal_p99_ms",
    "similarity_recall_at_10",
    "similarity_rss_gb",
    "similarity_start_ms",
    "similarity_stream_overload_admitted_in_time",
    "similarity_stream_overload_admitted_p99_ms",
    "similarity_stream_overload_goodput",
    "similarity_stream_overload_recovery_ms",
    "similarity_stream_overload_refusal_p50_ms",
    "similarity_stream_overload_refusal_p99_ms",
    "similarity_stream_vs_in_process_p50",
    "stac_lstm_a_p99_ms",
    "stac_lstm_a_vs_in_process_p50",
    "stac_lstm_b_p99_ms",
    "stac_lstm_b_vs_in_process_p50",
    "stage_window_share",
    "stage_forecasts_share",
    "stage_decide_share",
    "stage_intent_share",
    "stage_order_share",
    "strategy_overload_admitted_in_time",
    "strategy_overload_admitted_p99_ms",
    "strategy_overload_goodput",
    "strategy_overload_recovery_ms",
    "strategy_overload_refusal_p50_ms",
    "strategy_overload_refusal_p99_ms",
    "triton_64_vs_in_process_throughput",
    "triton_shed_admitted_p99_ms",
    "triton_shed_goodput",
    "triton_shed_in_time",
    "triton_shed_recovery_ms",
    "triton_shed_refusal_p50_ms",
    "triton_shed_refusal_p99_ms",
    "triton_vs_in_process_p50",
}


def why_not() -> str:
    if not (ROOT / "build" / "venv-triton").is_dir():
        return "Triton's environment is not built: make setup"
    return unavailable_reason() or ""


@pytest.mark.slow
@pytest.mark.xdist_group("stack")
@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_a_tiny_benchmark_writes_every_figure_as_json(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    command = [
        sys.executable,
        "tests/bench/run.py",
        "--smoke",
        "--out",
        str(out),
        "--folder",
        str(tmp_path / "b"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found.keys() == NAMES, done.stdout
    for name, figure in found.items():
        assert figure.keys() == {"value", "unit", "detail"}, name
        assert math.isfinite(figure["value"]), name
        # No late answer used, and no collection on the path of a decision, are what is wanted.
        # An overload of a moment may have nothing refused, or nothing in time.
        may_be_zero = (
            name in {"gc_longest_pause_ms", "late_answers_used"} or "_overload_" in name or "_shed_" in name
        )
        least = 0 if may_be_zero else 1e-9
        assert figure["value"] >= least, name
        assert figure["unit"] in {"ms", "ratio", "share", "count", "GB"}, name
    shares = [figure["value"] for name, figure in found.items() if name.startswith("stage_")]
    assert sum(shares) == pytest.approx(1.0, abs=1e-5)  # each is rounded to six places
    assert found["decision_p50_ms"]["detail"]["machine"]["cores"] > 0
    assert all(name in done.stdout for name in NAMES), "the table names every figure"
