"""Who reads charts in a run, said in words; and the run does not wait for it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from fakes.fake_vision import FakeVision
from server_runtime.errors import StartError
from strategy import config
from strategy.calibration_file import write_calibration
from strategy.config import ConfigError
from strategy.core.calibration import Calibration
from strategy.vision import VisionPlan
from strategy.vision_setup import open_vision, recorded_plan

CALIBRATION = Calibration("ab" * 32, "cd" * 32, 300, (0.2, 0.9), (0.4, 0.6))


async def opened(**overrides: object) -> tuple[VisionPlan | None, list[str]]:
    said: list[str] = []
    async with AsyncExitStack() as stack:
        settings = config.load(None, {key.replace("__", "."): value for key, value in overrides.items()})
        return await open_vision(settings, None, stack, said.append), said


async def test_without_a_server_or_without_a_question_vision_is_off() -> None:
    assert await opened() == (None, ["vision: off"])
    assert (await opened(services__vision__target="127.0.0.1:1", vision__max_in_flight=0))[0] is None
    assert recorded_plan(None) == {}


async def test_who_reads_and_what_its_card_says_is_told() -> None:
    async with FakeVision() as server:
        plan, said = await opened(services__vision__target=server.address)
    assert plan is not None
    asked = f"vision: {server.address}, asked after each decision"
    assert said == [
        f"{asked}; may veto or shrink entries of the next 3 bars, nothing else",
        "      its confidences are not calibrated: they count as stated",
        "      chart_reader v3 abababababab: it reads every chart as a reason to buy",
    ]
    assert recorded_plan(plan) == {
        "vision_limits": {
            "lifetime_bars": 3,
            "min_trust": 0.6,
            "veto_weight": 0.6,
            "smallest_share": 0.25,
            "min_calibration_count": 300,
        },
        "vision_calibration": None,
    }


async def test_a_server_that_is_away_is_told_and_may_come_later() -> None:
    plan, said = await opened(services__vision__target="127.0.0.1:1")
    assert plan is not None
    assert said[-1] == "      does not answer now (down); trading goes on without it"


async def test_a_calibration_is_checked_and_told(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    digest = write_calibration(path, CALIBRATION, {"statement": "nothing was demonstrated"})
    files = {"services__vision__target": "127.0.0.1:1", "vision__calibration_file": str(path)}
    plan, said = await opened(**files, vision__calibration_sha256=digest)
    assert plan is not None
    assert plan.calibration == CALIBRATION
    assert said[1] == "      confidences of model abababababab calibrated on 300 outcomes"
    _, said = await opened(**files, vision__min_calibration_count=301)
    assert said[1] == "      its calibration has 300 of 301 outcomes: confidences count as stated"
    with pytest.raises(StartError, match=r"has sha256 .* vision.calibration_sha256 is 0000"):
        await opened(**files, vision__calibration_sha256="00" * 32)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lifetime_bars", 0),
        ("min_trust", 1.1),
        ("smallest_share", 0),
        ("calibration_sha256", "abc"),
        ("deadline_ms", 0),
    ],
)
def test_settings_out_of_range_are_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        config.load(None, {f"vision.{key}": value})
