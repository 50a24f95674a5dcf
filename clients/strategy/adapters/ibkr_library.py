"""The client library of the TWS socket API: ib_insync, or ib_async, its maintained successor.

This is the only module that imports either. Both run unmodified, and the adapter uses the same layer of
both: their `Client` (socket, handshake, encoding of requests) and their decoder, with a wrapper of our own
(`ibkr_session`) in place of their `IB` class. Their state layer is where they differ from each other and
from the gateway: it marks live orders as cancelled on informational errors, keeps dead objects over a
reconnect, throttles orders behind subscriptions and mends depth updates each in its own way.

Source: ib_insync API docs, "Client": a drop-in replacement for ibapi's EClient.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from strategy.adapters.errors import BrokerError

LIBRARIES = ("ib_insync", "ib_async")
ENVIRONMENT_VARIABLE = "IBKR_LIBRARY"

_ACCOUNT_NUMBER = re.compile(r"\b[A-Z]{1,3}\d{4,}\b")


@dataclass(frozen=True, slots=True)
class Library:
    """What the adapter uses of the client library; all of it is untyped there.

    Attributes:
        name: "ib_insync" or "ib_async".
        version: Its version.
        client: Class of the socket client; called with a wrapper.
        contract: Dataclass of a contract.
        order: Dataclass of an order.
        execution_filter: Dataclass of the filter for executions.
    """

    name: str
    version: str
    client: Callable[[Any], Any]
    contract: Callable[..., Any]
    order: Callable[..., Any]
    execution_filter: Callable[..., Any]


def load() -> Library:
    """Import the library named by IBKR_LIBRARY, or whichever of the two is installed.

    Call it on the running loop: both libraries look for the thread's loop, ib_insync already when it is
    imported. Making the running loop the thread's one is all they need; nothing is patched, so that
    `asyncio.run`, `asyncio.Runner(loop_factory=…)` and `uvloop.run` work alike.

    Raises:
        BrokerError: None is installed, or the variable names something else.
    """
    asyncio.set_event_loop(asyncio.get_running_loop())
    return _import(os.environ.get(ENVIRONMENT_VARIABLE, ""))


@cache
def _import(wanted: str) -> Library:
    if wanted and wanted not in LIBRARIES:
        raise BrokerError(f"{ENVIRONMENT_VARIABLE}={wanted}: use one of {', '.join(LIBRARIES)}, or unset it")
    module = _first_of((wanted,) if wanted else LIBRARIES)
    _tame_logs(module.__name__)
    return Library(
        name=module.__name__,
        version=str(module.__version__),
        client=module.Client,
        contract=module.Contract,
        order=module.Order,
        execution_filter=module.ExecutionFilter,
    )


def _first_of(names: tuple[str, ...]) -> ModuleType:
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as e:
            if e.name != name:
                raise
    raise BrokerError(f"none of {', '.join(names)} is installed: pip install ib_insync")


def _tame_logs(name: str) -> None:
    # The client's own lines repeat what the adapter reports; the decoder's quote whole messages.
    logging.getLogger(f"{name}.client").setLevel(logging.CRITICAL + 1)
    logging.getLogger(f"{name}.Decoder").addFilter(_redact_accounts)


def _redact_accounts(record: logging.LogRecord) -> bool:
    record.msg = _ACCOUNT_NUMBER.sub("(account)", record.getMessage())
    record.args = ()
    return True
