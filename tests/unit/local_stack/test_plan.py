from __future__ import annotations

import itertools
import platform
from pathlib import Path

import pytest

from local_stack import plan
from local_stack.__main__ import _parser
from local_stack.plan import Options
from local_stack.process import Service, StackError

ADDRESSES = {"gateway": "127.0.0.1:4002", "triton": "127.0.0.1:8001", "similarity": "127.0.0.1:8101"}
SESSION = {"source": "generated", "symbols": ["ALFA"], "bar_size_s": 300, "end_ns": 7, "seed": 3}


def settings(command: list[str]) -> dict[str, str]:
    pairs = [word.partition("=") for flag, word in itertools.pairwise(command) if flag == "--set"]
    return {key: value for key, _, value in pairs}


def test_where_triton_cannot_run_every_switch_that_helps_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(StackError) as failed:
        plan.triton(Options(), tmp_path)
    for part in ("aarch64", "TRITON=", "SIMILARITY=", "GATEWAY=", "DATABASE_URL="):
        assert part in str(failed.value)


def test_the_strategy_trades_the_session_that_the_simulator_replays(tmp_path: Path):
    command = plan.strategy(Options(), ADDRESSES, SESSION, tmp_path)
    given = settings(command)
    assert given["strategy.symbols"] == "ALFA"
    assert given["strategy.bar_size_s"] == "300"
    assert given["gateway.port"] == "4002"
    assert given["services.triton.target"] == "127.0.0.1:8001"
    assert command[command.index("--until-ns") + 1] == "7"
    assert command[command.index("--seed") + 1] == "3"


def test_servers_elsewhere_may_be_several(capsys: pytest.CaptureFixture[str]):
    arguments = _parser().parse_args(["--triton", "gpu1:8001, gpu2:8001", "--similarity", "faiss:8101"])
    assert (arguments.triton, arguments.similarity) == ("gpu1:8001,gpu2:8001", "faiss:8101")
    with pytest.raises(SystemExit):
        _parser().parse_args(["--triton", "gpu1:8001,gpu2"])
    assert "'gpu2' is not host:port" in capsys.readouterr().err


def test_a_build_folder_of_its_own_takes_spool_kill_switch_and_database_along(tmp_path: Path):
    command = plan.strategy(Options(build_dir=tmp_path), ADDRESSES, SESSION, tmp_path)
    assert f"--data-dir {tmp_path}/postgres " in command[command.index("--look") + 1]
    given = settings(command)
    assert given["journal.spool_dir"] == str(tmp_path / "spool")
    assert given["control.kill_file"] == str(tmp_path / "KILL")
    assert "journal.spool_dir" not in settings(plan.strategy(Options(), ADDRESSES, SESSION, tmp_path))


def test_what_the_user_sets_comes_last_and_wins(tmp_path: Path):
    options = Options(strategy_arguments=("--set=gateway.port=1",))
    assert plan.strategy(options, ADDRESSES, SESSION, tmp_path)[-1] == "--set=gateway.port=1"


def test_the_password_of_the_database_is_not_on_the_command_line(tmp_path: Path):
    url = "postgresql://me:secret@there/db"
    command = plan.strategy(Options(database_url=url), ADDRESSES, SESSION, tmp_path)
    assert "secret" not in " ".join(command)
    assert plan.strategy_environment(url)["DATABASE_URL"] == url


@pytest.mark.parametrize(
    ("service", "flag"),
    [(plan.triton, "--grpc-port"), (plan.gateway, "--port"), (plan.postgres, "--port")],
)
def test_a_restarted_server_asks_for_the_port_it_had(service, flag: str, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("local_stack.plan.unavailable_reason", lambda: None)
    one: Service = service(Options(), tmp_path)
    assert one.restart_command is not None
    again = list(one.restart_command({"address": "127.0.0.1:4321"}))
    assert again[again.index(flag) + 1] == "4321"
    assert one.command[one.command.index(flag) + 1] == "0"


def test_a_server_that_failed_is_quoted_with_its_last_error(tmp_path: Path):
    one = Service("gateway", ["gateway"], tmp_path)
    assert one.last_words() == "it wrote nothing"
    one.log_file.write_text("2026 [info] begin\nerror: bars.csv: row 3: no\n2026 [info] bye\n")
    assert one.last_words() == "bars.csv: row 3: no"
    one.log_file.write_text("usage: python -m x\npython -m x: error: unrecognized arguments: --y\n")
    assert one.last_words() == "unrecognized arguments: --y"
    one.log_file.write_text("Traceback\nValueError: no\n")
    assert one.last_words() == "Traceback | ValueError: no"


def test_vision_is_on_where_it_is_installed_or_asked_for_and_keeps_its_port(tmp_path: Path):
    venv = tmp_path / "venv-vllm"
    assert not plan.starts_vision(Options(build_dir=tmp_path))
    assert plan.starts_vision(Options(build_dir=tmp_path, vision="on"))
    with pytest.raises(StackError, match="make venv-vllm"):
        plan.vision(Options(build_dir=tmp_path, vision="on"), tmp_path)
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").touch()
    (venv / ".installed").touch()
    assert plan.starts_vision(Options(build_dir=tmp_path))
    for elsewhere in ("off", "gpu1:8201"):
        assert not plan.starts_vision(Options(build_dir=tmp_path, vision=elsewhere))
    one = plan.vision(Options(build_dir=tmp_path), tmp_path)
    assert one.restart_command is not None
    assert one.restart_command({}) == one.command
    assert one.address.rpartition(":")[2] == one.command[one.command.index("--port") + 1]
    given = settings(plan.strategy(Options(), {**ADDRESSES, "vision": one.address}, SESSION, tmp_path))
    assert given["services.vision.target"] == one.address
    assert "services.vision.target" not in settings(plan.strategy(Options(), ADDRESSES, SESSION, tmp_path))
