from __future__ import annotations

import subprocess
import sys

import pytest

from tradeserve_cli.command_line import main, parser

COMMANDS = (
    "infer",
    "search",
    "chart",
    "detect",
    "read-chart",
    "status",
    "models list",
    "models deploy",
    "models shadow",
    "watch",
    "descriptors",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([*command.split(), "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: tradeserve {command}")
    assert f"example:\n  tradeserve {command}" in shown
    if command not in {"descriptors", "chart"}:  # these ask no server
        for option in ("--json", "--timeout-ms", "--config", "--tls-ca"):
            assert option in shown
        assert "exit status: 0" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["infre"], "invalid choice: 'infre'"),
        (["infer"], "the following arguments are required: MODEL"),
        (["infer", "m", "--timeout-ms", "0"], "--timeout-ms: '0' is not a number from 0.1 to 600000"),
        (["infer", "m", "--timeout-ms", "soon"], "'soon' is not a number"),
        (["infer", "m", "--version", "-1"], "--version"),
        (["search"], "one of the arguments --embedding --window --random is required"),
        (["search", "--random", "--count", "257"], "--count: '257' is not a whole number from 1 to 256"),
        (["watch", "--recent", "1001"], "'1001' is not a whole number from 0 to 1000"),
        (["read-chart", "a.png", "--symbol", "A", "--as-of", "noon"], "'noon' is no ISO-8601 time"),
        (["read-chart", "a.png", "--symbol", "A", "--as-of", "2025-03-12T14:30"], "has no zone"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(arguments)
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert words in shown.err
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["infer", "m"], "give the model's inputs as files, or --random"),
        (["infer", "m", "x.npy", "--random"], "one of the two"),
        (["infer", "m", "--random", "--save", "x.txt"], "give a name that ends in .npy or .npz"),
        (["infer", "m", "--random", "--triton", "nowhere"], "give host:port"),
        (["infer", "m", "--random", "--triton", "h:1", "--tls-key", "k.pem"], "both certificate and key"),
        (["descriptors", "/nowhere/x.binpb"], "can't be written: No such file"),
    ],
)
def test_a_mistake_that_only_the_command_sees_is_one_line_and_status_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err
    assert shown.err.count("\n") == 1


def test_the_command_loads_nothing_heavy() -> None:
    heavy = (
        "torch",
        "onnx",
        "onnxruntime",
        "faiss",
        "vllm",
        "pandas",
        "pyarrow",
        "asyncpg",
        "ib_insync",
        "journal",
    )
    code = f"import sys, tradeserve_cli.command_line; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a FILE and its --symbol, or --decision"),
        (["a.png"], "give a FILE and its --symbol, or --decision"),
        (["a.png", "--decision", "d"], "not both"),
        (
            ["--decision", "d", "--database-url", ""],
            "where is the journal? give --database-url, or set DATABASE_URL",
        ),
    ],
)
def test_a_chart_is_read_from_a_file_or_shown_from_the_journal(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["read-chart", *arguments]) == 2
    assert words in capsys.readouterr().err
