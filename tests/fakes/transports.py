"""The transports of the SDK and of our servers: a test that asks for one runs over both."""

from __future__ import annotations

import pytest

from server_runtime import server
from tradeserve_client.channel import Transport


@pytest.fixture(params=list(Transport))
def transport(request: pytest.FixtureRequest) -> Transport:
    return Transport(request.param)


@pytest.fixture(params=list(server.Transport))
def server_transport(request: pytest.FixtureRequest) -> server.Transport:
    return server.Transport(request.param)
