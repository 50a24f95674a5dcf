import json
from pathlib import Path
from typing import Any

import pytest

from load_test import config, messages, payloads, slo, targets
from load_test.errors import ConfigError
from load_test.runner import Load, resolved

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "deploy" / "ghz"
MINIMAL: dict[str, Any] = {
    "host": "127.0.0.1:1",
    "call": "a.B/C",
    "protoset": "x.protoset",
    "data": {},
    "rps": 10,
    "duration": "1s",
}


def parse(**changes: Any) -> config.LoadConfig:
    return config.parse({**MINIMAL, **{key.replace("_", "-"): value for key, value in changes.items()}}, "f")


def test_what_is_not_given_is_as_in_ghz() -> None:
    found = parse()
    assert (found.concurrency, found.connections, found.timeout_s, found.skip_first) == (50, 1, 20.0, 0)
    assert not found.count_errors


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("1m30s", 90), ("50ms", 0.05), ("1.5h", 5400), ("100us", 1e-4), ("7ns", 7e-9), ("0", 0)],
)
def test_durations_are_gos(text: str, seconds: float) -> None:
    assert config.duration_s(text, "f") == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["", "5", "5 s", "s", "-1s", "1s2", 5, None, "25h"])
def test_what_is_no_duration_is_refused_with_its_key(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^f: timeout: "):
        parse(timeout=value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rpss": 1}, "f: rpss is no key of ghz; did you mean rps"),
        ({"binary": True}, "f: binary is no key of ghz"),
        ({"proto": "x.proto"}, "f: proto is not supported by our generator: give a protoset"),
        ({"skipTLS": True}, "f: skipTLS is not supported by our generator: "),
        ({"stream-call-count": 2}, "f: stream-call-count is not supported by our generator: "),
        ({"concurrency-step": 2}, "f: concurrency-step is not supported by our generator: "),
        ({"rps": -1}, "f: rps: -1 is no whole number"),
        ({"rps": True}, "f: rps: True is no whole number"),
        ({"rps": "10"}, "f: rps: '10' is no whole number"),
        ({"concurrency": 0}, "f: concurrency: 0 is no whole number from 1"),
        ({"connections": 51}, "f: connections: 51 are more than concurrency 50"),
        ({"timeout": "0"}, "f: timeout: a call without a deadline"),
        ({"load-schedule": "sine"}, "f: load-schedule: 'sine' is none of const, step, line"),
        ({"load-schedule": "step"}, "f: load-start: "),
        ({"format": "summary"}, "f: format: must be"),
        ({"duration-stop": "close"}, "f: duration-stop: must be"),
        ({"concurrency-schedule": "line"}, "f: concurrency-schedule: must be"),
        ({"skipFirst": 10}, "f: skipFirst: all 10 calls would be left out"),
        ({"binary-file": "x"}, "f: give one of data, data-file and binary-file, not 2"),
        ({"host": ""}, "f: host: is missing"),
        ({"insecure": 1}, "f: insecure: 1 is neither true nor false"),
        ({"insecure": True, "cacert": "ca.pem"}, "f: insecure: plain text has no use"),
        ({"cert": "c.pem"}, "f: cert: give both cert and key"),
        ({"metadata": {"a": 1}}, "f: metadata: must be a table of texts"),
        ({"duration": "300h"}, "f: duration: 300h is longer than a day"),
    ],
)
def test_a_key_that_cannot_be_honoured_is_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(**changes)
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.yaml", "rps: 1", "give a .toml or .json file"),
        ("a.json", "{", "a.json: "),
        ("a.json", "[]", "holds no object"),
        ("a.toml", "rps = ", "a.toml: "),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=says):
        config.load(tmp_path / name)
    with pytest.raises(ConfigError, match="No such file"):
        config.load(tmp_path / "none.toml")


def test_every_shipped_config_can_be_run_with_every_schedule_and_has_limits() -> None:
    for target in targets.names(CONFIGS):
        document = config.read(targets.config_file(CONFIGS, target))
        for kind in ("const", "step", "line"):
            found = config.parse({**document, "load-schedule": kind}, target)
            assert found.schedule.call_count > 100
        assert targets.server_of(CONFIGS, target) in {"triton", "similarity", "strategy"}
        assert slo.load(ROOT / "deploy" / "slo.toml", target).max_p99_ms / 1e3 <= found.timeout_s
        assert document["count-errors"] is True


def test_every_model_that_triton_loads_has_a_config() -> None:
    models = {card.parent.name for card in (ROOT / "model_repository").glob("*/card.json")}
    assert models <= set(targets.names(CONFIGS))


def test_an_unknown_target_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"target 'nobody': give one of .*similarity"):
        targets.server_of(CONFIGS, "nobody")


