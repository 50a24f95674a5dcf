from __future__ import annotations

import asyncio
import logging

import pytest

from strategy.adapters.errors import BrokerError
from strategy.adapters.ibkr_library import ENVIRONMENT_VARIABLE, load


async def test_a_library_that_is_none_of_the_two_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "ibapi")
    with pytest.raises(BrokerError, match="IBKR_LIBRARY=ibapi: use one of ib_insync, ib_async"):
        load()


async def test_the_running_loop_becomes_the_threads_loop() -> None:
    load()
    assert asyncio.get_event_loop_policy().get_event_loop() is asyncio.get_running_loop()


async def test_the_decoders_log_lines_hide_account_numbers(caplog: pytest.LogCaptureFixture) -> None:
    library = load()
    logging.getLogger(f"{library.name}.Decoder").error(
        "Error handling fields: %s", ["61", "DU1234567", "AAPL"]
    )
    assert "DU1234567" not in caplog.text
    assert "(account)" in caplog.text
    assert "AAPL" in caplog.text
