from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tradeserve_cli.servers import Place, how_to_name, places, running_stack

MINE = os.getpid()


def run_folder(build: Path, name: str, addresses: Mapping[str, object]) -> Path:
    folder = build / "runs" / name
    folder.mkdir(parents=True)
    (folder / "addresses.json").write_text(json.dumps(addresses))
    return folder


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_an_option_beats_the_configuration_and_the_running_stack(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "1", {"pid": MINE, "triton": "stack:1", "similarity": "stack:2"})
    (folder / "strategy.ready.json").write_text(json.dumps({"pid": MINE, "address": "stack:3"}))
    environment = {"TRADESERVE_BUILD_DIR": str(tmp_path)}
    options = {"triton": "option:1", "similarity": "", "strategy": "", "vision": ""}
    configured = {"triton": "file:1", "similarity": "file:2", "strategy": "", "vision": "file:4"}
    found = places(options, configured=configured, environment=environment)
    assert {server: (place.target, place.source) for server, place in found.items()} == {
        "triton": ("option:1", "--triton"),
        "similarity": ("file:2", "the configuration"),
        "strategy": ("stack:3", "the running stack"),
        "vision": ("file:4", "the configuration"),
    }


def test_a_server_that_nobody_names_has_no_target(tmp_path: Path) -> None:
    found = places({}, configured={}, environment={"TRADESERVE_BUILD_DIR": str(tmp_path)})
    assert not any(place.target for place in found.values())
    assert "TRADESERVE_CLIENT__TRITON__TARGET" in how_to_name("triton")
    assert "make venv-vllm" in how_to_name("vision")  # not every local stack has one


def test_the_newest_stack_that_still_runs_is_found(tmp_path: Path) -> None:
    run_folder(tmp_path, "20260101T000000Z-1", {"pid": MINE, "triton": "old:1"})
    run_folder(tmp_path, "20260102T000000Z-2", {"pid": MINE, "triton": "new:1", "similarity": ""})
    run_folder(tmp_path, "20260103T000000Z-3", {"pid": dead_pid(), "triton": "dead:1"})
    assert running_stack(tmp_path) == {"triton": "new:1"}


def test_what_a_stack_left_half_written_or_wrong_is_no_stack(tmp_path: Path) -> None:
    for name, content in {"1": "{", "2": "[]", "3": "{}", "4": '{"pid": "x"}', "5": '{"pid": null}'}.items():
        (run_folder(tmp_path, name, {}) / "addresses.json").write_text(content)
    assert running_stack(tmp_path) == {}


def test_a_strategy_that_ended_is_not_offered(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "1", {"pid": MINE, "triton": "here:1"})
    (folder / "strategy.ready.json").write_text(json.dumps({"pid": dead_pid(), "address": "gone:1"}))
    assert running_stack(tmp_path) == {"triton": "here:1"}


def test_replicas_are_separated_by_commas() -> None:
    place = Place("triton", "a:1, b:2", "--triton")
    assert [replica.target for replica in place.replicas] == ["a:1", "b:2"]