def test_the_payloads_are_the_same_every_time_and_are_requests_of_the_shipped_calls(tmp_path: Path) -> None:
    first, again = tmp_path / "a", tmp_path / "b"
    written = payloads.write(first, ROOT / "model_repository")
    payloads.write(again, ROOT / "model_repository")
    for path in written:
        assert path.read_bytes() == (again / path.name).read_bytes()
    for target in targets.names(CONFIGS):
        document = config.read(targets.config_file(CONFIGS, target))
        for key in ("protoset", "binary-file"):
            if key in document:
                document[key] = str(first / Path(document[key]).name)
        found = config.parse(document, target)
        call = messages.Call(found)
        requests = call.payloads(found)
        assert call.path.rpartition("/")[0].strip("/") in document["call"]
        assert len(set(requests)) == len(requests)


def test_windows_are_bars_that_a_market_could_have_made() -> None:
    found = payloads.windows(50, 60, 3)
    opened, high, low, close, volume = (found[:, :, column] for column in range(5))
    assert found.shape == (50, 60, 5)
    assert (high >= opened).all()
    assert (high >= close).all()
    assert (low <= close).all()
    assert (low > 0).all()
    assert (volume > 0).all()
    assert len({window.tobytes() for window in found}) == 50


def test_a_model_that_takes_no_bars_is_refused_with_its_card() -> None:
    card = {"name": "m", "inputs": [{"name": "book", "datatype": "FP32", "shape": [-1, 40]}], "outputs": []}
    with pytest.raises(ConfigError, match=r"^cards/m: inputs: "):
        list(payloads.inferences(card, Path("cards/m"), 1))


def test_messages_survive_being_delimited() -> None:
    raw = [b"", b"a", b"b" * 127, b"c" * 128, b"d" * 70_000]
    assert messages.split(messages.delimited(raw)) == raw
    assert messages.split(b"\x05abc") is None
    assert messages.split(b"\xff" * 20) is None


@pytest.fixture
def similarity(tmp_path: Path) -> dict[str, Any]:
    payloads.write(tmp_path, ROOT / "model_repository")
    return {
        **MINIMAL,
        "call": "tradeserve.similarity.v1.SimilarityService.GetIndex",
        "protoset": str(tmp_path / "similarity.protoset"),
    }


def test_json_data_are_sent_in_turn_as_messages(similarity: dict[str, Any], tmp_path: Path) -> None:
    data = [{"index_name": "a"}, {"indexName": "b"}]
    (tmp_path / "data.json").write_text(json.dumps(data))
    inline = config.parse({**similarity, "data": data}, "f")
    del similarity["data"]
    filed = config.parse({**similarity, "data-file": str(tmp_path / "data.json")}, "f")
    for found in (inline, filed):
        assert messages.Call(found).payloads(found) == [b"\n\x01a", b"\n\x01b"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"call": "tradeserve.similarity.v1.SimilarityService/Nothing"}, "call: .* is not in"),
        (
            {"call": "tradeserve.similarity.v1.SimilarityService/StreamSearchNeighbors"},
            "call: .* is a stream",
        ),
        ({"protoset": "nowhere.protoset"}, "protoset: nowhere.protoset: No such file"),
        ({"data": {"index": 1}}, "data: not a tradeserve.similarity.v1.GetIndexRequest"),
        ({"data": "text"}, "data: give an object"),
        ({"data": []}, "data: give an object"),
        ({"data": {"index_name": "{{.RequestNumber}}"}}, "data: templates"),
    ],
)
def test_a_call_or_data_that_do_not_fit_are_named(
    similarity: dict[str, Any], changes: dict[str, Any], says: str
) -> None:
    found = config.parse({**similarity, **changes}, "f")
    with pytest.raises(ConfigError, match=says):
        messages.Call(found).payloads(found)


def test_a_binary_file_of_one_message_or_of_none_is_told_apart(
    similarity: dict[str, Any], tmp_path: Path
) -> None:
    del similarity["data"]
    path = tmp_path / "one.bin"
    found = config.parse({**similarity, "binary-file": str(path)}, "f")
    path.write_bytes(b"\n\x01a")
    assert messages.Call(found).payloads(found) == [b"\n\x01a"]
    path.write_bytes(b"\xff\xff\xff")
    with pytest.raises(ConfigError, match=r"^binary-file .*one.bin: neither delimited messages nor one"):
        messages.Call(found).payloads(found)


@pytest.mark.parametrize("rps", [1, 7, 500])
@pytest.mark.parametrize("kind", ["const", "step", "line"])
def test_a_rate_and_a_schedule_change_a_config_so_that_the_rate_is_its_highest(rps: int, kind: str) -> None:
    document = config.read(CONFIGS / "similarity.toml")
    found = config.parse(resolved(document, Load(rps, "20s", kind), "h:1"), "f").schedule
    assert found.kind == kind
    assert found.length_s == pytest.approx(20)
    assert found.peak_rate == pytest.approx(rps, abs=1)


def test_an_impossible_load_is_refused() -> None:
    document = config.read(CONFIGS / "similarity.toml")
    for load, says in (
        (Load(0), "rps 0"),
        (Load(schedule="sine"), "schedule 'sine'"),
        (Load(5, "x"), "duration"),
    ):
        with pytest.raises(ConfigError, match=says):
            resolved(document, load, "h:1")
