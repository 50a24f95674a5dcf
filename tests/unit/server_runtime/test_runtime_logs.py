import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from server_runtime import logs


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_its_service_and_level() -> None:
    stream = io.StringIO()
    logs.configure("similarity", json=True, stream=stream)
    structlog.get_logger().info("index loaded", states=12)
    (line,) = lines_of(stream)
    assert line["event"] == "index loaded"
    assert line["service"] == "similarity"
    assert line["level"] == "info"
    assert line["states"] == 12
    assert line["timestamp"].endswith("Z")


def test_text_lines_are_key_value_pairs_without_colours_off_a_terminal() -> None:
    stream = io.StringIO()
    logs.configure("similarity", json=False, stream=stream)
    structlog.get_logger().warning("slow", request_id="r-1")
    assert "request_id=r-1" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("postgresql://trader:hunter2@db:5432/trade", "hunter2"),
        ("postgresql://trader:p@ss/word@db/trade", "ss/word"),
        ("postgres://:hunter2@db/trade", "hunter2"),
        ("host=db user=x password=hunter2 dbname=t", "hunter2"),
        ("host=db password='hunter two' dbname=t", "hunter two"),
        ("postgresql://db/trade?user=x&password=hunter2&sslmode=require", "hunter2"),
        ("PGPASSWORD=hunter2 psql", "hunter2"),
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_a_password_in_a_dsn_never_reaches_a_line(text: str, secret: str, as_json: bool) -> None:
    stream = io.StringIO()
    logs.configure("x", json=as_json, stream=stream)
    log = structlog.get_logger()
    log.info(f"connect to {text}", dsn=text, nested={"dsns": [text]}, error=ValueError(text))
    try:
        raise ConnectionError(text)
    except ConnectionError:
        log.exception("failed")
    logging.getLogger("asyncpg").error("cannot connect to %s", text)
    assert secret not in stream.getvalue()
    assert "***" in stream.getvalue()
    assert "ConnectionError" in stream.getvalue()


def test_values_under_secret_keys_and_account_numbers_are_masked() -> None:
    stream = io.StringIO()
    logs.configure("x", json=True, stream=stream)
    structlog.get_logger().info("up", api_key="abc", account="DU1234567", decision_count=3, port=8101)
    (line,) = lines_of(stream)
    assert line["api_key"] == "***"
    assert line["account"] == "DU***67"
    assert line["decision_count"] == 3
    assert line["port"] == 8101


def test_an_address_without_a_password_stays_readable() -> None:
    assert logs.redact("http://localhost:8101/path and postgresql://db:5432/trade") == (
        "http://localhost:8101/path and postgresql://db:5432/trade"
    )


def test_libraries_that_use_the_standard_library_share_the_stream_and_the_form() -> None:
    stream = io.StringIO()
    logs.configure("x", json=True, stream=stream)
    logging.getLogger("some.library").warning("disconnected %d", 7)
    (line,) = lines_of(stream)
    assert line["event"] == "disconnected 7"
    assert line["logger"] == "some.library"
    assert line["service"] == "x"


def test_configuring_again_replaces_the_stream_for_loggers_made_before() -> None:
    first, second = io.StringIO(), io.StringIO()
    log = structlog.get_logger()
    logs.configure("x", json=True, stream=first)
    log.info("one")
    logs.configure("y", json=True, stream=second)
    log.info("two")
    logging.getLogger("lib").info("three")
    assert [line["event"] for line in lines_of(first)] == ["one"]
    assert [line["event"] for line in lines_of(second)] == ["two", "three"]


def test_levels_below_the_chosen_one_are_not_shown() -> None:
    stream = io.StringIO()
    logs.configure("x", json=True, level="warning", stream=stream)
    structlog.get_logger().info("hidden")
    logging.getLogger("lib").info("hidden")
    structlog.get_logger().error("shown")
    assert [line["event"] for line in lines_of(stream)] == ["shown"]


def test_an_unknown_level_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'loud' is unknown: use debug, info"):
        logs.configure("x", json=True, level="loud")
