"""The two transports of the SDK: a test that asks for `transport` runs over both."""

from __future__ import annotations

import pytest

from tradeserve_client.channel import Transport


@pytest.fixture(params=list(Transport))
def transport(request: pytest.FixtureRequest) -> Transport:
    return Transport(request.param)
