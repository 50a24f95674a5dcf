"""Frames of the TWS protocol, byte for byte, at every version that changed a layout.

ib_insync (up to 176) and ib_async (178) decoded each of these layouts when they were written down.
After an intended change: TRADESERVE_WRITE_GOLDEN=1 pytest tests/golden/test_tws_frames.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gateway_simulator import messages
from gateway_simulator.contracts import list_instruments, trading_hours
from gateway_simulator.generated import generate
from gateway_simulator.orders import Execution, Order

GOLDEN = Path(__file__).with_name("tws_frames.json")
VERSIONS = (157, 164, 166, 170, 176, 177, 178)

ORDER = Order(
    client_id=7,
    order_id=12,
    perm_id=900_001,
    con_id=0,
    action="BUY",
    quantity=100.0,
    order_type="LMT",
    limit_price=117.78,
    stop_price=0.0,
    tif="DAY",
    oca_group="",
    oca_type=0,
    order_ref="ts/0123/E",
    transmit=True,
    parent_id=0,
    outside_rth=False,
    exchange="SMART",
    status="Submitted",
    filled=40.0,
    filled_value=4711.2,
    last_price=117.78,
)
EXECUTION = Execution(
    exec_id="0000e0d5.00000001.01.01",
    client_id=7,
    order_id=12,
    perm_id=900_001,
    con_id=0,
    time_ns=1_741_786_205_000_000_000,
    action="BUY",
    shares=40.0,
    price=117.78,
    cumulative=40.0,
    average_price=117.78,
    order_ref="ts/0123/E",
    exchange="ISLAND",
    commission=1.0,
    realized_pnl=None,
)


def frames(version: int) -> dict[str, str]:
    session = generate(("ALFA",))
    listing = next(iter(list_instruments(session).values()))
    hours = (trading_hours(session, liquid=False), trading_hours(session, liquid=True))
    made = {
        "error": messages.error(version, 12, 201, "Order rejected"),
        "contractDetails": messages.contract_details(version, 3, listing, session, hours),
        "openOrder": messages.open_order(version, ORDER, listing, "DU1"),
        "orderStatus": messages.order_status(ORDER),
        "completedOrder": messages.completed_order(version, ORDER, listing, "DU1", EXECUTION.time_ns),
        "execDetails": messages.execution_details(version, -1, EXECUTION, listing, "DU1"),
        "commissionReport": messages.commission_report(EXECUTION, "USD"),
        "position": messages.position(listing, "DU1", 40.0, 117.805),
        "symbolSamples": messages.symbol_samples(version, 4, [listing]),
        "historicalData": messages.historical_data(
            5, ("a", "b"), [["20250312", "1", "2", "0.5", "1.5", "9", "1", 1]]
        ),
        "historicalDataUpdate": messages.historical_update(
            5, ["20250312", "1", "2", "0.5", "1.5", "9", "1", 1]
        ),
    }
    return {name: frame[:4].hex() + frame[4:].decode().replace("\0", "|") for name, frame in made.items()}


@pytest.mark.parametrize("version", VERSIONS)
def test_frames_are_what_the_client_libraries_decode(version: int) -> None:
    if os.environ.get("TRADESERVE_WRITE_GOLDEN"):
        known = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
        known[str(version)] = frames(version)
        GOLDEN.write_text(json.dumps(known, indent=1) + "\n")
    assert frames(version) == json.loads(GOLDEN.read_text())[str(version)]


@pytest.mark.parametrize(("version", "count"), [(164, 131), (173, 136), (176, 136)])
def test_an_open_order_has_the_number_of_fields_the_protocol_says(version: int, count: int) -> None:
    listing = next(iter(list_instruments(generate(("ALFA",))).values()))
    body = messages.open_order(version, ORDER, listing, "DU1")[4:]
    assert body.count(b"\0") == count
